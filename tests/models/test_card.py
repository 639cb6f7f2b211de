from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.card import MAX_CARD_BYTES, MAX_LABELS, ModelCard, PartitionCard
from models.identity import bytes_digest
from models.tensor import ITEM_SIZES, MAX_RANK, MAX_SIZE, MAX_TENSOR_NAME, TensorSpec
from splitrtc_errors import BadArgument, ModelFileError, TensorError, UnknownModel

CARD: dict[str, Any] = {
    "format": 1,
    "name": "tiny",
    "title": "A tiny detector",
    "task": "detection",
    "file": "tiny.onnx",
    "digest": bytes_digest(b"tiny"),
    "size": 4,
    "licence": "Apache-2.0",
    "source": "made for tests",
    "inputs": [{"name": "image", "type": "float32", "shape": [1, 3, 8, 8]}],
    "outputs": [
        {"name": "scores", "type": "float32", "shape": [1, 5, 2]},
        {"name": "boxes", "type": "float32", "shape": [1, 5, 1, 4]},
    ],
    "preprocessing": {"resize": "stretch", "order": "BGR", "layout": "NCHW", "mean": [1, 2.5, 3], "scale": [1, 1, 0.5]},
    "decoding": {"scheme": "ssd", "scores": "scores", "boxes": "boxes", "iou": 0.6, "score": 0.3, "display_score": 1},
    "labels": ["cat", "dog"],
    "accuracy": "none",
    "partitions": [
        {"name": "early", "tensors": ["a"], "default": False},
        {"name": "late", "tensors": ["c", "b"], "calibration": "late.calibration.json", "default": True},
    ],
    "profiles": ["q8", "q4-zstd"],
    "default_profile": "q4-zstd",
}


def changed(**members: Any) -> dict[str, Any]:
    return {**copy.deepcopy(CARD), **members}


def within(member: str, **members: Any) -> dict[str, Any]:
    return changed(**{member: {**CARD[member], **members}})


def of_tensors(**members: Any) -> dict[str, Any]:
    """The card of a model that detects nothing and takes no pictures."""
    left_out = ("preprocessing", "decoding", "labels")
    return {k: v for k, v in changed(task="tensors").items() if k not in left_out} | members


def write(directory: Path, card: object = CARD) -> Path:
    path = directory / "card.json"
    path.write_text(json.dumps(card), encoding="utf-8")
    return path


def test_a_card_survives_the_way_to_json_and_back() -> None:
    card = ModelCard.from_json(copy.deepcopy(CARD))
    assert card.to_json() == CARD
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card
    assert card.picture.mean == (1.0, 2.5, 3.0)
    assert card.detection.display_score == 1.0
    assert card.inputs == (TensorSpec("image", "float32", (1, 3, 8, 8)),)


def test_what_may_be_delivered_is_said_or_follows() -> None:
    card = ModelCard.from_json(CARD)
    assert (card.deliver, card.partitions[0].variants) == ("head", ())
    told = changed(partitions=[{**CARD["partitions"][1], "variants": ["int8", "fp16"]}], deliver="whole")
    card = ModelCard.from_json(told)
    assert (card.deliver, card.partitions[0].variants) == ("whole", ("int8", "fp16"))
    assert card.to_json() == told


def test_a_model_of_another_task_needs_no_decoding() -> None:
    wave = {"name": "wave", "type": "int64", "shape": [16]}
    value = of_tensors(
        inputs=[wave, {**wave, "name": "rate", "shape": []}], constants=[{"name": "rate", "values": [8]}]
    )
    card = ModelCard.from_json(value)
    assert card.to_json() == value
    assert (card.image.name, card.output_profile, card.labels) == ("wave", "raw", ())
    with pytest.raises(BadArgument, match="model tiny gives tensors and detects nothing"):
        _ = card.detection
    with pytest.raises(BadArgument, match=r"model tiny takes no pictures, but ready tensors: wave int64\[16\]"):
        _ = card.image_size
    more = of_tensors(preprocessing=CARD["preprocessing"], labels=["cat"], output_profile="raw-zstd")
    card = ModelCard.from_json(more)
    assert card.to_json() == more
    assert (card.image_size, card.labels) == ((8, 8), ("cat",))


def test_partitions_are_found_by_name_by_id_and_by_default() -> None:
    card = ModelCard.from_json(CARD)
    early, late = card.partitions
    assert early == PartitionCard("early", ("a",), calibration=None, default=False)
    assert card.partition() is late is card.default_partition
    assert card.partition("early") is early
    assert card.partition(card.partition_id(early)) is early
    assert card.partition_id(early) != card.partition_id(late)
    with pytest.raises(UnknownModel, match="no partition 'middle'; it has: early, late"):
        card.partition("middle")


def test_files_are_found_beside_a_loaded_card(tmp_path: Path) -> None:
    card = ModelCard.load(write(tmp_path))
    assert card.path == tmp_path / "tiny.onnx"
    early, late = card.partitions
    assert card.calibration_path(early) is None
    assert card.calibration_path(late) == tmp_path / "late.calibration.json"
    assert card == ModelCard.from_json(CARD), "where a card lies is not part of what it says"


def test_a_card_that_was_not_loaded_has_no_files() -> None:
    with pytest.raises(BadArgument, match="not loaded from a file"):
        _ = ModelCard.from_json(CARD).path


def test_the_models_file_is_verified(tmp_path: Path) -> None:
    card = ModelCard.load(write(tmp_path))
    assert not card.is_here
    with pytest.raises(ModelFileError, match=r"file of model tiny is not here, .* \(4 bytes\); fetch it again"):
        card.verified_path()
    card.path.write_bytes(b"tinny")
    with pytest.raises(ModelFileError, match=r"expected sha-256:.* \(4 bytes\), found .* \(5 bytes\)"):
        card.verified_path()
    card.path.write_bytes(b"tiny")
    assert card.verified_path() == card.path


BAD_CARDS: list[tuple[str, object, str]] = [
    ("not an object", [], r"expected an object, not \[\]"),
    ("another format", changed(format=2), "'format' is not 1"),
    ("format is true", changed(format=True), "'format' is a int, not True"),
    ("unknown member", changed(colour="red"), "unknown 'colour'"),
    ("name with a slash", changed(name="../x"), "'name' is made of letters"),
    ("file elsewhere", changed(file="../tiny.onnx"), "'file' is made of letters"),
    ("hidden file", changed(file=".onnx"), "'file' is made of letters"),
    ("task", changed(task="pose"), "'task' is detection or tensors, not 'pose'"),
    ("digest", changed(digest="sha-256:12"), "'digest' is 'sha-256:'"),
    ("size zero", changed(size=0), "'size' is at least 1"),
    ("size a text", changed(size="4"), "'size' is a int, not '4'"),
    ("one input twice", changed(inputs=CARD["inputs"] * 2), "no two inputs"),
    ("two inputs", changed(inputs=[*CARD["inputs"], {**CARD["inputs"][0], "name": "other"}]), "one input"),
    ("no input", changed(inputs=[]), "one input"),
    ("input type", changed(inputs=[{**CARD["inputs"][0], "type": "float"}]), "'inputs': tensor image: element type"),
    ("input rank", changed(inputs=[{**CARD["inputs"][0], "shape": [1, 3, 8]}]), "1 x 3 x height x width"),
    ("input planes", changed(inputs=[{**CARD["inputs"][0], "shape": [1, 1, 8, 8]}]), "1 x 3 x height x width"),
    ("input batch", changed(inputs=[{**CARD["inputs"][0], "shape": [2, 3, 8, 8]}]), "1 x 3 x height x width"),
    ("input integers", changed(inputs=[{**CARD["inputs"][0], "type": "int64"}]), "float32"),
    ("outputs no list", changed(outputs={}), "'outputs' is a list, not {}"),
    ("resize", within("preprocessing", resize="crop"), "preprocessing: 'resize' is stretch or letterbox, not 'crop'"),
    ("order", within("preprocessing", order="GBR"), "'order' is RGB or BGR"),
    ("layout", within("preprocessing", layout="CHWN"), "'layout' is NCHW or NHWC"),
    ("input of the other layout", within("preprocessing", layout="NHWC"), "height x width x 3 with layout NHWC"),
    ("mean of two", within("preprocessing", mean=[1, 2]), "'mean' is a list of 3 finite numbers"),
    ("mean of texts", within("preprocessing", mean=["1", 2, 3]), "'mean' is a list of finite numbers"),
    ("mean of four with a text", within("preprocessing", mean=[1, 2, 3, "4"]), "'mean' is a list of finite"),
    ("scale infinite", within("preprocessing", scale=[1, 1, float("inf")]), "'scale' is a list of finite numbers"),
    ("scale huge", within("preprocessing", scale=[1, 1, 10**400]), "'scale' is a list of finite numbers"),
    ("preprocessing unknown", within("preprocessing", std=1), "preprocessing: unknown 'std'"),
    ("scheme", within("decoding", scheme="yolo"), "decoding: 'scheme' is ssd or yolox"),
    ("iou", within("decoding", iou=1.5), "'iou' is between 0 and 1, not 1.5"),
    ("iou huge", within("decoding", iou=10**400), "'iou' is a float, not 1000"),
    ("iou NaN", within("decoding", iou=float("nan")), "'iou' is between 0 and 1, not nan"),
    ("decoding unknown", within("decoding", nms=True), "decoding: unknown 'nms'"),
    ("decoding scores", within("decoding", scores="image"), "types and shapes of scheme ssd"),
    ("decoding one output twice", within("decoding", scores="boxes"), "types and shapes of scheme ssd"),
    (
        "score shape",
        changed(outputs=[{**CARD["outputs"][0], "shape": [1, 5, 3]}, CARD["outputs"][1]]),
        "types and shapes of scheme ssd",
    ),
    (
        "box shape",
        changed(outputs=[CARD["outputs"][0], {**CARD["outputs"][1], "shape": [1, 6, 1, 4]}]),
        "types and shapes of scheme ssd",
    ),
    ("labels empty", changed(labels=[]), "'labels' is a list of at least one text"),
    ("labels numbers", changed(labels=["cat", 2]), "'labels' is a list of at least one text"),
    ("no default", changed(partitions=CARD["partitions"][:1]), "exactly one partition is the default"),
    (
        "two defaults",
        changed(partitions=[CARD["partitions"][1], {**CARD["partitions"][0], "default": True}]),
        "exactly",
    ),
    (
        "no two partitions",
        changed(partitions=[CARD["partitions"][1], {**CARD["partitions"][0], "name": "late"}]),
        "no two partitions",
    ),
    ("tensor twice", changed(partitions=[{**CARD["partitions"][1], "tensors": ["b", "b"]}]), "each tensor once"),
    ("tensor name", changed(partitions=[{**CARD["partitions"][1], "tensors": ["\ud800"]}]), "1 to 512 bytes of UTF-8"),
    ("partition unknown", changed(partitions=[{**CARD["partitions"][1], "cut": 1}]), "a partition: unknown 'cut'"),
    ("partition no object", changed(partitions=["late"]), "a partition: expected an object, not 'late'"),
    (
        "variant",
        changed(partitions=[{**CARD["partitions"][1], "variants": ["fp8"]}]),
        "'variants' are some of fp16, int8",
    ),
    ("no variants", changed(partitions=[{**CARD["partitions"][1], "variants": []}]), "at least one text"),
    ("variant twice", changed(partitions=[{**CARD["partitions"][1], "variants": 2 * ["fp16"]}]), "each once"),
    ("deliver", changed(deliver="tail"), "'deliver' is head or whole or none"),
    ("decoding of tensors", of_tensors(decoding=CARD["decoding"]), "unknown 'decoding'"),
    ("output profile of a detector", changed(output_profile="raw"), "unknown 'output_profile'"),
    ("output profile", of_tensors(output_profile="zip"), "'output_profile' is raw, raw-zstd or raw-snappy"),
    ("calibrated output profile", of_tensors(output_profile="q8"), "'output_profile' is raw"),
    ("two ready inputs", of_tensors(inputs=[{**CARD["inputs"][0], "name": n} for n in "xy"]), "has one input"),
    ("no outputs", of_tensors(outputs=[]), "the model has 1 to 64 outputs"),
    (
        "picture of one plane",
        of_tensors(preprocessing=CARD["preprocessing"], inputs=[{**CARD["inputs"][0], "shape": [1, 1, 8, 8]}]),
        "1 x 3 x height x width",
    ),
    ("a profile twice", changed(profiles=["q4-zstd", "q4-zstd"]), "names each profile once"),
    (
        "a cut twice",
        changed(partitions=[CARD["partitions"][1], {**CARD["partitions"][1], "name": "x", "default": False}]),
        "are the same cut",
    ),
    ("default profile", changed(default_profile="raw"), "'default_profile' is among 'profiles'"),
    *((f"no {member}", {k: v for k, v in CARD.items() if k != member}, f"'{member}' is missing") for member in CARD),
]


@pytest.mark.parametrize(("card", "message"), [pytest.param(c, m, id=name) for name, c, m in BAD_CARDS])
def test_bad_cards_are_refused_with_the_reason(card: object, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        ModelCard.from_json(card, where="card X")
    assert str(caught.value).startswith("card X")
    assert len(str(caught.value)) < 500


def test_more_labels_than_a_class_number_can_say_are_refused() -> None:
    with pytest.raises(ModelFileError, match="'labels' has at most 65536"):
        ModelCard.from_json(changed(labels=["x"] * (MAX_LABELS + 1)))


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"cannot read the model card .*card.json: No such file"):
        ModelCard.load(tmp_path / "card.json")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"\xc3("])
def test_a_card_that_is_not_json_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="is not JSON"):
        ModelCard.load(path)


def test_a_huge_card_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(b" " * (MAX_CARD_BYTES + 1))
    with pytest.raises(ModelFileError, match="larger than 1048576 bytes"):
        ModelCard.load(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def damaged(draw: st.DrawFn) -> object:
    """The good card with one value somewhere in it replaced or removed."""
    card = copy.deepcopy(CARD)
    holder: Any = card
    while True:
        key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if isinstance(holder[key], (dict, list)) and holder[key] and draw(st.booleans()):
            holder = holder[key]
            continue
        if draw(st.booleans()):
            holder[key] = draw(JSON_VALUES)
        else:
            del holder[key]
        return card


@given(value=damaged() | JSON_VALUES)
def test_a_damaged_card_is_read_or_refused_but_nothing_else(value: object) -> None:
    try:
        card = ModelCard.from_json(value)
    except ModelFileError:
        return
    assert ModelCard.from_json(card.to_json()) == card


def test_tensor_spec_knows_its_size() -> None:
    spec = TensorSpec("x", "float16", (2, 3, 4))
    assert (spec.elements, spec.nbytes) == (24, 48)
    assert str(spec) == "x float16[2x3x4]"
    assert TensorSpec("scalar", "int64", ()).nbytes == 8


@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    dtype=st.sampled_from(sorted(ITEM_SIZES)),
    shape=st.lists(st.integers(1, 8), max_size=MAX_RANK),
)
def test_tensor_spec_survives_json(name: str, dtype: str, shape: list[int]) -> None:
    spec = TensorSpec(name, dtype, tuple(shape))
    assert TensorSpec.from_json(json.loads(json.dumps({**spec.to_json(), "more": 1}))) == spec


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TensorSpec("", "bool", (1,)), "1 to 512 bytes"),
        (lambda: TensorSpec("é" * (MAX_TENSOR_NAME // 2 + 1), "bool", (1,)), "1 to 512 bytes"),
        (lambda: TensorSpec("x\ud800", "bool", (1,)), "UTF-8"),
        (lambda: TensorSpec("x", "float", (1,)), "element type 'float'"),
        (lambda: TensorSpec("x", "bool", (1,) * 9), "at most 8 sizes"),
        (lambda: TensorSpec("x", "bool", (0,)), "sizes from 1"),
        (lambda: TensorSpec("x", "bool", (MAX_SIZE + 1,)), "sizes from 1 to 16777216"),
        (lambda: TensorSpec("x", "bool", (MAX_SIZE, 5)), "at most 67108864"),
        (lambda: TensorSpec.from_json({"name": "x", "type": "bool", "shape": [True]}), "list of integers"),
        (lambda: TensorSpec.from_json({"name": "x", "type": "bool", "shape": 1}), "list of integers"),
        (lambda: TensorSpec.from_json({"name": 1, "type": "bool", "shape": [1]}), "a name"),
        (lambda: TensorSpec.from_json({"name": "x", "shape": [1]}), "a type"),
        (lambda: TensorSpec.from_json(None), "a tensor is described by"),
    ],
)
def test_bad_tensor_specs_are_refused(make: Callable[[], TensorSpec], message: str) -> None:
    with pytest.raises(TensorError, match=message):
        make()


def test_cards_load_nothing_heavy() -> None:
    # Signalling and the command line's start depend on it.
    code = """
import sys, models
models.Zoo().get(); models.partition_id
heavy = {"numpy", "onnx", "onnxruntime", "cv2", "zstandard"} & set(sys.modules)
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
