"""Heads that come from an edge which may be anybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper
from onnx.parser import parse_model

from models.card import ModelCard
from models.delivered import check_whole, checked_head
from models.identity import bytes_digest
from models.partition import PartitionStore
from models.zoo import Zoo
from splitrtc_errors import ModelFileError

GOOD = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,2,2] image) => (float[1,3,2,2] early)
<float[1] scale = {0.5}> { early = Mul(image, scale) }"""


@pytest.fixture
def card(tiny_model: Path) -> ModelCard:
    return Zoo((tiny_model,)).get("tiny")


def data(text: str = GOOD) -> bytes:
    return bytes(parse_model(text).SerializeToString())


def test_the_head_of_the_cut_is_taken(card: ModelCard) -> None:
    (crossing,) = checked_head(data(), card, ["early"])
    assert str(crossing) == "early float32[1, 3, 2, 2]" or crossing.shape == (1, 3, 2, 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1,3,2,2] image", "[1,3,4,4] image", "expected the card's image"),
        ("image) =>", "image, float[1] other) =>", "expected the card's image"),
        ("float[1,3,2,2] image", "int32[1,3,2,2] image", "expected the card's image"),
        ("[1,3,2,2] image", "[N,3,2,2] image", "no fixed shape"),
        ("early", "late", "expected what crosses: early"),
        ("(float[1,3,2,2] early)", "(float[1,3,2,2] early, float[1,3,2,2] early_too)", "expected what crosses: early"),
        ('["" : 17]', '["" : 17, "com.evil" : 1]', "operators that no runtime has of itself: those of 'com.evil'"),
    ],
)
def test_what_is_not_the_head_of_the_cut_is_refused(card: ModelCard, old: str, new: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        checked_head(data(GOOD.replace(old, new)), card, ["early"])


@pytest.mark.parametrize("location", ["../../../etc/passwd", "/etc/passwd", "beside.data"])
def test_weights_in_other_files_are_refused(card: ModelCard, location: str) -> None:
    model = parse_model(GOOD)
    weights = TensorProto(name="scale", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    del model.graph.initializer[:]
    model.graph.initializer.append(weights)
    with pytest.raises(ModelFileError, match="are in another file"):
        checked_head(model.SerializeToString(), card, ["early"])


def test_weights_of_constants_in_other_files_are_refused_too(card: ModelCard) -> None:
    model = parse_model(GOOD)
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.append(helper.make_node("Constant", [], ["w"], value=weights))
    with pytest.raises(ModelFileError, match="are in another file"):
        checked_head(model.SerializeToString(), card, ["early"])


@pytest.mark.parametrize("junk", [b"", b"\x00" * 1000, b"{}", data()[:50]])
def test_what_is_no_model_is_refused(card: ModelCard, junk: bytes) -> None:
    with pytest.raises(ModelFileError, match="the head of model tiny that the edge delivers"):
        checked_head(junk, card, ["early"])


def test_a_function_of_the_models_own_is_no_foreign_operator(card: ModelCard) -> None:
    text = GOOD.replace('["" : 17]', '["" : 17, "own" : 1]').replace("Mul(image", "own.Halve(image")
    text += '\n<domain: "own", opset_import: ["" : 17]> Halve (x, y) => (z) { z = Mul(x, y) }'
    assert checked_head(data(text), card, ["early"])


def test_it_is_kept_and_found_by_its_digest(card: ModelCard, tmp_path: Path) -> None:
    store = PartitionStore(tmp_path / "cache")
    digest = bytes_digest(data())
    assert store.delivered(card, ["early"], "fp16", digest) is None
    kept = store.adopt(card, ["early"], "fp16", data())
    assert (kept.variant, kept.tensors, kept.head_path.read_bytes()) == ("fp16", ("early",), data())
    assert store.delivered(card, ["early"], "fp16", digest) == kept
    assert store.delivered(card, ["early"], "fp32", digest) is None
    assert store.delivered(card, ["early"], "fp16", bytes_digest(b"another")) is None
    kept.head_path.write_bytes(b"poisoned")
    assert store.delivered(card, ["early"], "fp16", digest) is None


def test_a_whole_model_needs_nothing_else(card: ModelCard) -> None:
    check_whole(card.verified_path().read_bytes(), card)
    for text, message in (
        (GOOD.replace('["" : 17]', '["" : 17, "com.evil" : 1]'), "com.evil"),
        (None, "no ONNX|not an"),
    ):
        with pytest.raises(
            ModelFileError, match=f"the model tiny that the edge delivers cannot be used: .*({message})"
        ):
            check_whole(b"junk" if text is None else data(text), card)
