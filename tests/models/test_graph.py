from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from models.graph import split
from models.runtime import load_submodel
from models.tensor import TensorSpec
from splitrtc_errors import CutError, ModelFileError

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'

# Two branches from b that meet again, a constant that both sides use, and a residual connection.
BRANCHES = f"""{HEADER}
g (float[1,4] x) => (float[1,4] y)
<float[1] two = {{2}}, float[1,4] a, float[1,4] b, float[1,4] c, float[1,4] d, float[1,4] e>
{{
  one = Constant <value_float = 1.0>()
  a = Mul(x, two)
  b = Add(a, one)
  c = Relu(b)
  d = Mul(b, two)
  e = Add(c, d)
  f = Add(e, one)
  y = Add(f, b)
}}"""


def model(text: str) -> bytes:
    data: bytes = parse_model(text).SerializeToString()
    return data


def names(part: bytes) -> tuple[list[str], list[str], list[str]]:
    graph = onnx.load_model_from_string(part).graph
    return [v.name for v in graph.input], [n.op_type for n in graph.node], [v.name for v in graph.output]


def run(data: bytes, *arrays: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return load_submodel(data, "cpu", optimise=False).run(arrays)


def assert_same(whole: bytes, cut: Sequence[str], *inputs: np.ndarray[Any, Any]) -> tuple[bytes, bytes]:
    parts = split(whole, cut)
    for part in (parts.head, parts.tail):
        onnx.checker.check_model(onnx.load_model_from_string(part), full_check=True)
    assert [spec.name for spec in parts.crossing] == sorted(cut, key=str.encode)
    between = run(parts.head, *inputs)
    assert [(array.shape, array.dtype) for array in between] == [(s.shape, s.dtype) for s in parts.crossing]
    for expected, found in zip(run(whole, *inputs), run(parts.tail, *between), strict=True):
        np.testing.assert_array_equal(expected, found)
    return parts.head, parts.tail


X = np.array([[1, -2, 3, -4]], np.float32)


def test_a_cut_takes_the_ancestors_and_leaves_the_rest() -> None:
    head, tail = assert_same(model(BRANCHES), ["b"], X)
    assert names(head) == (["x"], ["Constant", "Mul", "Add"], ["b"])
    assert names(tail) == (["b"], ["Constant", "Relu", "Mul", "Add", "Add", "Add"], ["y"])


def test_a_cut_of_several_tensors_is_sorted_by_name() -> None:
    head, tail = assert_same(model(BRANCHES), ["e", "b"], X)
    assert names(head)[2] == names(tail)[0] == ["b", "e"]
    assert split(model(BRANCHES), ["e", "b"]).crossing == (
        TensorSpec("b", "float32", (1, 4)),
        TensorSpec("e", "float32", (1, 4)),
    )


def test_initialisers_go_where_they_are_used() -> None:
    parts = split(model(BRANCHES), ["b", "e"])
    head, tail = (onnx.load_model_from_string(part).graph for part in (parts.head, parts.tail))
    assert [tensor.name for tensor in head.initializer] == ["two"]
    assert not tail.initializer


def test_splitting_is_deterministic() -> None:
    assert split(model(BRANCHES), ["b", "e"]) == split(model(BRANCHES), ["e", "b", "e"])


def test_an_incomplete_cut_names_what_else_crosses() -> None:
    with pytest.raises(CutError, match=r"e: this does not cut the model in two, as these cross too: b$"):
        split(model(BRANCHES), ["e"])


def test_a_cut_that_lets_the_picture_through_says_so() -> None:
    whole = model(f"{HEADER} g (float[2] x) => (float[2] y) {{ a = Relu(x) y = Add(a, x) }}")
    with pytest.raises(CutError, match=r"x \(a model input: the picture itself\)"):
        split(whole, ["a"])


def test_a_tensor_that_does_not_cross_is_refused() -> None:
    with pytest.raises(CutError, match="the rest of the model does not use a; leave it out"):
        split(model(BRANCHES), ["a", "b"])


def test_a_long_list_of_names_is_shortened() -> None:
    chain = (
        "r0 = Relu(x) "
        + "".join(f"r{i + 1} = Relu(r{i}) " for i in range(8))
        + f"y = Sum({', '.join(f'r{i}' for i in range(9))})"
    )
    whole = model(f"{HEADER} g (float[2] x) => (float[2] y) {{ {chain} }}")
    with pytest.raises(CutError, match=r"cross too: r0, r1, r2, r3, r4 and 3 more$"):
        split(whole, ["r8"])


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ([], "at least one tensor"),
        (["x"], "x is an input of the model"),
        (["two"], "no tensor 'two'"),
        (["one"], "one is constant"),
        (["zzz"], "no tensor 'zzz'$"),
        (["y"], "nothing is left for the tail"),
    ],
)
def test_what_cannot_be_a_cut(cut: list[str], message: str) -> None:
    with pytest.raises(CutError, match=message):
        split(model(BRANCHES), cut)


def test_a_misspelt_tensor_brings_the_near_ones() -> None:
    whole = model(f"{HEADER} g (float[2] x) => (float[2] y) {{ conv_11 = Relu(x) y = Neg(conv_11) }}")
    with pytest.raises(CutError, match="no tensor 'conv_1'; near it are conv_11"):
        split(whole, ["conv_1"])


def test_an_early_output_has_to_cross_and_passes_through_the_tail() -> None:
    whole = model(
        f"{HEADER} g (float[2] x) => (float[2] early, float[2] y) {{ early = Neg(x) a = Abs(early) y = Relu(a) }}"
    )
    with pytest.raises(CutError, match="cross too: early"):
        split(whole, ["a"])
    head, tail = assert_same(whole, ["a", "early"], np.array([1, -2], np.float32))
    assert names(head) == (["x"], ["Neg", "Abs"], ["a", "early"])
    assert names(tail) == (["a", "early"], ["Relu"], ["early", "y"])


def test_all_outputs_of_a_node_are_considered() -> None:
    whole = model(f"{HEADER} g (float[4] x) => (float[2] y) {{ a, b = Split(x) c = Relu(a) y = Add(c, b) }}")
    with pytest.raises(CutError, match="cross too: b"):
        split(whole, ["a"])
    assert_same(whole, ["a", "b"], np.arange(4, dtype=np.float32))


def test_dead_nodes_and_optional_inputs_do_no_harm() -> None:
    whole = model(f"{HEADER} g (float[2] x) => (float[2] y) {{ a = Relu(x) dead = Neg(a) y = Clip(a, , ) }}")
    _, tail = assert_same(whole, ["a"], np.array([1, -2], np.float32))
    assert names(tail)[1] == ["Clip"]


# The bodies of If capture tensors of the graph around them; they are no inputs of the If node.
CAPTURING = f"""{HEADER}
g (float[2] x, bool cond) => (float[2] y)
{{
  early = Relu(x)
  late = Neg(early)
  go = Not(cond)
  y = If (go) <
    then_branch = t () => (float[2] r) {{ inner = Abs(early) r = Add(inner, late) }},
    else_branch = e () => (float[2] r) {{ r = Identity(late) }}
  >
}}"""


def test_tensors_captured_by_bodies_cross() -> None:
    whole = model(CAPTURING)
    with pytest.raises(CutError, match=r"cross too: cond \(a model input: the picture itself\), early"):
        split(whole, ["late"])
    for condition in (True, False):
        assert_same(whole, ["early", "go", "late"], np.array([1, -2], np.float32), np.array(condition))


def test_names_inside_a_body_hide_those_outside() -> None:
    # The body's own "a" is not the graph's, so that the cut at b is complete.
    whole = model(
        f"""{HEADER} g (float[2] x) => (float[2] y)
        {{
          a = Relu(x)
          b = Neg(a)
          yes = Constant <value = bool {{1}}>()
          y = If (yes) <then_branch = t () => (float[2] a) {{ a = Abs(b) }},
                        else_branch = e () => (float[2] q) {{ q = Identity(b) }}>
        }}"""
    )
    parts = split(whole, ["b"])
    assert names(parts.tail)[0] == ["b"]


def test_initialisers_inside_a_body_stay_there() -> None:
    proto = parse_model(CAPTURING)
    body = next(a.g for a in proto.graph.node[-1].attribute if a.name == "then_branch")
    body.initializer.append(numpy_helper.from_array(np.array([5, 5], np.float32), "inner2"))
    body.node[0].input[0] = "inner2"
    whole = proto.SerializeToString()
    assert_same(whole, ["go", "late"], np.array([1, -2], np.float32), np.array(False))


def test_metadata_and_opsets_are_kept_and_statements_about_other_tensors_dropped() -> None:
    proto = parse_model(BRANCHES)
    helper.set_model_props(proto, {"author": "someone"})
    proto.producer_name = "tests"
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    proto.training_info.add()
    for name in ("a", "e"):
        proto.graph.quantization_annotation.add().tensor_name = name
    parts = split(proto.SerializeToString(), ["b"])
    for part, kept, annotated in ((parts.head, {"a"}, ["a"]), (parts.tail, {"c", "d", "e"}, ["e"])):
        loaded = onnx.load_model_from_string(part)
        assert [(p.key, p.value) for p in loaded.metadata_props] == [("author", "someone")]
        assert (loaded.producer_name, loaded.ir_version, loaded.graph.name) == ("tests", 8, "g")
        assert [(o.domain, o.version) for o in loaded.opset_import] == [("", 17), ("ai.onnx.ml", 3)]
        assert {value.name for value in loaded.graph.value_info} == kept
        assert [item.tensor_name for item in loaded.graph.quantization_annotation] == annotated
        assert not loaded.training_info


def test_initialisers_that_are_also_inputs_are_not_asked_for() -> None:
    proto = parse_model(BRANCHES)
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("two", TensorProto.FLOAT, [1]))
    head, _ = assert_same(proto.SerializeToString(), ["b"], X)
    assert names(head)[0] == ["x"]


def test_sparse_initialisers_go_where_they_are_used() -> None:
    values = numpy_helper.from_array(np.array([3], np.float32), "sparse")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1])), [1, 4])
    proto = parse_model(BRANCHES)
    proto.graph.sparse_initializer.append(sparse)
    proto.graph.node[5].input[1] = "sparse"  # e = Add(c, sparse)
    parts = split(proto.SerializeToString(), ["b"])
    counts = [len(onnx.load_model_from_string(part).graph.sparse_initializer) for part in (parts.head, parts.tail)]
    assert counts == [0, 1]


def test_shapes_that_the_model_does_not_state_are_inferred() -> None:
    whole = model(f"{HEADER} g (float16[2,3] x) => (float16[3,2] y) {{ a = Transpose(x) b = Relu(a) y = Neg(b) }}")
    assert split(whole, ["b"]).crossing == (TensorSpec("b", "float16", (3, 2)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g (float[N,2] x) => (float[N,2] y) { a = Relu(x) y = Neg(a) }", r"a has no fixed shape \(\['N', 2\]\)"),
        ("g (float[2] x) => (float[K] y) { a = NonZero(x) y = Cast<to=1>(a) }", "a has no fixed shape"),
        ("g (float[2] x) => (float[2] y) { a = own.Op(x) y = Neg(a) }", "the type and shape of a cannot be found out"),
        ("g (bfloat16[2] x) => (float[2] y) { a = Neg(x) y = Cast<to=1>(a) }", "cannot cross: .*'bfloat16'"),
    ],
)
def test_cuts_without_a_fixed_shape_or_a_known_type_are_refused(text: str, message: str) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
    with pytest.raises(CutError, match=message):
        split(model(header + text), ["a"])


@pytest.mark.parametrize("data", [b"no model", b"\xff" * 100])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        split(data, ["a"])


def test_weights_in_other_files_are_refused() -> None:
    proto = parse_model(BRANCHES)
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelFileError, match="weights are in other files"):
        split(proto.SerializeToString(), ["b"])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """A random graph of additions, and some of its tensors."""
    made = ["x"]
    lines = []
    for i in range(draw(st.integers(2, 10))):
        left, right = draw(st.sampled_from(made)), draw(st.sampled_from([*made, "k"]))
        lines.append(f"t{i} = Add({left}, {right})")
        made.append(f"t{i}")
    text = f"{HEADER} g (float[2] x) => (float[2] {made[-1]}) <float[2] k = {{1,2}}> {{ {' '.join(lines)} }}"
    return model(text), draw(st.lists(st.sampled_from(made[1:]), min_size=1, max_size=4, unique=True))


@given(case=graphs())
def test_any_cut_is_right_or_refused(case: tuple[bytes, list[str]]) -> None:
    whole, cut = case
    try:
        split(whole, cut)
    except CutError:
        return
    assert_same(whole, cut, np.array([1, -3], np.float32))


def assert_computes_the_same(data: bytes, cut: Sequence[str]) -> None:
    parts = split(data, cut)
    head = load_submodel(parts.head, "cpu", optimise=False)
    random = np.random.default_rng(1)
    inputs = [random.integers(0, 256, spec.shape).astype(spec.dtype) for spec in head.inputs]
    for expected, found in zip(run(data, *inputs), run(parts.tail, *head.run(inputs)), strict=True):
        np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("yolox_nano", ["1204"]),
        ("yolox_nano", ["1339", "781", "890"]),
        ("ultraface_version-RFB-320", ["245"]),
    ],
)
def test_known_cuts_of_published_models(shared_dir: Path, name: str, cut: list[str]) -> None:
    assert_computes_the_same((shared_dir / "models" / f"{name}.onnx").read_bytes(), cut)


@pytest.mark.parametrize(
    ("name", "possible"), [("picodet_s_320_coco", True), ("mobilenet_v2_quant", True), ("silero_vad", False)]
)
def test_published_models_are_cut_anywhere_or_refused(shared_dir: Path, name: str, possible: bool) -> None:
    data = (shared_dir / "models" / f"{name}.onnx").read_bytes()
    nodes = onnx.load_model_from_string(data).graph.node
    cut = 0
    for node in nodes[:: max(1, len(nodes) // 20)]:
        try:
            split(data, [node.output[0]])
        except CutError:
            continue
        assert_computes_the_same(data, [node.output[0]])
        cut += 1
    assert (cut > 0) == possible
