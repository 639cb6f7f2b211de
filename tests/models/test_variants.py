from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.parser import parse_model

from models.cache import trim
from models.card import VARIANTS
from models.partition import PartitionStore
from models.runtime import load_submodel
from models.variants import with_weights_as
from models.zoo import Zoo
from splitrtc_errors import BadArgument, ModelFileError

RNG = np.random.default_rng(1)


def head(**weights: np.ndarray) -> bytes:
    """Multiplies an image with weights, and adds a bias that is too small to be worth a variant."""
    model = parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,300] image) => (float[1,20] crossing)
        <float[20] bias = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19}>
        { product = MatMul(image, weight)  crossing = Add(product, bias) }"""
    )
    values = {"weight": RNG.normal(size=(300, 20)).astype(np.float32), **weights}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return bytes(model.SerializeToString())


IMAGE = RNG.normal(size=(1, 300)).astype(np.float32)


@pytest.mark.parametrize(("variant", "share", "error"), [("fp16", 0.6, 2e-3), ("int8", 0.36, 2e-2)])
def test_a_variant_is_smaller_and_computes_nearly_the_same(variant: str, share: float, error: float) -> None:
    original = head()
    smaller = with_weights_as(variant, original)
    assert len(smaller) < share * len(original)
    assert smaller == with_weights_as(variant, original), "the same bytes each time"
    one, other = load_submodel(original), load_submodel(smaller)
    assert (one.inputs, one.outputs) == (other.inputs, other.outputs)
    (expected,), (found,) = one.run([IMAGE]), other.run([IMAGE])
    assert 0 < np.abs(expected - found).max() < error * np.abs(expected).max()


def test_what_does_not_fit_in_fp16_stays() -> None:
    weight = np.full((300, 20), 1e5, np.float32)
    original = head(weight=weight)
    kept = onnx.load_from_string(with_weights_as("fp16", original))
    assert {tensor.name: tensor.data_type for tensor in kept.graph.initializer} == {
        "weight": TensorProto.FLOAT,
        "bias": TensorProto.FLOAT,
    }
    (expected,), (found,) = (load_submodel(data).run([IMAGE]) for data in (original, with_weights_as("int8", original)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_channel_of_zeros_and_a_long_vector() -> None:
    weight = RNG.normal(size=(300, 20)).astype(np.float32)
    weight[3] = 0
    extra = RNG.normal(size=300).astype(np.float32)
    data = head(weight=weight, unused=extra)
    (found,) = load_submodel(with_weights_as("int8", data)).run([IMAGE])
    assert np.isfinite(found).all()
    types = {
        tensor.name: tensor.data_type
        for tensor in onnx.load_from_string(with_weights_as("int8", data)).graph.initializer
    }
    assert types["unused/fp16"] == TensorProto.FLOAT16


def test_what_is_no_variant_or_no_head_is_told() -> None:
    with pytest.raises(BadArgument, match="fp16 or int8, not 'fp8'"):
        with_weights_as("fp8", head())
    with pytest.raises(ModelFileError):
        with_weights_as("fp16", b"\xff\xff not a model")


def test_a_store_makes_each_variant_once(tiny_model: Path, tmp_path: Path) -> None:
    card = Zoo((tiny_model,)).get("tiny")
    store = PartitionStore(tmp_path / "cache")
    heads = [store.head(card, ["early"], variant) for variant in VARIANTS]
    assert [head.variant for head in heads] == list(VARIANTS)
    assert len({head.head_path for head in heads}) == len(VARIANTS)
    assert len({(head.id, head.crossing) for head in heads}) == 1
    made = [head.head_path.stat().st_mtime_ns for head in heads]
    assert [store.head(card, ["early"], variant) for variant in VARIANTS] == heads
    assert [head.head_path.stat().st_mtime_ns for head in heads] == made
    heads[1].head_path.write_bytes(b"spoilt")
    assert store.head(card, ["early"], "fp16") == heads[1]
    assert heads[1].head_path.read_bytes() != b"spoilt"


def test_room_is_made_among_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(bytes(10))
    ages = dict(zip(files, (0.0, 2.0, 1.0), strict=True))
    trim(files, 20, files[0], ages.__getitem__)
    assert [file.exists() for file in files] == [True, True, False]
    trim(files, 0, files[0], ages.__getitem__)
    assert [file.exists() for file in files] == [True, False, False]
