from __future__ import annotations

import pytest
from onnx.parser import parse_model

from models.graph.datapath import DataPath
from models.graph.model import Model
from models.graph.surroundings import PLACES, Surroundings
from tests.models.graph.paths import with_weights

NET = """<ir_version: 9, opset_import: ["" : 17]>
g (float[1,8,4,4] x) => (float[] y, float[] z)
<float[24,8,1,1] wide, float[4,24,1,1] narrow, float[4,4,1,1] same,
 float three = {3}, float six = {6}, float zero = {0}>
{
  expanded = Conv (x, wide)
  relu = Relu (expanded)
  first = Conv (relu, narrow)
  second = Conv (first, same)
  both = Add (first, second)
  scaled = Mul (both, six)
  gate = Sigmoid (scaled)
  silu = Mul (scaled, gate)
  last = Conv (silu, same)
  more = Add (last, three)
  clipped = Clip (more, zero, six)
  gated = Mul (last, clipped)
  hard = Div (gated, six)
  pooled = GlobalAveragePool (hard)
  mixed = Add (pooled, hard)
  y = Conv (mixed, same)
  z = Mul (mixed, y)
}"""


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(with_weights(parse_model(NET)))


@pytest.mark.parametrize(
    ("tensor", "place"),
    [
        ("x", "input"),
        ("expanded", "before activation"),
        ("relu", "after activation"),
        ("first", "linear bottleneck"),
        ("second", "linear"),
        ("both", "linear bottleneck"),
        ("scaled", "before activation"),
        ("gate", "after activation"),
        ("silu", "after activation"),
        ("last", "before activation"),
        ("gated", "after activation"),
        ("hard", "other"),
        ("pooled", "other"),
        ("mixed", "other"),
        ("y", "linear"),
        ("z", "other"),
    ],
)
def test_places(model: Model, tensor: str, place: str) -> None:
    assert place in PLACES
    found = Surroundings(model.graph, DataPath.of(model.graph), model.types)
    assert found.of(model.graph.tensor_id(tensor)) == place
    assert found.of(model.graph.tensor_id(tensor)) == place  # remembered


def test_a_size_that_is_not_known_makes_no_bottleneck() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,8] x, float[8,4] w) => (float[] y) { a = MatMul (x, w) y = MatMul (a, w) }"""
    free = Model(parse_model(text.replace("float[8,4] w) =>", "float[8,8] w) =>")))
    found = Surroundings(free.graph, DataPath.of(free.graph), free.types)
    assert found.of(free.graph.tensor_id("a")) == "linear"
