from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.parser import parse_model

from models.graph import Cut, Graph, after, at, before, exactly, of_nodes, up_to
from models.graph.cuts import constant_nodes, nodes_between
from splitrtc_errors import CutError

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'

# Two branches from b that meet again, a constant that both sides use, and a residual connection.
BRANCHES = """(float[1,4] x) => (float[1,4] y) <float[1] two = {2}> {
  one = Constant <value_float = 1.0>()
  a = Mul(x, two)
  b = Add(a, one)
  c = Relu(b)
  d = Mul(b, two)
  e = Add(c, d)
  f = Add(e, one)
  y = Add(f, b)
}"""


def graph(body: str, **shapes: list[int | str | None]) -> Graph:
    return Graph.of(parse_model(f"{HEADER} g {body}"), shapes)


def made(found: Graph, cut: Cut) -> set[str]:
    return {found.tensor_names[found.makes[node][0]] for node in cut.head}


@pytest.mark.parametrize(
    ("cut", "head", "crossing"),
    [
        (lambda g: after(g, "Add#2"), {"one", "a", "b"}, ("b",)),
        (lambda g: after(g, "Add#5"), {"one", "a", "b", "c", "d", "e"}, ("b", "e")),
        (lambda g: before(g, "Add#5"), {"one", "a", "b", "c", "d"}, ("b", "c", "d")),
        (lambda g: before(g, "Mul#1"), set(), ("x",)),
        (lambda g: at(g, ["c"]), {"one", "a", "b", "c"}, ("b", "c")),
        (lambda g: at(g, ["e", "a"]), {"one", "a", "b", "c", "d", "e"}, ("b", "e")),
        (lambda g: at(g, ["x"]), set(), ("x",)),
        (lambda g: at(g, ["one", "two"]), set(), ("x",)),
        (lambda g: up_to(g, "Relu#3"), {"one", "a", "b", "c"}, ("b", "c")),
        (lambda g: after(g, "Constant#0"), set(), ("x",)),
        (lambda g: of_nodes(g, []), set(), ("x",)),
        (lambda g: of_nodes(g, range(8)), {"one", "a", "b", "c", "d", "e", "f", "y"}, ("y",)),
    ],
)
def test_the_forms_of_a_cut(cut: Callable[[Graph], Cut], head: set[str], crossing: tuple[str, ...]) -> None:
    found = graph(BRANCHES)
    result = cut(found)
    assert (made(found, result), result.crossing) == (head, crossing)
    assert result.carries_input == ("x" in crossing)
    assert result.is_remote == (not head)


def test_everything_up_to_here_is_more_than_the_ancestors() -> None:
    found = graph("(float[2] x) => (float[2] y) { a = Relu(x) b = Neg(x) c = Abs(b) y = Add(a, c) }")
    assert after(found, "Neg#1").crossing == ("b", "x")
    assert after(found, "Neg#1").carries_input
    assert up_to(found, "Neg#1").crossing == ("a", "b")


def test_a_cut_needs_tensors_that_are_there() -> None:
    with pytest.raises(CutError, match="at least one tensor"):
        at(graph(BRANCHES), [])
    with pytest.raises(CutError, match="no tensor 'zzz'"):
        at(graph(BRANCHES), ["zzz"])


def test_an_early_output_crosses_and_a_passing_input_too() -> None:
    found = graph(
        "(float[2] x) => (float[2] early, float[2] y, float[2] x) { early = Neg(x) a = Abs(early) y = Relu(a) }"
    )
    cut = after(found, "Abs#1")
    assert cut.crossing == ("a", "early", "x")
    assert cut.carries_input


def test_dead_nodes_go_nowhere() -> None:
    found = graph("(float[2] x) => (float[2] y) { dead = Abs(x) a = Neg(x) dead2 = Add(dead, a) y = Relu(a) }")
    assert up_to(found, "Add#2").crossing == ("a",)
    assert made(found, up_to(found, "Add#2")) == {"a"}


def test_a_model_that_depends_on_nothing_has_nothing_that_crosses() -> None:
    found = graph("(float[2] x) => (float[2] y) { a = Constant<value_floats=[1.0, 2.0]>() y = Neg(a) }")
    assert after(found, "Constant#0") == Cut(frozenset(), (), False)


def test_what_only_reads_a_tensor_in_another_shape_is_not_sent_beside_it() -> None:
    found = graph(
        """(float[2,2] x) => (float[4] y) <int64[1] flat = {-1}> {
          a = Relu(x) r = Reshape(a, flat) i = Identity(r)
          b = Exp(a) c = Reshape(b, flat) d = Add(c, i) y = Add(d, r) }"""
    )
    assert up_to(found, "Relu#0").crossing == up_to(found, "Reshape#1").crossing == up_to(found, "Identity#2").crossing
    assert up_to(found, "Identity#2").crossing == ("a",)  # and the tail has r and i for nothing
    assert up_to(found, "Exp#3").crossing == ("b", "r")
    assert up_to(found, "Reshape#4").crossing == ("c", "r")


def test_a_reshaped_tensor_crosses_where_the_first_shape_is_not_needed() -> None:
    found = graph(
        "(float[2,2] x) => (float[4] y) <int64[1] flat = {-1}> { a = Relu(x) r = Reshape(a, flat) y = Exp(r) }"
    )
    assert after(found, "Reshape#1").crossing == ("r",)


DYNAMIC = """(float[N,4] x) => (float[M] y) <int64[1] none = {0}, int64 zero = {0}> {
  a = Relu(x)
  s = Shape(a)
  n = Gather(s, zero)
  m = Mul(n, n)
  t = Unsqueeze(m, none)
  b = Exp(a)
  r = Expand(t, t)
  z = Cast<to=1>(r)
  q = ReduceSum<keepdims=0>(b)
  y = Add(z, q)
}"""


def test_what_follows_from_a_shape_is_not_sent_beside_the_tensor() -> None:
    body = DYNAMIC.replace("q = ReduceSum<keepdims=0>(b)", "p = Add(a, b) q = ReduceSum<keepdims=0>(p)")
    cut = up_to(graph(body), "Exp#5")
    assert cut.crossing == ("a", "b")


def test_what_follows_in_several_ways_is_looked_at_once() -> None:
    found = graph(
        """(float[N,4] x) => (float[N,4] y) {
          a = Relu(x) m = Shape(a) n = Neg(m) o = Add(m, n) b = Exp(a) c = Cast<to=1>(o) y = Add(b, c) }"""
    )
    assert at(found, ["o"]).crossing == ("a",)


def test_what_follows_from_a_shape_is_sent_when_the_tensor_is_not() -> None:
    assert up_to(graph(DYNAMIC), "Exp#5").crossing == ("b", "t")


def test_fixed_shapes_never_cross() -> None:
    found = graph(DYNAMIC, a=[3, 4], x=[3, 4])
    cut = up_to(found, "Exp#5")
    assert cut.crossing == ("b",)
    available = [found.tensor_id("b")]
    tail = nodes_between(found, available, found.outputs)
    assert [found.op_types[node] for node in sorted(constant_nodes(found, available, tail))] == ["Shape"]
    head = nodes_between(found, found.inputs, available)
    assert not constant_nodes(found, found.inputs, head)


def test_parts_that_lack_something_are_told() -> None:
    found = graph(BRANCHES)
    with pytest.raises(CutError, match="x does not come before this part"):
        nodes_between(found, [], found.outputs)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (["e"], r"e: this does not cut the model in two, as these cross too: b$"),
        (["a", "b"], "a need not be sent"),
        (["one"], "one is constant"),
        (["two", "b"], "two is constant"),
        (["x", "b"], "x need not be sent"),
    ],
)
def test_a_crossing_set_has_to_be_exact_where_that_is_asked_for(tensors: list[str], message: str) -> None:
    with pytest.raises(CutError, match=message):
        exactly(graph(BRANCHES), tensors)


def test_an_input_that_crosses_too_is_called_the_picture() -> None:
    found = graph("(float[2] x) => (float[2] y) { a = Relu(x) y = Add(a, x) }")
    with pytest.raises(CutError, match=r"x \(a model input: the picture itself\)"):
        exactly(found, ["a"])
    assert exactly(found, ["x", "a"]).carries_input
    assert exactly(graph(BRANCHES), ["e", "b", "e"]).crossing == ("b", "e")


def test_a_long_list_of_names_is_shortened() -> None:
    nodes = "r0 = Exp(x) " + "".join(f"r{i + 1} = Exp(r{i}) " for i in range(8))
    found = graph(f"(float[2] x) => (float[2] y) {{ {nodes} y = Sum({', '.join(f'r{i}' for i in range(9))}) }}")
    with pytest.raises(CutError, match=r"cross too: r0, r1, r2, r3, r4 and 3 more$"):
        exactly(found, ["r8"])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Graph, Cut]:
    """A random graph of many kinds of nodes, with or without fixed shapes, and a cut of any form."""
    made = ["x"]
    lines = []
    for i in range(draw(st.integers(2, 14))):
        kind = draw(st.sampled_from(["Add", "Add", "Exp", "Reshape", "Shape", "Cast", "Constant", "Split"]))
        one, other = draw(st.sampled_from(made)), draw(st.sampled_from([*made, "k"]))
        arguments = {"Add": f"{one}, {other}", "Reshape": f"{one}, k", "Constant": "", "Split": one}.get(kind, one)
        outputs = [f"t{i}", f"u{i}"] if kind == "Split" else [f"t{i}"]
        lines.append(f"{', '.join(outputs)} = {kind}({arguments})")
        made += outputs
    ends = draw(st.lists(st.sampled_from(made[1:]), min_size=1, max_size=3, unique=True))
    body = f"(float[2] x) => ({', '.join(f'float[2] {name}' for name in ends)}) <float[2] k = {{1,2}}>"
    shapes: dict[str, list[int | str | None]] = {name: [2] for name in made if draw(st.booleans())}
    found = graph(f"{body} {{ {' '.join(lines)} }}", **shapes)
    nodes = draw(st.lists(st.integers(0, len(lines) - 1), max_size=4))
    return found, of_nodes(found, nodes)


def computable(found: Graph, available: set[int], forbidden: frozenset[int]) -> set[int]:
    """What follows from some tensors without the nodes that are forbidden, by brute force."""
    there = set(available) | set(found.initializers)
    for node in range(len(found.op_types)):
        if node in found.shapes or (node not in forbidden and all(used in there for used in found.uses[node])):
            there.update(found.makes[node])
    return there


@given(case=cases())
def test_nothing_is_missing_and_nothing_needless(case: tuple[Graph, Cut]) -> None:
    found, cut = case
    crossing = {found.tensor_id(name) for name in cut.crossing}
    # The head's own work may not be done again, unless it costs nothing.
    forbidden = frozenset(n for n in cut.head if not found.free[n] and not found.repeatable[n])
    assert computable(found, set(found.inputs), frozenset()) >= crossing
    assert computable(found, crossing, forbidden) >= set(found.outputs)
    for tensor in crossing:
        assert not computable(found, crossing - {tensor}, forbidden) >= set(found.outputs)
    assert all(found.varying[tensor] for tensor in crossing)
    assert list(cut.crossing) == sorted(cut.crossing, key=str.encode)
    if cut.crossing:
        assert exactly(found, cut.crossing) == cut
