"""All cuts of two kinds, in linear time: at a single tensor, and after each node in topological order.

A tensor cuts a graph alone when every way from an input to an output leads through it: when it dominates the outputs.
In topological order, ways only lead forward. So a place is on all of them unless an edge leads from before it to after
it, and one look at every edge finds them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from models.graph.datapath import DataPath

__all__ = ["Frontier", "frontier_cuts", "frontier_sizes", "pareto", "single_tensor_cuts"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Frontier:
    """A cut in topological order: the head is the first ``nodes`` nodes of the data path, and these tensors cross."""

    nodes: int
    tensors: tuple[int, ...]


def single_tensor_cuts(path: DataPath) -> tuple[int, ...]:
    """Return every tensor, inputs of the model included, that cuts the graph alone, from the inputs to the outputs.

    Nodes that no input leads to (random numbers) do not count: they belong to whoever reads them.
    """
    fed = set(path.inputs)
    last = len(path.nodes)
    cuts = []
    # Edges start in nodes and end in their readers. `reach` is how far an edge leads that starts before this tensor.
    starts = [t for t in path.inputs if path.readers[t]]
    if len(starts) == 1:
        cuts.append(starts[0])
    reach = max((path.readers[t][-1] for t in starts), default=-1)
    for place in range(last):
        if fed.isdisjoint(path.reads[place]):
            continue
        fed.update(path.makes[place])
        if reach <= place and len(path.makes[place]) == 1:
            cuts.append(path.makes[place][0])
        reach = max(reach, *(path.readers[t][-1] for t in path.makes[place]))
    return tuple(cuts)


def _intervals(path: DataPath) -> Iterator[tuple[int, int, int]]:
    """Each tensor with the sizes of a head, from one up to before another, at which it crosses.

    What a repeatable node makes crosses only where what it is made of does not: else the tail makes it again.
    """
    ends = {t: readers[-1] + 1 for t, readers in path.readers.items()}
    there = dict(ends)  # until when the tail has a tensor, be it that it is sent or made again
    for t in path.inputs:
        yield t, 0, ends[t]
    for place, made in enumerate(path.makes):
        begin = place + 1
        if path.repeatable[place]:
            begin = max(begin, min(there[t] for t in path.reads[place]))
        for t in made:
            there[t] = max(begin, ends[t])
            if begin < ends[t]:
                yield t, begin, ends[t]


def frontier_cuts(path: DataPath) -> Iterator[Frontier]:
    """Yield the cut after each node in topological order, first the empty head, last the whole model.

    Where a node does not change what crosses, the smaller head stands for both.
    """
    count = len(path.nodes) + 1
    enter: list[list[int]] = [[] for _ in range(count)]
    leave: list[list[int]] = [[] for _ in range(count + 1)]
    for t, begin, end in _intervals(path):
        enter[begin].append(t)
        leave[end].append(t)
    crossing: dict[int, None] = {}
    for nodes in range(count):
        for t in leave[nodes]:
            del crossing[t]
        crossing.update(dict.fromkeys(enter[nodes]))
        if nodes == 0 or enter[nodes] or leave[nodes]:
            yield Frontier(nodes, tuple(crossing))


def frontier_sizes(path: DataPath, sizes: Mapping[int, int]) -> list[int]:
    """Return the bytes that cross after the first 0, 1, ... nodes; tensors without a size count as nothing."""
    change = [0] * (len(path.nodes) + 2)
    for t, begin, end in _intervals(path):
        size = sizes.get(t, 0)
        change[begin] += size
        change[end] -= size
    total, totals = 0, []
    for step in change[:-1]:
        total += step
        totals.append(total)
    return totals


def pareto(items: Iterable[T], costs: Sequence[tuple[float, float]]) -> list[T]:
    """Return the items that no other beats in both costs, in the order of the first cost; of equal ones, the first."""
    best = float("inf")
    kept = []
    for (_, second), _, item in sorted(
        ((cost, number, item) for number, (item, cost) in enumerate(zip(items, costs, strict=True))),
        key=lambda entry: entry[:2],
    ):
        if second < best:
            best = second
            kept.append(item)
    return kept
