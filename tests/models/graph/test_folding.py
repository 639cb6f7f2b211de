from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.graph.datapath import DataPath
from models.graph.folding import fold, lanes
from tests.models.graph.paths import make_path, paths


def chain(length: int) -> DataPath:
    return make_path([{place} for place in range(length)])


def test_a_chain_is_one_block_for_each_size_it_works_on() -> None:
    blocks = fold(chain(9), ["a"] * 4 + ["b"] * 5)
    assert [(block.begin, block.end, block.stage, block.readers) for block in blocks] == [
        (0, 3, "a", (1,)),
        (4, 8, "b", ()),
    ]


def test_a_single_node_of_another_size_is_no_block() -> None:
    assert len(fold(chain(9), ["a"] * 4 + ["b"] + ["a"] * 4)) == 1


def test_a_gate_and_a_residual_connection_vanish() -> None:
    # 1 -> 2 = act(1) -> 3 = 1 * 2 -> 4 -> 5 = 4 + 3
    assert len(fold(make_path([{0}, {1}, {1, 2}, {3}, {3, 4}]), ["a"] * 5)) == 1


def test_small_branches_side_by_side_vanish_and_large_ones_stay() -> None:
    small = make_path([{0}, {1}, {1}, {2, 3}])
    assert len(fold(small, ["a"] * 4)) == 1
    # After node 0, two branches of ten nodes each.
    large = make_path([{0}, {1}, *({place} for place in range(2, 11)), {1}, *({p} for p in range(12, 21)), {11, 21}])
    blocks = fold(large, ["a"] * 22)
    assert [len(block.places) for block in blocks] == [1, 10, 10, 1]
    assert lanes(blocks) == [0, 0, 0, 0]  # one after the other in the order of the nodes
    assert blocks[0].readers == (1, 2)


def test_a_small_branch_beside_a_large_one_stays() -> None:
    path = make_path([{0}, {1}, {1}, *({place} for place in range(3, 12)), {2, 12}])
    assert [len(block.places) for block in fold(path, ["a"] * 13)] == [1, 1, 10, 1]


def test_blocks_that_overlap_have_lanes_of_their_own() -> None:
    # Two branches of ten nodes, in turns.
    reads = [{0}, {1}, {1}, *({place - 1} for place in range(3, 21)), {20, 21}]
    blocks = fold(make_path(reads), ["a"] * 22)
    assert [len(block.places) for block in blocks] == [1, 10, 10, 1]
    assert lanes(blocks) == [0, 0, 1, 0]


def test_a_constant_part_is_folded_into_its_reader() -> None:
    # Node 1 reads nothing and is read by node 2 alone, which has another maker.
    blocks = fold(make_path([{0}, set(), {1, 2}]), ["a", "b", "a"])
    assert len(blocks) == 1


@given(paths(40), st.integers(1, 6), st.data())
def test_every_node_is_in_one_block(path: DataPath, most: int, data: st.DataObject) -> None:
    stages = [data.draw(st.sampled_from("abc")) for _ in path.nodes]
    blocks = fold(path, stages, most)
    assert len(blocks) <= most
    assert sorted(place for block in blocks for place in block.places) == list(range(len(path.nodes)))
    assert [block.begin for block in blocks] == sorted(block.begin for block in blocks)
    block_of = {place: number for number, block in enumerate(blocks) for place in block.places}
    for place, made in enumerate(path.makes):
        for reader in (reader for t in made for reader in path.readers[t] if reader < len(path.nodes)):
            here, there = block_of[place], block_of[reader]
            assert here == there or there in blocks[here].readers
    found = lanes(blocks)
    for i, block in enumerate(blocks):
        for j in range(i):
            assert found[i] != found[j] or blocks[j].end < block.begin


def test_a_graph_without_structure_is_folded_by_neighbours() -> None:
    wide = make_path([{0}] * 200 + [set(range(1, 201))] * 3)
    assert len(fold(wide, [str(place) for place in range(203)], 2)) == 2
