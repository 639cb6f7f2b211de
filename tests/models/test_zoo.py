from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from models.calibration import Calibration
from models.card import ModelCard
from models.codecs import needs_calibration, parse_profile
from models.identity import bytes_digest
from models.runtime import load_submodel
from models.zoo import DEFAULT_MODEL, Zoo
from splitrtc_errors import BadArgument, ModelFileError, UnknownModel

BUNDLED = Path(__file__).parents[2] / "models" / "zoo"


@pytest.fixture
def card() -> ModelCard:
    return Zoo().get()


def put(directory: Path, card: ModelCard, **members: object) -> Path:
    """Write a changed copy of a card into a new folder."""
    directory.mkdir(parents=True)
    (directory / "card.json").write_text(json.dumps({**card.to_json(), **members}), encoding="utf-8")
    return directory


def test_the_default_model_is_found_by_name_and_by_digest(card: ModelCard) -> None:
    zoo = Zoo()
    assert DEFAULT_MODEL in zoo.names()
    assert card.name == DEFAULT_MODEL
    assert zoo.by_digest(card.digest) == card


def test_unknown_models_are_refused_with_what_there_is() -> None:
    with pytest.raises(UnknownModel, match=f"no model 'yolo' in the zoo; it has: .*{DEFAULT_MODEL}"):
        Zoo().get("yolo")
    with pytest.raises(UnknownModel, match="no model with digest 'sha-256:00'"):
        Zoo().by_digest("sha-256:00")


CARDS = sorted(BUNDLED.glob("*/card*.json"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_bundled_card_is_true(path: Path) -> None:
    card = ModelCard.load(path)
    assert card.name == path.parent.name
    for profile in card.profiles:
        assert card.partitions or not needs_calibration(parse_profile(profile))
    for partition in card.partitions:
        calibration = card.calibration_path(partition)
        assert calibration is not None
        assert Calibration.load(calibration).partition == card.partition_id(partition)
    if card.path.exists():
        assert card.verified_path().stat().st_size == card.size
        assert {"LICENSE", "PROVENANCE.md"} <= {path.name for path in path.parent.iterdir()}
        assert card.digest.removeprefix("sha-256:") in (path.parent / "PROVENANCE.md").read_text(encoding="utf-8")
        model = load_submodel(card.path, "cpu")
        assert (model.inputs, model.outputs) == (card.inputs, card.outputs)


def test_the_zoo_has_all_cards_and_bundles_one_model() -> None:
    assert sorted({path.parent.name for path in CARDS}) == Zoo().names()
    assert [name for name in Zoo().names() if Zoo().get(name).is_here] == [DEFAULT_MODEL]


def test_the_classes_are_cocos_eighty() -> None:
    eighty = tuple(label for label in Zoo().get().labels if label != "?")
    assert len(eighty) == 80
    assert all(ModelCard.load(path).labels == eighty for path in CARDS if path.parent.name != DEFAULT_MODEL)


def test_of_several_files_of_one_model_the_one_that_is_here_is_taken(tmp_path: Path, card: ModelCard) -> None:
    folder = put(tmp_path / "twofold", card, name="twofold", digest="sha-256:" + "1" * 64)
    content = b"another export"
    other = {"name": "twofold", "digest": bytes_digest(content), "size": len(content), "file": "other.onnx"}
    (folder / "card.other.json").write_text(json.dumps({**card.to_json(), **other}), encoding="utf-8")
    assert Zoo([folder]).get("twofold").digest == "sha-256:" + "1" * 64
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "any name.onnx").write_bytes(content)
    found = Zoo([folder, tmp_path / "files"]).get("twofold")
    assert found.digest == bytes_digest(content)
    assert found.verified_path() == tmp_path / "files" / "any name.onnx"
    assert Zoo([folder]).by_digest(found.digest) == found


def test_a_file_in_a_further_folder_is_known_by_its_content_alone(tmp_path: Path, card: ModelCard) -> None:
    content = b"a model"
    folder = put(tmp_path / "mine", card, name="mine", digest=bytes_digest(content), size=len(content))
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.onnx").write_bytes(b"a mouse")  # of the same size
    (files / "b.onnx").write_bytes(b"a model, and more")
    with pytest.raises(ModelFileError, match=r"a\.onnx is not the file of model mine"):
        Zoo([folder, files]).get("mine").verified_path()
    (files / "c.onnx").write_bytes(content)
    assert Zoo([folder, files]).get("mine").verified_path() == files / "c.onnx"


def test_labels_are_at_coco_category_less_one(card: ModelCard) -> None:
    # Some of the published category ids, on both sides of each gap.
    ids = {1: "person", 11: "fire hydrant", 13: "stop sign", 25: "giraffe", 27: "backpack", 28: "umbrella"}
    ids |= {31: "handbag", 44: "bottle", 46: "wine glass", 65: "bed", 67: "dining table", 70: "toilet", 72: "tv"}
    ids |= {82: "refrigerator", 84: "book", 90: "toothbrush"}
    assert {category: card.labels[category - 1] for category in ids} == ids
    gaps = [category for category, label in enumerate(card.labels, 1) if label == "?"]
    assert gaps == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert len(card.labels) == 90


def test_a_folder_of_models_and_a_models_own_folder_are_both_taken(tmp_path: Path, card: ModelCard) -> None:
    put(tmp_path / "many" / "one", card, name="one", digest="sha-256:" + "1" * 64)
    put(tmp_path / "many" / "two", card, name="two", digest="sha-256:" + "2" * 64)
    three = put(tmp_path / "three", card, name="three", digest="sha-256:" + "3" * 64)
    zoo = Zoo([tmp_path / "many", three])
    assert zoo.names() == sorted([*Zoo().names(), "one", "three", "two"])
    assert zoo.get("three").directory == three


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match=f"no model in {tmp_path}"):
        Zoo([tmp_path])
    with pytest.raises(BadArgument, match="no model in"):
        Zoo([tmp_path / "nowhere"])


def test_a_broken_card_is_refused(tmp_path: Path, card: ModelCard) -> None:
    with pytest.raises(ModelFileError, match=str(tmp_path)):
        Zoo([put(tmp_path / "broken", card, size=-1)])


@pytest.mark.parametrize("members", [{"name": "other"}, {"digest": "sha-256:" + "1" * 64}])
def test_two_models_of_one_name_or_digest_are_refused(
    tmp_path: Path, card: ModelCard, members: dict[str, object]
) -> None:
    with pytest.raises(ModelFileError, match="has the name or the digest"):
        Zoo([put(tmp_path / "twin", card, **members)])


def test_a_damaged_model_file_is_found_out(tmp_path: Path, card: ModelCard) -> None:
    folder = put(tmp_path / "mine", card, name="mine", digest="sha-256:" + "1" * 64)
    shutil.copy(card.path, folder)
    with pytest.raises(ModelFileError, match="fetch it again"):
        Zoo([folder]).get("mine").verified_path()


def test_without_the_bundled_models_a_zoo_may_be_empty(tmp_path: Path, tiny_model: Path) -> None:
    assert Zoo(bundled=False).names() == []
    assert Zoo((tiny_model,), bundled=False).names() == ["tiny"]
    with pytest.raises(UnknownModel, match="it has: none"):
        Zoo(bundled=False).get("tiny")


def test_what_is_no_good_is_told_and_left_out(tmp_path: Path, tiny_model: Path) -> None:
    told: list[tuple[Path, str]] = []
    twin, broken = tmp_path / "more" / "twin", tmp_path / "more" / "broken"
    for folder, text in ((twin, (tiny_model / "card.json").read_text(encoding="utf-8")), (broken, "{")):
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(text, encoding="utf-8")
    folders = (tiny_model, tmp_path / "more", tmp_path / "nothing here")
    zoo = Zoo(folders, bundled=False, bad=lambda path, error: told.append((path, str(error))))
    assert zoo.names() == ["tiny"]
    assert zoo.get("tiny").directory == tiny_model
    assert sorted(path for path, _ in told) == [broken / "card.json", twin / "card.json"]
