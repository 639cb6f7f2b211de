from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.parser import parse_model

from models.graph import Model, after, at, find_inputs, split, sweep, verify
from models.graph.fusion import fused_across
from models.graph.parts import Part
from models.graph.running import Runner, difference
from models.zoo import Zoo
from splitrtc_errors import BadArgument, ModelError

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def model(body: str) -> Model:
    return Model(parse_model(f"{HEADER} g {body}"))


CHAIN = "(float[1,4] x) => (float[1,4] y) { a = Relu(x) b = Neg(a) y = Exp(b) }"


@pytest.mark.parametrize(
    ("expected", "found", "apart"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 2.5]), 0.5),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), 0.0),
        (np.array([0.0]), np.array([-0.0]), np.finfo(np.float64).tiny),
        (np.array([np.inf]), np.array([np.inf]), 0.0),
        (np.array([np.nan]), np.array([1.0]), np.inf),
        (np.array([1], np.int64), np.array([3], np.int64), 2.0),
        (np.array([1], np.int64), np.array([1], np.int32), np.inf),
        (np.array([1]), np.array([[1]]), np.inf),
        (np.array([True]), np.array([False]), np.inf),
        (np.array(["a"], object), np.array(["a"], object), 0.0),
        (np.array(["a"], object), np.array(["b"], object), np.inf),
        ([np.array([1.0])], [np.array([2.0])], 1.0),
        ([np.array([1.0])], [], np.inf),
        ([], [], 0.0),
        ({1: 2.0}, {1: 2.0}, 0.0),
        ({1: 2.0}, {1: 3.0}, 1.0),
        ({1: 2.0}, {2: 2.0}, np.inf),
        (None, None, 0.0),
        (None, np.array([1]), np.inf),
        (np.array([1 + 1j], np.complex64), np.array([1 + 2j], np.complex64), 1.0),
    ],
)
def test_differences(expected: Any, found: Any, apart: float) -> None:
    assert difference(expected, found) == apart


def test_right_parts_are_exact() -> None:
    found = model(CHAIN)
    result = verify(found, [after(found.graph, "Neg#1")])
    assert result.ok
    assert result.exact
    assert result.to_json() == {
        "ok": True,
        "exact": True,
        "optimised": False,
        "outputs": [{"name": "y", "largest": 0.0, "relative": 0.0}],
        "fused": [],
    }


def test_parts_that_compute_something_else_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = model(CHAIN)
    run = Runner.run

    def wrong(self: Runner, values: Any) -> Any:
        result = run(self, values)
        return {name: value + (1 if name == "b" else 0) for name, value in result.items()}

    monkeypatch.setattr(Runner, "run", wrong)
    result = verify(found, [after(found.graph, "Neg#1")])
    assert not result.ok
    assert result.outputs[0].largest > 0
    swept = sweep(found, nodes=["Neg#1"])
    assert (swept.cuts, swept.verified) == (1, 0)
    assert "largest difference" in swept.different[0][1]


def test_with_optimisations_what_is_fused_across_the_cut_is_named() -> None:
    found = Model.load(Zoo().get().verified_path())
    between = next(
        node.output[0]
        for node, following in zip(found.proto.graph.node, found.proto.graph.node[1:], strict=False)
        if node.op_type == "Conv" and following.op_type == "Clip" and following.input[0] == node.output[0]
    )
    lines = fused_across(found, at(found.graph, [between]))
    assert lines == (f"{between}: the whole model does Conv and Clip in one FusedConv node",)
    cut = at(found.graph, ["Conv__979:0"])
    result = verify(found, [cut], optimise=True)
    assert result.ok
    assert result.optimised
    assert all(output.relative < 1e-5 for output in result.outputs)


def test_a_sweep_counts_and_names() -> None:
    done: list[int] = []
    found = model(
        "(float[1,4] x) => (float[1,4] y) { k = Constant<value_float=2.0>() a = Mul(x, k) b = Relu(a) y = Neg(b) }"
    )
    result = sweep(found, workers=2, progress=done.append)
    assert (result.nodes, result.cuts, result.distinct, result.verified) == (4, 4, 4, 4)
    assert sum(done) == 4
    assert result.inputs == {"x": (1, 4)}
    assert result.to_json()["exceptions"] == []


def test_what_cannot_be_cut_is_an_exception_and_no_cut() -> None:
    # The type of a tensor that the runtime's optional type has no name for cannot be found out without running it.
    found = model("(float[2] x) => (float[2] y) { o = Optional(x) z = OptionalGetElement(o) y = Neg(z) }")
    parts = split(found, [after(found.graph, "Optional#0")])
    assert parts[0].outputs[0].kind == "optional"
    result = sweep(found)
    assert result.cuts + len(result.exceptions) == 3
    assert result.verified == result.cuts


def test_chance_in_a_model_is_told() -> None:
    found = model("(float[2] x) => (float[2] y) { r = RandomUniformLike(x) y = Add(x, r) }")
    with pytest.raises(ModelError, match="two runs of the whole model on the same inputs differ in y"):
        sweep(found)


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        ("float16[2] x", np.float16),
        ("double[2] x", np.float64),
        ("bool[2] x", np.bool_),
        ("uint8[2] x", np.uint8),
        ("string[2] x", np.object_),
    ],
)
def test_made_inputs_are_of_the_right_type(inputs: str, kind: type) -> None:
    found = model(f"({inputs}) => ({inputs[:-1]}y) {{ y = Identity(x) }}")
    values = find_inputs(found)
    assert (values["x"].dtype, values["x"].shape) == (np.dtype(kind), (2,))
    assert difference(values["x"], find_inputs(found)["x"]) == 0  # the same each time


def test_made_inputs_are_within_what_the_model_bears() -> None:
    found = model("(int64[3] i) => (float[3] y) <float[2] table = {1, 2}> { y = Gather(table, i) }")
    assert set(find_inputs(found)["i"].tolist()) <= {0, 1}


def test_an_integer_that_is_compared_with_a_constant_is_that() -> None:
    found = model(
        """(int64 rate, float[2] x) => (float[2] y) <int64 known = {16000}> {
          is = Equal(rate, known)
          y = If (is) <then_branch = t () => (float[2] a) { a = Neg(x) },
                       else_branch = e () => (float[2] b) { b = Abs(x) }> }"""
    )
    assert find_inputs(found)["rate"] == 16000


def test_free_dimensions_get_sizes_at_which_the_model_runs() -> None:
    found = model("(float[n,k] x) => (float[n,m] y) <float[5,2] w = {1,2,3,4,5,6,7,8,9,0}> { y = MatMul(x, w) }")
    with pytest.raises(ModelError, match="no inputs were found on which the whole model runs"):
        find_inputs(found)  # 5 is not among what is tried
    assert find_inputs(found, {"x": (2, 5)})["x"].shape == (2, 5)
    flat = model(
        "(float[n,k] x, float[k] z) => (float[n,k] y) <float[8] w = {1,2,3,4,5,6,7,8}> { a = Add(x, w) y = Add(a, z) }"
    )
    assert {name: value.shape for name, value in find_inputs(flat).items()} in (
        {"x": (1, 1), "z": (1,)},
        {"x": (1, 8), "z": (8,)},
    )


@pytest.mark.parametrize(
    ("shapes", "message"),
    [({"q": (1,)}, "no input q"), ({"x": (1, 5)}, "does not fit"), ({"x": (1,)}, "does not fit")],
)
def test_shapes_have_to_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        find_inputs(model(CHAIN), shapes)


def test_sequences_are_made_too() -> None:
    found = model("(seq(float[2]) s) => (float[2] y) { i = Constant<value_int=0>() y = SequenceAt(s, i) }")
    assert len(find_inputs(found)["s"]) == 1


def test_a_part_that_does_not_run_says_why() -> None:
    found = model("(float[a,b] x, float[c,d] z) => (float[a,d] y) { y = MatMul(x, z) }")
    part = Part(found.proto, None, frozenset())
    with pytest.raises(ModelError, match="the run failed: .*MatMul"):
        Runner(part).run({"x": np.ones((1, 2), np.float32), "z": np.ones((3, 1), np.float32)})
