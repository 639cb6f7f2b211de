from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from models.graph.datapath import DataPath
from models.graph.memory import Memory, frontier_memory, head_memory, tail_memory
from tests.models.graph.paths import make_path, paths


@st.composite
def weighted(draw: st.DrawFn) -> tuple[DataPath, dict[int, int]]:
    path = draw(paths(9))
    constants = tuple(tuple(sorted(draw(st.sets(st.integers(1000, 1003))))) for _ in path.nodes)
    tensors = (*path.readers, *range(1000, 1003))  # the last constant's size is not known
    return dataclasses.replace(path, constants=constants), {t: draw(st.integers(1, 100)) for t in tensors}


def run(path: DataPath, places: range, sizes: dict[int, int]) -> Memory:
    """Run these nodes one after the other, and look at what has to be there."""
    most = 0
    for place in places:
        made = {t for t, maker in path.maker.items() if maker in places and maker <= place}
        made |= {t for t in path.maker if path.maker[t] < places.start}  # came from the head
        made |= {t for t in path.inputs if path.readers[t][0] <= place}
        most = max(most, sum(sizes[t] for t in made if t in path.readers and path.readers[t][-1] >= place))
    weights = {t for place in places for t in path.constants[place]}
    return Memory(sum(sizes.get(t, 0) for t in weights), most)


@given(weighted())
def test_memory_is_what_lives_at_the_same_time(case: tuple[DataPath, dict[int, int]]) -> None:
    path, sizes = case
    heads, tails = frontier_memory(path, sizes)
    count = len(path.nodes)
    assert len(heads) == len(tails) == count + 1
    for nodes in range(count + 1):
        assert heads[nodes] == head_memory(path, range(nodes), sizes) == run(path, range(nodes), sizes)
        assert tails[nodes] == tail_memory(path, range(nodes), sizes) == run(path, range(nodes, count), sizes)


def test_a_head_that_is_no_range() -> None:
    path = make_path([{0}, {0}, {1}, {2, 3}])  # two branches: 0 then 2, and 1
    sizes = {0: 1, 1: 10, 2: 100, 3: 1000, 4: 10_000}
    assert head_memory(path, {0, 2}, sizes) == Memory(0, 1011)  # the input crosses as well
    assert tail_memory(path, {0, 2}, sizes) == Memory(0, 1000 + 100 + 10_000)
    assert head_memory(path, set(), sizes).total == 0
