from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.parser import parse_model

from models.graph import Model
from models.graph.candidates import Catalogue
from models.graph.costs import Costs, costs_of
from models.graph.memory import head_memory
from models.graph.planning import best_plan
from models.graph.prediction import Deployment
from splitrtc_errors import BadArgument, CutError
from tests.models.graph.paths import with_weights

NET = """<ir_version: 9, opset_import: ["" : 17]>
g (float[1,4,8,8] x, float[1] size) => (float[1,2,8,8] y)
<float[8,4,1,1] a, float[2,8,1,1] b, float[32,2,1,1] c, float[2,32,1,1] d, float[1] half>
{
  [M] scaled = Mul (x, half)
  [A] wide = Conv (scaled, a)
  [R] relu = Relu (wide)
  [B] narrow = Conv (relu, b)
  [C] branch = Conv (narrow, c)
  [D] back = Conv (branch, d)
  [S] sum = Add (narrow, back)
  [E] y = Mul (sum, size)
}"""


@pytest.fixture(scope="module")
def costs() -> Costs:
    return costs_of(Model(with_weights(parse_model(NET))))


def deployment(costs: Costs, rate: float, **others: float) -> Deployment:
    return Deployment([macs / 1e3 for macs in costs.macs], rtt=1.0, rate=rate, edge_speed=100.0, **others)


def test_the_best_plan_depends_on_the_link(costs: Costs) -> None:
    fast = best_plan(Catalogue(costs, deployment(costs, 1e9)))
    assert fast.cut is not None
    assert fast.cut.carries_input
    assert fast.cut.device_macs == 0
    assert fast.is_optimal
    middle = best_plan(Catalogue(costs, deployment(costs, 1e6)))
    assert middle.cut is not None
    assert (middle.cut.name, [t.name for t in middle.cut.tensors]) == ("B", ["narrow", "size"])
    assert middle.local is not None
    assert middle.remote is not None
    assert middle.latency.total < min(middle.local.total, middle.remote.total)
    assert middle.single is None  # the second input crosses, too
    slow = best_plan(Catalogue(costs, deployment(costs, 1e5)))
    assert slow.cut is None
    assert slow.latency == slow.local
    assert slow.is_optimal


def test_a_plan_that_must_divide_the_model(costs: Costs) -> None:
    for rate in (1e5, 1e9):
        plan = best_plan(Catalogue(costs, deployment(costs, rate)), split_only=True)
        assert plan.cut is not None
        assert plan.cut.device_macs > 0
        assert {t.name for t in plan.cut.tensors}.isdisjoint({"x", "scaled"})
        assert plan.local is None
        assert plan.remote is None


def test_the_bytes_under_a_profile_count(costs: Costs) -> None:
    coded = {"tiny": dict.fromkeys(costs.path.readers, 1)}
    plan = best_plan(Catalogue(costs, deployment(costs, 1e5), coded, "tiny"))
    assert plan.cut is not None
    assert plan.cut.device_macs == 0
    coded["tiny"].pop(costs.path.inputs[0])  # the picture cannot be coded so
    assert best_plan(Catalogue(costs, deployment(costs, 1e5), coded, "tiny")).remote is None


def all_heads(costs: Costs) -> list[set[int]]:
    """Every set of places that is closed under ancestors."""
    path = costs.path
    heads = (
        {place for place, here in enumerate(chosen) if here}
        for chosen in itertools.product((False, True), repeat=len(path.nodes))
    )
    return [head for head in heads if all(path.maker.get(t, p) in head for p in head for t in path.reads[p])]


@settings(max_examples=60)
@given(st.integers(100, 9000), st.sampled_from([1e5, 1e6, 5e6, 1e9]), st.booleans())
def test_within_a_memory_limit_the_plan_is_as_good_as_it_says(limit: int, rate: float, split_only: bool) -> None:
    costs = costs_of(Model(with_weights(parse_model(NET))))
    path, sizes = costs.path, costs.sizes
    where = deployment(costs, rate)
    catalogue = Catalogue(costs, where)
    pictures = {costs.model.graph.tensor_id(name) for name in ("x", "scaled")}
    possible = []
    for head in all_heads(costs):
        tensors = path.crossing(head)
        if head_memory(path, head, sizes).total <= limit and not (split_only and pictures & set(tensors)):
            ms = sum(where.node_ms[place] for place in head)
            size = sum(sizes[t] for t in tensors)
            possible.append(where.latency(ms, sum(where.node_ms) - ms, size).total)
    if not split_only and costs.peak_memory <= limit:
        possible.append(where.local().total)
    if not possible:
        with pytest.raises(CutError, match="memory limit"):
            best_plan(catalogue, limit, split_only)
        return
    plan = best_plan(catalogue, limit, split_only)
    best = min(possible)
    assert plan.bound <= best + 1e-6
    assert plan.latency.total >= best - 1e-6
    if plan.is_optimal:
        assert plan.latency.total == pytest.approx(best)
    if plan.cut is not None:
        assert plan.cut.head_memory.total <= limit
    if plan.single is not None:
        assert plan.single.head_memory.total <= limit


def test_a_plan_needs_a_deployment(costs: Costs) -> None:
    with pytest.raises(BadArgument, match="deployment"):
        best_plan(Catalogue(costs))
