from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.graph.datapath import DataPath
from models.graph.mincut import CutCosts, best_cut
from splitrtc_errors import BadArgument
from tests.models.graph.paths import make_path, paths

costs_of = st.one_of(st.just(0), st.integers(0, 20))


@st.composite
def problems(draw: st.DrawFn, most: int, repeatables: bool = False) -> tuple[DataPath, CutCosts]:
    path = draw(paths(most, repeatables))
    count = len(path.nodes)
    side = [0 if repeated else 1 for repeated in path.repeatable]  # they cost nothing
    device, edge = ([draw(costs_of) * used for used in side] for _ in range(2))
    wire = {t: draw(costs_of) for t in path.readers}
    held = {}
    if not repeatables and draw(st.booleans()):  # two constants, shared at random
        constants = tuple(tuple(sorted(draw(st.sets(st.integers(1000, 1001))))) for _ in range(count))
        path = dataclasses.replace(path, constants=constants)
        held = {t: draw(costs_of) for t in (1000, 1001)}
    return path, CutCosts(device, edge, wire, held)


def least_cost(path: DataPath, costs: CutCosts) -> int:
    """The least cost of all sets of nodes that are closed under ancestors, all of them at once."""
    heads = np.arange(2 ** len(path.nodes))
    on_device = [(heads >> place & 1).astype(bool) for place in range(len(path.nodes))]
    allowed = np.ones(len(heads), bool)
    total = np.zeros(len(heads))
    for place, here in enumerate(on_device):
        total += np.where(here, costs.device[place], costs.edge[place])
        for t in path.reads[place]:
            if t in path.maker:
                allowed &= ~here | on_device[path.maker[t]]
    for t, readers in path.readers.items():
        made = on_device[path.maker[t]] if t in path.maker else np.ones(len(heads), bool)
        read = np.any([np.ones(len(heads), bool) if r == len(path.nodes) else ~on_device[r] for r in readers], axis=0)
        total += costs.wire[t] * (made & read)
    for t, cost in costs.held.items():
        users = [on_device[place] for place, read in enumerate(path.constants) if t in read]
        total += cost * np.any([np.zeros(len(heads), bool), *users], axis=0)
    return int(total[allowed].min())


@given(problems(14))
def test_no_cut_is_better(problem: tuple[DataPath, CutCosts]) -> None:
    path, costs = problem
    best = best_cut(path, costs)
    assert best.cost == least_cost(path, costs)
    # The cost is that of the head and the tensors that are returned with it.
    assert path.crossing(best.head) == best.tensors
    assert all(path.maker.get(t, place) in best.head for place in best.head for t in path.reads[place])
    held = {t for place in best.head for t in path.constants[place]} & costs.held.keys()
    device = sum(costs.device[place] for place in best.head)
    edge = sum(costs.edge) - sum(costs.edge[place] for place in best.head)
    wire = sum(costs.wire[t] for t in best.tensors)
    assert best.cost == device + edge + wire + sum(costs.held[t] for t in held)


def least_with_copies(path: DataPath, costs: CutCosts) -> float:
    """The same by first principles: any sets of device nodes and of sent tensors from which the edge can go on."""
    work = [place for place, repeated in enumerate(path.repeatable) if not repeated]
    tensors = list(path.readers)
    best = float("inf")
    for chosen in itertools.product((False, True), repeat=len(work)):
        head = {place for place, here in zip(work, chosen, strict=True) if here}
        made = set(path.inputs)  # what the device can have
        for place in range(len(path.nodes)):
            if (place in head or path.repeatable[place]) and made.issuperset(path.reads[place]):
                made.update(path.makes[place])
        if not all(made.issuperset(path.reads[place]) for place in head):
            continue
        cost = sum(costs.device[place] if place in head else costs.edge[place] for place in work)
        for sent in itertools.chain.from_iterable(itertools.combinations(made, n) for n in range(len(tensors) + 1)):
            there = set(sent)
            for place in range(len(path.nodes)):
                if place not in head and there.issuperset(path.reads[place]):
                    there.update(path.makes[place])
            if all(there.issuperset(path.makes[place]) for place in work if place not in head) and all(
                t in there for t, readers in path.readers.items() if readers[-1] == len(path.nodes)
            ):
                best = min(best, cost + sum(costs.wire[t] for t in sent))
    return best


@settings(max_examples=60)
@given(problems(5, repeatables=True))
def test_no_cut_is_better_where_both_sides_may_repeat_a_node(problem: tuple[DataPath, CutCosts]) -> None:
    assert best_cut(*problem).cost == least_with_copies(*problem)


def test_a_tensor_is_paid_once_however_many_read_it() -> None:
    path = make_path([{0}, {1}, {1}, {1}, {2, 3, 4}])
    costs = CutCosts([1] * 5, [0.5] * 5, {0: 100, 1: 6, 2: 3, 3: 3, 4: 3, 5: 100})
    best = best_cut(path, costs)
    assert best.tensors == (1,)
    assert best.cost == 1 + 2 + 6


def test_an_empty_head_sends_the_inputs_and_a_full_one_the_outputs() -> None:
    path = make_path([{0}, {1}])
    assert best_cut(path, CutCosts([9, 9], [1, 1], {0: 1, 1: 9, 2: 9})).tensors == (0,)
    assert best_cut(path, CutCosts([1, 1], [9, 9], {0: 9, 1: 9, 2: 1})).tensors == (2,)


@pytest.mark.parametrize("cost", [-1, float("inf"), float("nan")])
def test_a_cost_that_is_none_is_refused(cost: float) -> None:
    with pytest.raises(BadArgument, match="at least 0, and finite"):
        best_cut(make_path([{0}]), CutCosts([cost], [1], {0: 1, 1: 1}))
