from __future__ import annotations

from collections.abc import Callable

import pytest
from onnx import ModelProto
from onnx.parser import parse_model

from benchmarks.architectures import densenet, resnet
from models import Zoo
from models.graph.costs import costs_of
from models.graph.memory import frontier_memory, head_memory
from models.graph.model import Model
from splitrtc_errors import BadArgument

HEADER = '<ir_version: 9, opset_import: ["" : 17, "com.microsoft": 1]>\n'


def model(text: str) -> Model:
    return Model(parse_model(HEADER + text))


@pytest.mark.parametrize(
    ("proto", "giga_macs", "tolerance"),
    [
        # As published, both with 1000 classes, of which these have 10: 4.09 and 2.83.
        (lambda: resnet(width=64, size=224), 4.09, 0.01),
        (lambda: densenet(growth=32, size=224), 2.83, 0.02),
    ],
    ids=["ResNet-50", "DenseNet-121"],
)
def test_known_architectures_cost_what_the_literature_says(
    proto: Callable[[], ModelProto], giga_macs: float, tolerance: float
) -> None:
    assert costs_of(Model(proto())).total_macs / 1e9 == pytest.approx(giga_macs, rel=tolerance)


def test_the_bundled_model() -> None:
    costs = costs_of(Model.load(Zoo().get().verified_path()))
    names = costs.model.graph.tensor_names
    assert costs.total_macs == pytest.approx(0.75e9, rel=0.01)
    assert costs.parameters == pytest.approx(4.5e6, rel=0.01)
    assert costs.unknown == ()
    cut = costs.model.graph.tensor_id("Conv__979:0")
    assert costs.sizes[cut] == 64 * 19 * 19 * 4
    before = costs.path.ancestors([cut])
    assert sum(costs.macs[place] for place in before) / costs.total_macs == pytest.approx(0.29, abs=0.005)
    assert names[cut] == "Conv__979:0"


def test_free_dimensions_get_the_sizes_that_are_given() -> None:
    text = "g (float[N,3] x) => (float[N,4] y) <float[3,4] w = {1,2,3,4,5,6,7,8,9,10,11,12}> { y = MatMul (x, w) }"
    for rows in (1, 5):
        costs = costs_of(model(text), {"x": (rows, 3)})
        assert costs.inputs == {"x": (rows, 3)}
        assert costs.macs == (rows * 12,)
        assert costs.sizes[costs.model.graph.tensor_id("y")] == rows * 16
        assert costs.types["y"].shape == (rows, 4)
    assert costs.parameters == 12
    with pytest.raises(BadArgument, match="does not fit"):
        costs_of(model(text), {"x": (5, 4)})
    assert costs_of(model(text)).inputs == {"x": (1, 3)}  # sought


def test_what_inference_does_not_know_is_found_by_a_run() -> None:
    text = """g (float[6] x) => (float[] y) {
      chosen = NonZero (x)
      z = Cast <to = 1> (chosen)
      y = Relu (z)
    }"""
    costs = costs_of(model(text))
    shape = costs.types["z"].shape
    assert shape is not None
    assert shape[0] == 1
    assert costs.sizes[costs.model.graph.tensor_id("z")] == 4 * int(shape[1] or 0)


def test_bodies_count_with_their_node() -> None:
    text = """g (float[2,3] x, bool c) => (float[2,4] y) <float[3,4] a = {1,1,1,1,1,1,1,1,1,1,1,1}> {
      y = If (c) <then_branch = t () => (float[2,4] p) { p = MatMul (x, a) }, else_branch = e () => (float[2,4] q)
        { m = MatMul (x, a) q = Mul (m, m) }>
    }"""
    assert costs_of(model(text)).macs == (24,)


def test_weights_in_bodies_count_with_their_node() -> None:
    text = """g (bool c, float[1,4] x) => (float[1,4] z) {
      y = Neg (x)
      z = If (c) <then_branch = t () => (float[1,4] p) <float[4] w = {1, 2, 3, 4}> {
          d = Constant <value = float[4] {1, 1, 1, 1}> ()
          s = Mul (y, w)
          p = Add (s, d) },
        else_branch = e () => (float[1,4] q) {
          inner = If (c) <then_branch = t2 () => (float[1,4] r) <float[4] v = {1, 2, 3, 4}, int64[1] n = {0}> {
            r = Mul (y, v) }, else_branch = e2 () => (float[1,4] u) { u = Abs (y) }>
          q = Neg (inner) }>
    }"""
    costs = costs_of(model(text))
    assert costs.parameters == 12
    weights = 3 * 4 * 4 + 8
    heads, tails = frontier_memory(costs.path, costs.sizes)
    assert [part.weights for part in heads] == [0, 0, weights]
    assert [part.weights for part in tails] == [weights, weights, 0]
    assert head_memory(costs.path, {0, 1}, costs.sizes).weights == weights


def test_what_cannot_be_sent() -> None:
    text = """g (float[4] x) => (float[4] y) {
      s = SequenceConstruct (x, x)
      one = Constant <value_int = 1> ()
      e = SequenceAt (s, one)
      y = Relu (e)
    }"""
    costs = costs_of(model(text))
    graph = costs.model.graph
    assert not costs.can_be_sent(graph.tensor_id("s"))
    assert costs.can_be_sent(graph.tensor_id("e"))
