from __future__ import annotations

import pytest
from onnx import ModelProto, shape_inference
from onnx.parser import parse_model

from models.graph import macs
from models.graph.macs import macs_of

HEADER = '<ir_version: 9, opset_import: ["" : 20, "local": 1, "com.microsoft": 1]>\n'


def count(text: str) -> list[int | None]:
    model: ModelProto = shape_inference.infer_shapes(parse_model(HEADER + text), data_prop=True)
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        if all(size.HasField("dim_value") for size in sizes):
            shapes[value.name] = tuple(size.dim_value for size in sizes)
    return macs_of(model, shapes)


@pytest.mark.parametrize(
    ("inputs", "node", "wanted"),
    [
        ("float[1,3,8,8] x, float[16,3,3,3] w", "Conv <strides=[2,2], pads=[1,1,1,1]> (x, w)", 16 * 4 * 4 * 27),
        ("float[1,6,8,8] x, float[6,1,3,3] w", "Conv <group=6> (x, w)", 6 * 6 * 6 * 9),
        ("float[1,6,8,8] x, float[6,4,2,2] w", "ConvTranspose <strides=[2,2]> (x, w)", 6 * 64 * 4 * 4),
        ("uint8[1,3,4,4] x, uint8[5,3,1,1] w", "ConvInteger (x, w)", 5 * 16 * 3),
        ("float[5,7] x, float[7,9] w", "MatMul (x, w)", 5 * 7 * 9),
        ("float[2,3,5,7] x, float[7,9] w", "MatMul (x, w)", 6 * 5 * 7 * 9),
        ("float[7,5] x, float[9,7] w", "Gemm <transA=1, transB=1> (x, w)", 5 * 7 * 9),
        ("float[2,3,4] x, float[2,4,5] w", 'Einsum <equation="bij,bjk->bik"> (x, w)', 2 * 3 * 4 * 5),
        ("float[6,2,3,4] x, float[2,4,5] w", 'Einsum <equation="...ij,...jk"> (x, w)', 6 * 2 * 3 * 4 * 5),
        ("float[6,2] x, float[2] w", 'Einsum <equation="ij->ji"> (x)', 0),
        ("float[6,2] x, float[6,2] w", "Add (x, w)", 0),
    ],
)
def test_each_operator_counts_as_by_hand(inputs: str, node: str, wanted: int) -> None:
    kind = "int32" if "uint8" in inputs else "float"
    assert count(f"g ({inputs}) => ({kind}[] y) {{ y = {node} }}") == [wanted]


def test_a_recurrent_layer_counts_both_products_at_each_step() -> None:
    text = "g (float[7,2,3] x, float[1,20,3] w, float[1,20,5] r) => (float[] y) { y = LSTM <hidden_size=5> (x, w, r) }"
    assert count(text) == [7 * 2 * 20 * (3 + 5)]


def test_a_quantised_convolution() -> None:
    text = """g (uint8[1,3,4,4] x, float s, uint8 z, uint8[5,3,1,1] w) => (uint8[] y)
    { y = QLinearConv (x, s, z, w, s, z, s, z) }"""
    assert count(text) == [5 * 16 * 3]


def test_bodies_count_with_their_node() -> None:
    text = """g (float[2,3] x, bool c) => (float[] y) <float[3,4] a = {1,1,1,1,1,1,1,1,1,1,1,1}, int64 five = {5}> {
      once = If (c) <then_branch = t () => (float[2,4] p) { p = MatMul (x, a) }, else_branch = e () => (float[2,4] q)
        { m = MatMul (x, a) q = Mul (m, m) }>
      y = Loop (five, , once) <body = b (int64 i, bool on, float[2,4] s) => (bool also, float[2,4] n)
        { also = Identity (on) w = Transpose <perm=[1,0]> (a) v = MatMul (s, w) n = MatMul (v, a) }>
    }"""
    assert count(text) == [2 * 3 * 4, 5 * 2 * 2 * 3 * 4]


def test_a_scan_counts_for_each_element() -> None:
    text = """g (float[9,2,3] x) => (float[] y) <float[3,4] a = {1,1,1,1,1,1,1,1,1,1,1,1}> {
      y = Scan <num_scan_inputs = 1, body = b (float[2,3] e) => (float[2,4] o) { o = MatMul (e, a) }> (x)
    }"""
    assert count(text) == [9 * 2 * 3 * 4]


def test_a_function_counts_what_is_in_it() -> None:
    text = """g (float[2,3] x, float[3,4] a) => (float[2,4] y) { y = local.twice (x, a) }
    <domain: "local", opset_import: ["" : 20]> twice (p, q) => (r)
    { s = MatMul (p, q) t = Transpose <perm=[1,0]> (q) u = MatMul (s, t) r = MatMul (u, q) }"""
    assert count(text) == [3 * 2 * 3 * 4]


def test_bodies_are_not_followed_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macs, "MAX_DEPTH", 0)
    text = """g (float[2,3] x, float[3,4] a, bool c) => (float[] y) {
      y = If (c) <then_branch = t () => (float[] p) { p = MatMul (x, a) }, else_branch = e () => (float[] q)
      { q = MatMul (x, a) }> }"""
    assert count(text) == [None]


def test_where_a_shape_is_not_known_nothing_is_claimed() -> None:
    assert count("g (float[N,3] x, float[3,4] a) => (float[] y) { y = MatMul (x, a) }") == [None]
    text = """g (float[N,3] x, float[3,4] a, bool c) => (float[] y) {
      y = If (c) <then_branch = t () => (float[] p) { p = MatMul (x, a) }, else_branch = e () => (float[] q)
      { q = Identity (x) }> }"""
    assert count(text) == [None]
