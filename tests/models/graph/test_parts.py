from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from benchmarks.architectures import ARCHITECTURES, transformer
from benchmarks.sweep import backend_cases
from models.graph import Cut, Model, Part, after, at, of_nodes, split, sweep, up_to, verify
from models.graph.running import Runner, difference, whole
from splitrtc_errors import CutError, ModelError

HEADER = '<ir_version: 8, opset_import: ["" : 17, "own" : 1, "com.microsoft" : 1]>'

BRANCHES = """(float[1,4] x) => (float[1,4] y) <float[1] two = {2}, float[1,4] a, float[1,4] c, float[1,4] e> {
  one = Constant <value_float = 1.0>()
  a = Mul(x, two)
  b = Add(a, one)
  c = Relu(b)
  d = Mul(b, two)
  e = Add(c, d)
  f = Add(e, one)
  y = Add(f, b)
}"""

X = np.array([[1, -2, 3, -4]], np.float32)


def proto(body: str, functions: str = "") -> ModelProto:
    return parse_model(f"{HEADER} g {body} {functions}")


def model(body: str, functions: str = "") -> Model:
    return Model(proto(body, functions))


def assert_same(found: Model, cuts: Sequence[Cut], **inputs: Any) -> tuple[Part, ...]:
    """The parts are models of their own, fit each other, and compute what the whole does."""
    parts = split(found, cuts)
    values = dict(inputs)
    for part, cut in zip(parts, [*cuts, None], strict=True):
        onnx.checker.check_model(part.proto, full_check=True)
        if cut is not None:
            assert tuple(kind.name for kind in part.outputs) == cut.crossing
        values = Runner(part).run(values)
    for name, expected in Runner(whole(found)).run(inputs).items():
        assert difference(expected, values[name]) == 0
    return parts


def ops(part: Part) -> list[str]:
    return [node.op_type for node in part.proto.graph.node]


def test_each_part_has_its_nodes_and_constants() -> None:
    found = model(BRANCHES)
    head, tail = assert_same(found, [at(found.graph, ["e"])], x=X)
    assert ops(head) == ["Constant", "Mul", "Add", "Relu", "Mul", "Add"]
    assert ops(tail) == ["Constant", "Add", "Add"]
    assert [tensor.name for tensor in head.proto.graph.initializer] == ["two"]
    assert not tail.proto.graph.initializer
    assert [str(kind) for kind in head.outputs] == ["b float32[1x4]", "e float32[1x4]"]
    assert head.outputs == tail.inputs


def test_splitting_is_deterministic() -> None:
    first, second = (
        [part.to_bytes() for part in split(found, [at(found.graph, ["e", "b"])])]
        for found in (model(BRANCHES), model(BRANCHES))
    )
    assert first == second


def test_three_parts_and_what_passes_through_the_middle_one() -> None:
    found = model(BRANCHES)
    ue, edge, cloud = assert_same(found, [at(found.graph, ["b"]), at(found.graph, ["e"])], x=X)
    assert [kind.name for kind in edge.inputs] == ["b"]
    assert [kind.name for kind in edge.outputs] == ["b", "e"]
    assert ops(edge) == ["Relu", "Mul", "Add"]
    assert len(ue.nodes) + len(edge.nodes) + len(cloud.nodes) == len(found.graph.node_names) + 1  # a constant twice


@pytest.mark.parametrize("count", [0, 8])
def test_a_head_with_nothing_and_one_with_everything_are_ordinary(count: int) -> None:
    found = model(BRANCHES)
    parts = assert_same(found, [of_nodes(found.graph, range(count))], x=X)
    assert [len(ops(part)) for part in parts] == ([0, 8] if count == 0 else [8, 0])


def test_cuts_in_the_wrong_order_are_told() -> None:
    found = model(BRANCHES)
    with pytest.raises(CutError, match="does not come before this part"):
        split(found, [at(found.graph, ["e"]), at(found.graph, ["x"])])


def test_inputs_that_pass_straight_to_outputs_cross() -> None:
    found = model("(float[1,4] x, int64[1] n) => (float[1,4] y, int64[1] n) { a = Relu(x) y = Neg(a) }")
    _, tail = assert_same(found, [after(found.graph, "Relu#0")], x=X, n=np.array([3]))
    assert [kind.name for kind in tail.inputs] == ["a", "n"]


CAPTURING = """(float[2] x, bool cond) => (float[2] y) {
  early = Relu(x)
  late = Neg(early)
  go = Not(cond)
  y = If (go) <
    then_branch = t () => (float[2] r) { inner = Abs(early) r = Add(inner, late) },
    else_branch = e () => (float[2] r) { r = Identity(late) }
  >
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_tensors_captured_by_bodies_cross(condition: bool) -> None:
    found = model(CAPTURING)
    cut = up_to(found.graph, "Not#2")
    assert cut.crossing == ("early", "go", "late")
    assert_same(found, [cut], x=np.array([1, -2], np.float32), cond=np.array(condition))


def test_statements_about_tensors_go_where_these_are() -> None:
    text = proto(BRANCHES)
    helper.set_model_props(text, {"author": "someone"})
    text.producer_name, text.doc_string, text.graph.doc_string = "tests", "about it", "about the graph"
    text.graph.node[1].doc_string = "twice"
    text.training_info.add()
    text.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
    for name in ("a", "e"):
        annotation = text.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    found = Model(text)
    head, tail = assert_same(found, [at(found.graph, ["b"])], x=X)
    for part, values, annotated in ((head, {"a"}, ["a"]), (tail, {"c", "e"}, ["e"])):
        of = part.proto
        assert [(entry.key, entry.value) for entry in of.metadata_props] == [("author", "someone")]
        assert (of.producer_name, of.doc_string, of.graph.doc_string) == ("tests", "about it", "about the graph")
        assert of.opset_import == text.opset_import
        assert {value.name for value in of.graph.value_info} == values
        assert [item.tensor_name for item in of.graph.quantization_annotation] == annotated
        assert "scale" in {tensor.name for tensor in of.graph.initializer}
        assert not of.training_info
    assert head.proto.graph.node[1].doc_string == "twice"


def test_local_functions_survive() -> None:
    function = """<domain: "own", opset_import: ["" : 17]> Twice (v) => (w) { w = Add(v, v) }"""
    found = model("(float[1,4] x) => (float[1,4] y) { a = own.Twice(x) b = Relu(a) y = own.Twice(b) }", function)
    parts = assert_same(found, [after(found.graph, "Relu#1")], x=X)
    assert [part.proto.functions[0].name for part in parts] == ["Twice", "Twice"]


@pytest.mark.parametrize("version", [3, 8])
def test_initialisers_that_are_also_inputs_are_constants(version: int) -> None:
    text = proto(BRANCHES)
    text.ir_version = version
    text.graph.input.append(helper.make_tensor_value_info("two", TensorProto.FLOAT, [1]))
    found = Model(text)
    head, _ = assert_same(found, [at(found.graph, ["b"])], x=X)
    assert [kind.name for kind in head.inputs] == ["x"]


def test_sparse_initialisers_go_where_they_are_used() -> None:
    values = numpy_helper.from_array(np.array([3], np.float32), "sparse")
    text = proto(BRANCHES)
    text.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1])), [1, 4])
    )
    text.graph.node[5].input[1] = "sparse"  # e = Add(c, sparse)
    found = Model(text)
    parts = split(found, [at(found.graph, ["b"])])
    assert [len(part.proto.graph.sparse_initializer) for part in parts] == [0, 1]
    assert verify(found, [at(found.graph, ["b"])]).exact


def test_an_input_of_unknown_rank_crosses_as_a_run_shows_it() -> None:
    found = model("(float[1,4] x, float[] z) => (float[1,4] y) { a = Relu(x) y = Add(a, z) }")
    found.example = {"x": X, "z": X}
    head, tail = split(found, [after(found.graph, "Relu#0")])
    assert tail.inputs[1].shape == (None, None)
    assert difference(Runner(tail).run(Runner(head).run({"x": X, "z": X}))["y"], np.maximum(X, 0) + X) == 0


def test_sequences_and_optionals_cross() -> None:
    found = model(
        """(float[4] x) => (float[2] y) <int64 zero = {0}, int64[2] sizes = {2, 2}> {
          s = SplitToSequence(x, sizes) o = Optional(s) t = OptionalGetElement(o) y = SequenceAt(t, zero) }"""
    )
    for node, kind in (("SplitToSequence#0", "sequence"), ("Optional#1", "optional")):
        head, _ = split(found, [after(found.graph, node)])
        assert [(out.kind, out.dtype) for out in head.outputs] == [(kind, "float32")]
        with pytest.raises(CutError, match=f"is a {kind}, which cannot be sent"):
            head.outputs[0].spec()
    assert_same(found, [after(found.graph, "SplitToSequence#0")], x=X[0])


def test_free_dimensions_stay_free() -> None:
    found = model("(float[N,4] x) => (float[N,4] y) { a = Relu(x) y = Neg(a) }")
    head, tail = assert_same(found, [after(found.graph, "Relu#0")], x=np.ones((3, 4), np.float32))
    assert head.outputs[0].shape == tail.outputs[0].shape == ("N", 4)
    with pytest.raises(CutError, match=r"a has no fixed shape \(\['N', 4\]\)"):
        head.outputs[0].spec()


def test_a_model_can_be_fixed_to_a_shape() -> None:
    found = model("(float[N,4] x, float z) => (float[N,4] y) { a = Relu(x) b = Add(a, z) y = Neg(b) }")
    fixed = found.fixed({"x": (3, 4)})
    head, tail = split(fixed, [after(fixed.graph, "Relu#0")])
    assert head.outputs[0].spec().shape == tail.outputs[0].spec().shape == (3, 4)
    assert found.input_types[0].shape == ("N", 4)
    with pytest.raises(CutError, match=r"input x has the shape \[None, 4\]"):
        found.fixed({"x": (3, 5)})


def test_fixed_shapes_are_constants_in_the_tail() -> None:
    found = model(
        """(float[2,3] x) => (float[6] y) <int64[1] none = {0}, int64 one = {1}> {
          a = Relu(x) s = Shape(a) w = Gather(s, one) b = Neg(a) n = Size(x) c = Unsqueeze(n, none)
          r = Reshape(b, c) z = Cast<to=1>(w) y = Add(r, z) }"""
    )
    head, tail = assert_same(found, [after(found.graph, "Neg#3")], x=np.ones((2, 3), np.float32))
    assert [out.name for out in head.outputs] == ["b"]
    assert ops(tail).count("Constant") == 2
    assert "Shape" not in ops(tail)


def test_the_runtime_is_asked_for_types_that_onnx_does_not_know() -> None:
    found = model("(float[1,4] x) => (float[1,4] y) { a = com.microsoft.Gelu(x) y = Neg(a) }")
    head, _ = assert_same(found, [after(found.graph, "Gelu#0")], x=X)
    assert str(head.outputs[0]) == "a float32[1x4]"


def test_a_run_is_asked_for_shapes_that_nobody_knows() -> None:
    found = model("(float[4] x, int64[k] n) => (float[p,q] y) { a = Reshape(x, n) b = Relu(a) y = Neg(b) }")
    found.example = {"x": X[0], "n": np.array([2, 2])}
    head, _ = assert_same(found, [after(found.graph, "Relu#1")], x=X[0], n=np.array([2, 2]))
    assert head.outputs[0].shape == (None, None)


def test_what_the_runtime_does_not_have_is_told_and_cut_around() -> None:
    found = model("(float[1,4] x) => (float[1,4] y) { a = Relu(x) b = Neg(a) c = own.Unknown(b) y = Exp(c) }")
    head, tail = split(found, [after(found.graph, "Neg#1")])
    assert ops(tail) == ["Unknown", "Exp"]
    assert np.array_equal(Runner(head).run({"x": X})["b"], -np.maximum(X, 0))
    with pytest.raises(ModelError, match="Unknown"):
        Runner(tail)
    with pytest.raises(CutError, match="type and shape of c cannot be found out"):
        split(found, [after(found.graph, "Unknown#2")])
    with pytest.raises(ModelError, match="Unknown"):
        verify(found, [after(found.graph, "Relu#0")])


def test_any_characters_are_names() -> None:
    text = proto("(float[1,4] x) => (float[1,4] y) { a = Relu(x) y = Neg(a) }")
    odd = "ä/b c:0\n,=\"'日"
    text.graph.node[0].output[0] = text.graph.node[1].input[0] = text.graph.node[0].name = odd
    found = Model(text)
    assert after(found.graph, odd).crossing == (odd,)
    assert_same(found, [at(found.graph, [odd])], x=X)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_big_architectures_are_cut_anywhere(name: str) -> None:
    found = Model(ARCHITECTURES[name]())
    nodes = random.Random(name).sample(found.graph.node_names, 4)
    result = sweep(found, nodes=nodes)
    assert (result.cuts, result.verified, result.exceptions, result.different) == (4, 4, (), ())
    for node in nodes[:2]:
        for part in split(found, [after(found.graph, node)]):
            onnx.checker.check_model(part.proto, full_check=True)


def test_free_dimensions_of_a_transformer() -> None:
    found = Model(transformer(layers=2, tokens="T"))
    result = sweep(found, {"x": np.arange(5, dtype=np.int64)[None]})
    assert result.cuts == result.verified == len(found.graph.node_names)


@pytest.mark.parametrize("name", ["silero_vad", "mobilenet_v2_quant", "ultraface_version-RFB-320", "yolox_nano"])
def test_published_models(shared_dir: Path, name: str) -> None:
    found = Model.load(shared_dir / "models" / f"{name}.onnx")
    names = found.graph.node_names
    result = sweep(found, nodes=random.Random(name).sample(names, min(4, len(names))))
    assert result.cuts == result.verified == min(4, len(names))


def test_a_sample_of_onnx_s_own_tests() -> None:
    cases = list(backend_cases(["affinegrid", "gridsample", "loop", "sequence_map"]))
    assert len(cases) > 30
    ran = 0
    for case in random.Random(5).sample(cases, 20):
        found = Model(case.model, case.folder)
        try:
            result = sweep(found, case.inputs)
        except ModelError:  # newer or older opsets than the runtime has, chance
            continue
        assert result.cuts == result.verified == len(found.graph.node_names), case.name
        ran += 1
    assert ran > 8
