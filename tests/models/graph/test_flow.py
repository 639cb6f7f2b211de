from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from models.graph.flow import Arc, minimum_cut

COUNT = 7
vertices = st.integers(0, COUNT - 1)
capacities = st.one_of(st.just(0), st.integers(0, 9), st.just(10**30))
arcs = st.tuples(vertices, vertices, capacities, capacities).filter(lambda arc: arc[0] != arc[1])


def capacity(network: list[Arc], side: set[int]) -> int:
    return sum(
        there * (start in side and end not in side) + back * (end in side and start not in side)
        for start, end, there, back in network
    )


@given(st.lists(arcs, max_size=20))
def test_the_cut_is_a_minimum_with_the_most_on_the_source_s_side(network: list[Arc]) -> None:
    source, sink = 0, COUNT - 1
    found, sides = minimum_cut(COUNT, network, source, sink)
    side = {vertex for vertex in range(COUNT) if sides[vertex]}
    assert source in side
    assert sink not in side
    choices = [{source, *others} for n in range(COUNT - 1) for others in itertools.combinations(range(1, COUNT - 1), n)]
    least = min(capacity(network, choice) for choice in choices)
    assert found == capacity(network, side) == least
    assert all(choice <= side for choice in choices if capacity(network, choice) == least)


def test_a_long_way_that_narrows_at_its_end() -> None:
    # Everything that is pushed has to come back: heights are set anew many times.
    length = 400
    network = [(place, place + 1, length - place, 0) for place in range(length)]
    assert minimum_cut(length + 1, network, 0, length) == (1, [True] * length + [False])


def test_branches_that_end_nowhere() -> None:
    network = [(0, 1, 5, 0), (1, 2, 5, 0), (1, 3, 2, 0), (3, 4, 1, 0)]
    assert minimum_cut(5, network, 0, 4) == (1, [True, True, True, True, False])
