from __future__ import annotations

import pytest
from onnx import ModelProto, helper
from onnx.parser import parse_model

from models.graph import Graph
from splitrtc_errors import CutError, ModelFileError

HEADER = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'


def graph(body: str, shapes: dict[str, list[int | str | None]] | None = None) -> Graph:
    return Graph.of(parse_model(f"{HEADER} g {body}"), shapes)


def free(found: Graph) -> list[str]:
    return [found.op_types[i] for i in range(len(found.op_types)) if found.free[i]]


def repeatable(found: Graph) -> list[str]:
    return [found.op_types[i] for i in range(len(found.op_types)) if found.repeatable[i]]


def test_nodes_and_tensors_are_numbered() -> None:
    found = graph("(float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = Mul(x, w) y, z = own.Two(a, x, a) }")
    assert found.tensor_names == ("x", "w", "a", "y", "z")
    assert (found.uses, found.makes) == (((0, 1), (2, 0)), ((2,), (3, 4)))
    assert (found.producer, found.inputs, found.outputs, found.initializers) == ((-1, -1, 0, 1, 1), (0,), (3,), (1,))
    assert found.node_names == ("Mul#0", "Two#1")
    assert found.op_types == ("Mul", "Two")
    assert found.varying == (True, False, True, True, True)
    assert found.node_id("Two#1") == 1
    assert found.tensor_id("y") == 3
    assert found.has_tensor("y")
    assert not found.has_tensor("q")


def test_names_that_are_missing_or_taken_are_made_up() -> None:
    proto = parse_model(
        f"{HEADER} g (float[2] x) => (float[2] y) {{ a = Relu(x) b = Relu(a) c = Relu(b) y = Relu(c) }}"
    )
    for node, name in zip(proto.graph.node, ("same", "same", "same#1", ""), strict=True):
        node.name = name
    assert Graph.of(proto).node_names == ("same", "same#1'", "same#1", "Relu#3")


def test_a_misspelt_name_brings_the_near_ones() -> None:
    found = graph("(float[2] x) => (float[2] y) { conv_11 = Relu(x) y = Neg(conv_11) }")
    with pytest.raises(CutError, match="no tensor 'conv_1'; near it are conv_11"):
        found.tensor_id("conv_1")
    with pytest.raises(CutError, match="no node 'zzzzz'$"):
        found.node_id("zzzzz")


def test_order_is_established_where_the_file_has_none() -> None:
    proto = parse_model(f"{HEADER} g (float[2] x) => (float[2] y) {{ a = Relu(x) b = Neg(a) y = Add(a, b) }}")
    nodes = [proto.graph.node[i] for i in (2, 0, 1)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    found = Graph.of(proto)
    assert found.op_types == ("Relu", "Neg", "Add")
    assert found.order == (1, 2, 0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("(float[2] x) => (float[2] y) { a = Add(x, b) b = Neg(a) y = Neg(b) }", "on a cycle, or behind one"),
        ("(float[2] x) => (float[2] y) { y = Add(x, q) }", "node Add#0 reads 'q', which nothing makes"),
        ("(float[2] x) => (float[2] y) { a = Neg(x) a = Abs(x) y = Neg(a) }", "is called 'a', and something else"),
        ("(float[2] x) => (float[2] y) { x = Neg(x) y = Neg(x) }", "is called 'x', and something else"),
        ("(float[2] x, float[2] x) => (float[2] y) { y = Neg(x) }", "an input is called 'x'"),
        ("(float[2] x) => (float[2] y) { a = Neg(x) }", "nothing makes its output 'y'"),
    ],
)
def test_what_is_no_graph_is_refused(body: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=f"the model is damaged: .*{message}"):
        graph(body)


def test_a_nameless_input_is_refused() -> None:
    proto = parse_model(f"{HEADER} g (float[2] x) => (float[2] y) {{ y = Neg(x) }}")
    proto.graph.input.add()
    with pytest.raises(ModelFileError, match="an input has no name"):
        Graph.of(proto)


def test_bodies_read_what_they_capture_at_any_depth() -> None:
    found = graph(
        """(float[2] x, bool go) => (float[2] y) {
          a = Relu(x) b = Neg(x) c = Abs(x)
          y = If (go) <
            then_branch = t () => (float[2] r) {
              q = Identity(a)
              r = If (go) <then_branch = tt () => (float[2] u) { u = Add(q, b) },
                           else_branch = te () => (float[2] v) { v = Identity(c) }>
            },
            else_branch = e () => (float[2] a) { a = Identity(b) }
          >
        }"""
    )
    assert {found.tensor_names[t] for t in found.uses[3]} == {"go", "a", "b", "c"}
    assert len(found.uses[3]) == 4


def test_initialisers_of_bodies_and_sparse_ones_are_their_own() -> None:
    proto = parse_model(
        f"""{HEADER} g (float[2] x, bool go) => (float[2] y) {{
          y = If (go) <then_branch = t () => (float[2] r) {{ r = Add(x, w) }},
                       else_branch = e () => (float[2] v) {{ v = Identity(s) }}> }}"""
    )
    bodies = {attribute.name: attribute.g for attribute in proto.graph.node[0].attribute}
    bodies["then_branch"].initializer.add(name="w")
    bodies["else_branch"].sparse_initializer.add().values.name = "s"
    proto.graph.sparse_initializer.add().values.name = "outside"
    found = Graph.of(proto)
    assert [found.tensor_names[t] for t in found.uses[0]] == ["go", "x"]
    assert found.initializers == (found.tensor_id("outside"),)


def test_several_bodies_in_one_attribute_are_read() -> None:
    proto = parse_model(f"{HEADER} g (float[2] x, float[2] z) => (float[2] y) {{ y = own.Many(x) }}")
    body = helper.make_graph([helper.make_node("Neg", ["z"], ["r"])], "b", [], [])
    proto.graph.node[0].attribute.append(helper.make_attribute("branches", [body]))
    assert Graph.of(proto).uses == ((0, 1),)


def test_constants_and_what_follows_from_them_are_free() -> None:
    found = graph(
        "(float[2] x) => (float[2] y) { c = Constant<value_float=1.0>() d = Neg(c) a = Add(x, d) y = Relu(a) }"
    )
    assert free(found) == ["Constant", "Neg"]
    assert repeatable(found) == []


SHAPES = """(float[1,3,4] x) => (float[3,4] y) {
  i = Constant<value_int=1>() k = Constant<value=int64[1]{2}>() j = Constant<value_ints=[0,1]>()
  s = Shape(x) n = Size(x) some = Shape<start=1>(x)
  one = Gather(s, i) two = Gather(s, k) three = Gather(s, j)
  t = Mul(one, two)
  r = Reshape(x, t)
  y = Relu(r)
}"""


def test_fixed_shapes_are_values() -> None:
    found = graph(SHAPES, {"x": [1, 3, 4]})
    values = {found.tensor_names[found.makes[i][0]]: value for i, value in found.shapes.items()}
    assert values == {"s": (1, 3, 4), "n": 12, "some": (3, 4)}
    assert free(found) == [op for op in found.op_types if op not in ("Reshape", "Relu")]
    assert repeatable(found) == ["Reshape"]


def test_sizes_among_free_ones_are_values_too() -> None:
    found = graph(SHAPES, {"x": ["N", 3, 4]})
    values = {found.tensor_names[found.makes[i][0]]: value for i, value in found.shapes.items()}
    assert values == {"some": (3, 4), "one": 3, "two": (4,)}
    # The others depend on the input's shape, not on what is in it.
    assert repeatable(found) == ["Shape", "Size", "Gather", "Reshape"]


def test_places_may_be_initialisers() -> None:
    for place, value in (("int64 i = {1}", 3), ("int64[2] i = {1, 2}", (3, 4)), ("int32 i = {1}", None)):
        found = graph(
            f"(float[N,3,4] x) => (int64 y) <{place}> {{ s = Shape(x) y = Gather(s, i) }}", {"x": ["N", 3, 4]}
        )
        assert found.shapes == ({} if value is None else {1: value})


def test_without_shapes_none_is_fixed() -> None:
    assert graph(SHAPES).shapes == {}


@pytest.mark.parametrize("index", ["value_int=3", "value_int=-4", "value_float=1.0", "value=int32{1}"])
def test_what_is_not_in_a_shape_is_no_value(index: str) -> None:
    body = f"(float[1,3,4] x) => (int64 y) {{ i = Constant<{index}>() s = Shape(x) y = Gather(s, i) }}"
    found = graph(body, {"x": [1, "W", 4]})
    assert found.shapes == {}


@pytest.mark.parametrize(
    "body",
    [
        "(float[2] x, int64 i) => (int64 y) { s = Shape(x) y = Gather(s, i) }",  # an unknown place
        "(float[2] x) => (int64 y) { i = Size(x) j = Neg(i) s = Shape(x) y = Gather(s, j) }",
        "(int64[2] x, int64 i) => (int64 y) { y = Gather(x, i) }",  # of no shape
        "(int64[2] x) => (int64 y) { i = Constant<value_int=0>() y = Gather(x, i) }",
        "(int64[2] x) => (int64 y) { y = Gather(x) }",
        "(int64[2] x) => (int64 y) { i = Constant<value_int=0>() s = Neg(x) y = Gather(s, i) }",
        "(float[2] q) => (int64[1] y) { x = Relu(q) z = Relu(x) y = own.Shape(z) }",
    ],
)
def test_other_gathers_and_other_domains_are_no_values(body: str) -> None:
    assert graph(body, {"q": [2]}).shapes == {}


@pytest.mark.parametrize(
    ("node", "varies"),
    [
        ("RandomNormal<shape=[2]>()", True),
        ("own.Unknown()", True),
        ("own.Chance()", True),
        ("own.CallsChance()", True),
        ("own.Sure()", False),
        ("Constant<value_floats=[1.0, 2.0]>()", False),
    ],
)
def test_chance_is_never_constant(node: str, varies: bool) -> None:
    functions = """
    <domain: "own", opset_import: ["" : 17]> Sure () => (r) { r = Constant<value_floats=[1.0, 2.0]>() }
    <domain: "own", opset_import: ["" : 17, "own" : 1]> CallsChance () => (r) { r = own.Chance() }
    <domain: "own", opset_import: ["" : 17]> Chance () => (r) { r = RandomNormal<shape=[2]>() }
    """
    found = Graph.of(parse_model(f"{HEADER} g (float[2] x) => (float[2] y) {{ a = {node} y = Add(x, a) }} {functions}"))
    assert found.varying[found.tensor_id("a")] is varies
    assert found.free[0] is not varies
    assert not found.repeatable[0]


def test_chance_inside_a_body_and_in_training_counts() -> None:
    found = graph(
        """(float[2] x) => (float[2] y) {
          yes = Constant<value = bool {1}>()
          w = Constant<value_floats=[1.0, 2.0]>()
          a = If (yes) <then_branch = t () => (float[2] r) { r = RandomUniform<shape=[2]>() },
                        else_branch = e () => (float[2] s) { s = Identity(w) }>
          b = Dropout(w) c = Dropout(w, , yes)
          d = Add(a, b) y = Add(d, c)
        }"""
    )
    assert {name: found.varying[found.tensor_id(name)] for name in "abc"} == {"a": True, "b": False, "c": True}


def test_an_initialiser_that_is_listed_as_an_input_is_none() -> None:
    proto: ModelProto = parse_model(
        f"{HEADER} g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{ y = Add(x, w) }}"
    )
    proto.graph.input.append(helper.make_tensor_value_info("w", 1, [2]))
    assert Graph.of(proto).inputs == (0,)
