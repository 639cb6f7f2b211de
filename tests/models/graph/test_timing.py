from __future__ import annotations

from typing import Any

import pytest
from onnx.parser import parse_model

from models.graph import Model, after, find_inputs, split
from models.graph.costs import Costs, costs_of
from models.graph.timing import Event, attribute, read_events, time_nodes, time_parts
from splitrtc_errors import ModelError
from tests.models.graph.paths import with_weights

NET = """<ir_version: 9, opset_import: ["" : 17]>
g (float[1,8,32,32] x) => (float[] y)
<float[64,8,3,3] a, float[64,64,3,3] b, float[8,64,1,1] c>
{
  [first] first_made = Conv (x, a)
  [relu] relu_made = Relu (first_made)
  [second] second_made = Conv (relu_made, b)
  [sigmoid] gate = Sigmoid (second_made)
  [silu] silu_made = Mul (second_made, gate)
  [third] y = Conv (silu_made, c)
}"""


@pytest.fixture(scope="module")
def costs() -> Costs:
    return costs_of(Model(with_weights(parse_model(NET))))


def attributed(costs: Costs, events: list[Event]) -> dict[str, float]:
    times = attribute(costs.model.graph, costs.path, events)
    names = [costs.model.graph.node_names[node] for node in costs.path.nodes]
    return {name: ms for name, ms in zip(names, times, strict=True) if ms}


def test_a_fused_node_counts_for_the_one_that_does_the_work(costs: Costs) -> None:
    events = [
        Event("ReorderInput", "ReorderInput", 1),
        Event("relu_made_nchwc", "Conv", 10),  # a convolution with its activation, in the runtime's layout
        Event("second_nchwc", "Conv", 100),
        Event("silu/QuickGeluFusion/", "QuickGelu", 1000),
        Event("ReorderOutput_token_3", "ReorderOutput", 10_000),
        Event("third", "FusedConv", 100_000),
    ]
    assert attributed(costs, events) == {"first": 11, "second": 100, "silu": 11_000, "third": 100_000}


def test_an_event_of_no_node_counts_for_the_one_before(costs: Costs) -> None:
    assert attributed(costs, [Event("second", "Conv", 1), Event("unheard-of", "Cast", 2)]) == {"second": 3}
    assert attributed(costs, [Event("gate_transformed", "Sigmoid", 2), Event("a_b", "Cast", 2)]) == {"sigmoid": 4}


def test_a_chain_is_not_followed_past_nodes_with_events_of_their_own(costs: Costs) -> None:
    events = [Event("second", "Conv", 1), Event("silu", "Conv", 2)]
    assert attributed(costs, events) == {"second": 1, "silu": 2}


def test_the_profile_is_read() -> None:
    def event(name: str, us: int, op: str, cat: str = "Node") -> dict[str, Any]:
        return {"cat": cat, "name": name, "dur": us, "args": {"op_name": op}}

    trace = [
        event("model_run", 9, "", "Session"),
        event("a_fence_before", 1, "Conv"),
        event("a_kernel_time", 3000, "Conv"),
        event("b_kernel_time", 100, "Relu"),
        event("a_kernel_time", 2000, "Conv"),
    ]
    assert read_events(trace) == [Event("a", "Conv", 2.0), Event("b", "Relu", 0.1)]


def test_times_of_nodes_add_up_to_the_run(costs: Costs) -> None:
    told: list[int] = []
    times = time_nodes(costs, find_inputs(costs.model), runs=3, progress=told.append)
    assert sum(times.nodes) == pytest.approx(times.whole)
    assert sum(told) == 6
    names = [costs.model.graph.node_names[node] for node in costs.path.nodes]
    assert names[max(range(len(names)), key=lambda place: times.nodes[place])] == "second"


def test_parts_are_timed(costs: Costs) -> None:
    model = costs.model
    values = find_inputs(model)
    head, tail = split(model, [after(model.graph, "second")])
    values["second_made"] = find_inputs(Model(tail.proto))["second_made"]
    clock = iter(range(1000))
    assert time_parts([head, tail], values, runs=2, clock=lambda: next(clock)) == [1000.0, 1000.0]
    with pytest.raises(ModelError, match="the run failed"):
        time_parts([head], {}, runs=1)
