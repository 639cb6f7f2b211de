from __future__ import annotations

from hypothesis import given
from onnx.parser import parse_model

from models.graph import Graph
from models.graph.datapath import DataPath
from tests.models.graph.paths import paths

NET = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,4] x, float[1,4] idle) => (float[4] y, float[1,4] x, float[1] three)
<float[1] two = {2}> {
  one = Constant <value_float = 1.0> ()
  three = Add (one, two)
  a = Mul (x, three)
  dead = Relu (a)
  values, places = TopK <axis = 1> (a, k)
  shape = Shape (a)
  flat = Reshape (values, last)
  y = Add (flat, two)
}"""


def test_what_is_constant_or_needed_by_nobody_is_not_on_the_path() -> None:
    text = NET.replace("<float[1] two = {2}>", "<float[1] two = {2}, int64[1] k = {4}, int64[1] last = {-1}>")
    graph = Graph.of(parse_model(text))
    path = DataPath.of(graph)
    names = graph.tensor_names

    def named(tensors: tuple[int, ...]) -> list[str]:
        return [names[t] for t in tensors]

    assert [graph.op_types[node] for node in path.nodes] == ["Mul", "TopK", "Reshape", "Add"]
    assert list(map(named, path.reads)) == [["x"], ["a"], ["values"], ["flat"]]
    assert list(map(named, path.constants)) == [["three"], ["k"], ["last"], ["two"]]
    assert list(map(named, path.makes)) == [["a"], ["values"], ["flat"], ["y"]]
    assert path.repeatable == (False, False, True, False)
    assert named(path.inputs) == ["x"]
    assert {names[t]: places for t, places in path.readers.items() if places} == {
        "x": [0, 4],  # it is an output as well
        "a": [1],
        "values": [2],
        "flat": [3],
        "y": [4],
    }
    assert path.ancestors([graph.tensor_id("flat")]) == {0, 1, 2}
    assert named(path.crossing({0, 1})) == ["x", "values"]


@given(paths(12))
def test_the_ancestors_of_what_crosses_compute_it(path: DataPath) -> None:
    for nodes in range(len(path.nodes) + 1):
        head = path.ancestors(path.crossing(range(nodes)))
        assert head <= set(range(nodes))
        assert all(path.maker.get(t, place) in head for place in head for t in path.reads[place])
