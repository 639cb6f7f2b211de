from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.architectures import ARCHITECTURES
from models.graph import Model, at, of_nodes
from models.graph.datapath import DataPath
from models.graph.enumeration import frontier_cuts, frontier_sizes, pareto, single_tensor_cuts
from tests.models.graph.paths import make_path, paths


def reaches_an_output(path: DataPath, without: int | None) -> bool:
    """Whether a way leads from an input to an output that does not lead through this tensor."""
    found = set(path.inputs) - {without}
    for place, made in enumerate(path.makes):
        if not found.isdisjoint(path.reads[place]):
            found.update(t for t in made if t != without)
    return any(path.readers[t][-1] == len(path.nodes) for t in found)


@given(paths(20))
def test_single_tensor_cuts_are_those_without_which_no_way_leads_through(path: DataPath) -> None:
    tensors = (*path.inputs, *path.maker)
    wanted = [t for t in tensors if reaches_an_output(path, None) and not reaches_an_output(path, t)]
    assert list(single_tensor_cuts(path)) == wanted


def test_a_node_with_two_outputs_is_cut_at_neither() -> None:
    path = DataPath(
        nodes=(0, 1),
        reads=((0,), (1, 2)),
        constants=((), ()),
        makes=((1, 2), (3,)),
        repeatable=(False, False),
        maker={1: 0, 2: 0, 3: 1},
        readers={0: [0], 1: [1], 2: [1], 3: [2]},
        inputs=(0,),
    )
    assert single_tensor_cuts(path) == (0, 3)


@given(paths(20))
def test_frontier_cuts_are_what_crosses_after_each_node(path: DataPath) -> None:
    cuts = {cut.nodes: cut.tensors for cut in frontier_cuts(path)}
    assert 0 in cuts
    before: tuple[int, ...] = ()
    for nodes in range(len(path.nodes) + 1):
        crossing = path.crossing(range(nodes))
        before = cuts.get(nodes, before)
        assert sorted(before) == sorted(crossing)


def can_go_on(path: DataPath, nodes: int, sent: set[int]) -> bool:
    """Whether the edge can compute the outputs from these tensors after the first nodes."""
    there = set(sent)
    for place in range(len(path.nodes)):
        if (place >= nodes or path.repeatable[place]) and there.issuperset(path.reads[place]):
            there.update(path.makes[place])
    read = {t for place in range(nodes, len(path.nodes)) for t in path.reads[place]}
    read.update(t for t, readers in path.readers.items() if readers[-1] == len(path.nodes))
    return there.issuperset(read)


@given(paths(12, repeatables=True, fed=True))
def test_frontier_cuts_are_complete_and_send_nothing_needless(path: DataPath) -> None:
    for cut in frontier_cuts(path):
        assert can_go_on(path, cut.nodes, set(cut.tensors))
        for t in cut.tensors:
            assert not can_go_on(path, cut.nodes, set(cut.tensors) - {t})


@given(paths(20, repeatables=True), st.data())
def test_sizes_are_those_of_the_tensors(path: DataPath, data: st.DataObject) -> None:
    sizes = {t: data.draw(st.integers(1, 9)) for t in path.readers if data.draw(st.booleans())}
    totals = frontier_sizes(path, sizes)
    assert len(totals) == len(path.nodes) + 1
    for cut in frontier_cuts(path):
        assert totals[cut.nodes] == sum(sizes.get(t, 0) for t in cut.tensors)


def test_what_is_repeated_for_nothing_is_not_sent() -> None:
    # 1 = work(0), 2 = reshape(1), 3 = work(1), 4 = work(2, 3)
    path = make_path([{0}, {1}, {1}, {2, 3}], [False, True, False, False])
    assert [cut.tensors for cut in frontier_cuts(path)] == [(0,), (1,), (2, 3), (4,)]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_pareto_keeps_what_nothing_beats(costs: list[tuple[int, int]]) -> None:
    kept = pareto(range(len(costs)), costs)

    def beaten(i: int) -> bool:
        return any(
            other[0] <= costs[i][0] and other[1] <= costs[i][1] and (other != costs[i] or number < i)
            for number, other in enumerate(costs)
            if number != i
        )

    assert kept == sorted((i for i in range(len(costs)) if not beaten(i)), key=lambda i: costs[i])


@pytest.mark.parametrize("name", ["transformer", "feature_pyramid", "nested_bodies", "quantised", "resnet", "lstm"])
def test_on_real_architectures_they_are_what_the_engine_cuts(name: str) -> None:
    graph = Model(ARCHITECTURES[name]()).graph
    path = DataPath.of(graph)
    for cut in frontier_cuts(path):
        names = sorted((graph.tensor_names[t] for t in cut.tensors), key=str.encode)
        assert list(of_nodes(graph, path.nodes[: cut.nodes]).crossing) == names
        assert list(at(graph, names).crossing) == names
