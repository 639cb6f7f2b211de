from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from models.card import ModelCard
from models.codecs import parse_profile
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
    assert zoo.names() == [DEFAULT_MODEL]
    assert card.name == DEFAULT_MODEL
    assert zoo.by_digest(card.digest) == card


def test_unknown_models_are_refused_with_what_there_is() -> None:
    with pytest.raises(UnknownModel, match=f"no model 'yolo' in the zoo; it has: {DEFAULT_MODEL}"):
        Zoo().get("yolo")
    with pytest.raises(UnknownModel, match="no model with digest 'sha-256:00'"):
        Zoo().by_digest("sha-256:00")


def test_every_bundled_card_is_true() -> None:
    folders = [path.parent for path in BUNDLED.glob("*/card.json")]
    assert len(folders) == len(Zoo().names())
    for folder in folders:
        card = ModelCard.load(folder / "card.json")
        assert card.name == folder.name
        assert card.verified_path().stat().st_size == card.size
        assert {"LICENSE", "PROVENANCE.md"} <= {path.name for path in folder.iterdir()}
        assert card.digest.removeprefix("sha-256:") in (folder / "PROVENANCE.md").read_text(encoding="utf-8")
        model = load_submodel(card.path, "cpu")
        assert (model.inputs, model.outputs) == (card.inputs, card.outputs)
        for profile in card.profiles:
            assert parse_profile(profile).name
        for partition in card.partitions:
            calibration = card.calibration_path(partition)
            assert calibration is not None
            assert calibration.is_file()


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
    assert zoo.names() == ["one", DEFAULT_MODEL, "three", "two"]
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
