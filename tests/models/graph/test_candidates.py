from __future__ import annotations

import json

import pytest
from onnx.parser import parse_model

from models.graph import Model, at
from models.graph.candidates import SORTS, Candidate, Catalogue, on_pareto_front
from models.graph.costs import Costs, costs_of
from models.graph.prediction import Deployment
from tests.models.graph.paths import with_weights

NET = """<ir_version: 9, opset_import: ["" : 17]>
g (float[1,4,8,8] x) => (float[1,2,8,8] y)
<float[8,4,1,1] a, float[2,8,1,1] b, float[8,2,1,1] c, float[2,8,1,1] d>
{
  [A] wide = Conv (x, a)
  [R] relu = Relu (wide)
  [B] narrow = Conv (relu, b)
  [C] branch = Conv (narrow, c)
  [D] back = Conv (branch, d)
  [S] y = Add (narrow, back)
}"""
PLANE = 8 * 8 * 4


@pytest.fixture(scope="module")
def costs() -> Costs:
    return costs_of(Model(with_weights(parse_model(NET))))


def by_name(found: list[Candidate]) -> dict[str, Candidate]:
    return {f"{cut.flag} {cut.name}": cut for cut in found}


def test_the_cuts_in_topological_order(costs: Costs) -> None:
    found = Catalogue(costs).frontier()
    assert [cut.nodes for cut in found] == [0, 1, 2, 3, 4, 5, 6]
    named = by_name(found)
    picture, cut, both = named["before A"], named["after B"], named["after C"]
    assert (picture.bytes, picture.carries_input, picture.single, picture.device_macs) == (4 * PLANE, True, True, 0)
    assert [t.name for t in cut.tensors] == ["narrow"]
    assert (cut.bytes, cut.carries_input, cut.single) == (2 * PLANE, False, True)
    assert cut.device_macs == 64 * (4 * 8 + 8 * 2)
    assert cut.device_macs_share == 0.6
    assert cut.places == ("linear bottleneck",)
    assert [t.name for t in both.tensors] == ["branch", "narrow"]
    assert (both.bytes, both.single) == (10 * PLANE, False)
    assert cut.head_memory.weights == (32 + 16) * 4
    assert cut.head_memory.activations == 16 * PLANE  # wide and relu
    assert cut.tail_memory.weights == 32 * 4
    assert all(c.latency is None and not c.coded for c in found)
    assert found[-1].device_macs_share == 1.0


def test_each_is_what_the_engine_cuts_there(costs: Costs) -> None:
    for cut in Catalogue(costs).frontier()[1:]:
        names = [t.name for t in cut.tensors]
        engine = at(costs.model.graph, names)
        assert list(engine.crossing) == names
        assert engine.carries_input == cut.carries_input


def test_latency_and_bytes_under_profiles(costs: Costs) -> None:
    narrow = costs.model.graph.tensor_id("narrow")
    deployment = Deployment((1.0,) * 6, rtt=10.0, rate=8e3, device_speed=0.5, edge_speed=2.0)
    coded = {"q8": {narrow: 100}, "raw": dict(costs.sizes)}
    cut = by_name(Catalogue(costs, deployment, coded, "q8").frontier())["after B"]
    assert cut.coded == {"q8": 100, "raw": 2 * PLANE}
    assert cut.latency is not None
    assert (cut.latency.device, cut.latency.link, cut.latency.edge) == (6.0, 110.0, 1.5)
    other = by_name(Catalogue(costs, deployment, coded, "q8").frontier())["after C"]
    assert other.coded["q8"] is None
    assert other.latency is None  # what it would send is not known
    raw = by_name(Catalogue(costs, deployment).frontier())["after B"]
    assert raw.latency is not None
    assert raw.latency.link == 10.0 + 2 * PLANE


def test_a_head_of_any_nodes(costs: Costs) -> None:
    graph, path = costs.model.graph, costs.path
    catalogue = Catalogue(costs, Deployment((1.0,) * 6))
    for frontier in catalogue.frontier():
        tensors = [graph.tensor_id(t.name) for t in frontier.tensors]
        found = catalogue.of_head(path.ancestors(tensors), tensors)
        assert found.device_macs == frontier.device_macs
        assert (found.head_memory, found.tail_memory) == (frontier.head_memory, frontier.tail_memory)
        assert found.latency == frontier.latency
        assert (found.bytes, found.single, found.flag) == (frontier.bytes, frontier.single, frontier.flag)
    assert catalogue.of_head({0, 1, 2, 3}, [graph.tensor_id("narrow"), graph.tensor_id("branch")]).name == "C"


def test_the_json_form(costs: Costs) -> None:
    deployment = Deployment((1.0,) * 6)
    for cut in Catalogue(costs, deployment, {"raw": dict(costs.sizes)}).frontier():
        value = json.loads(json.dumps(cut.to_json()))
        assert value["tensors"] == [t.name for t in cut.tensors]
        assert value["bytes"] == cut.bytes
        assert value["device_macs_share"] == cut.device_macs_share
        assert value["latency_ms"] == pytest.approx(value["device_ms"] + value["link_ms"] + value["edge_ms"])
        assert value["coded"] == {"raw": cut.bytes}
    assert "latency_ms" not in Catalogue(costs).frontier()[0].to_json()


def test_the_pareto_front(costs: Costs) -> None:
    front = on_pareto_front(Catalogue(costs).frontier())
    assert [(cut.flag, cut.name) for cut in front] == [("before", "A"), ("after", "B")]


def test_orders(costs: Costs) -> None:
    found = Catalogue(costs, Deployment((1.0,) * 6)).frontier()
    assert sorted(found[1::2] + found[::2], key=SORTS["depth"]) == found
    assert sorted(found, key=SORTS["bytes"])[0].bytes == min(cut.bytes for cut in found)
    for order in SORTS.values():
        assert len(sorted(found, key=order)) == len(found)
    unknown = sorted(Catalogue(costs).frontier(), key=SORTS["latency"])
    assert unknown[0].bytes == min(cut.bytes for cut in found)


def test_what_cannot_be_sent_is_left_out() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) {
      s = SequenceConstruct (x, x)
      one = Constant <value_int = 1> ()
      e = SequenceAt (s, one)
      y = Relu (e)
    }"""
    found = Catalogue(costs_of(Model(parse_model(text)))).frontier()
    assert [[t.name for t in cut.tensors] for cut in found] == [["x"], ["e"], ["y"]]
    assert all(cut.device_macs_share == 0.0 for cut in found)
