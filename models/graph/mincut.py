"""The best cut for a stated cost, of any number of tensors: a minimum cut of a network made from the graph.

The cost is what the head's nodes cost on the device, what the tail's nodes cost at the edge, and what each tensor that
crosses costs on the wire, however many nodes read it there. In the network, the source's side is the device:

- node to sink with its cost on the device, source to node with its cost at the edge (only the difference, one way);
- the maker of a tensor to the tensor with its cost on the wire, the tensor to each reader without a limit: one reader
  at the edge puts the tensor there, and it is paid once. The source makes the inputs, the sink reads the outputs;
- each reader to the maker without a limit: a head has all of its ancestors;
- a repeatable node stands for its copy at the edge, and a second vertex for one on the device, which costs nothing and
  demands the ancestors: each side may have its own.

So a cut of the network is a cut of the graph and costs the same, and a minimum cut is one of the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.graph.flow import Arc, minimum_cut
from splitrtc_errors import BadArgument

if TYPE_CHECKING:
    from models.graph.datapath import DataPath

__all__ = ["CutCosts", "MinimumCut", "best_cut"]

UNITS = 10**9
"""Costs are rounded to so many parts of 1, as the method needs integers."""


@dataclass(frozen=True, slots=True)
class CutCosts:
    """What a cut costs, in one unit (milliseconds, say), each at least 0.

    Attributes:
        device: of each node of the data path, by place.
        edge: likewise.
        wire: of each tensor, by number; a model's inputs and outputs are among them.
        held: what a head that reads a constant costs besides, once: its weights, where memory has a price.
    """

    device: Sequence[float]
    edge: Sequence[float]
    wire: Mapping[int, float]
    held: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MinimumCut:
    """The best cut: the places of the head's nodes, the tensors that cross, and what it costs."""

    head: frozenset[int]
    tensors: tuple[int, ...]
    cost: float


def best_cut(path: DataPath, costs: CutCosts) -> MinimumCut:
    """Return a cut that costs the least, of all there are; of several, the one with the largest head.

    The model's outputs are wanted at the edge. BadArgument when a cost is negative or not finite.
    """
    for what in (costs.device, costs.edge, costs.wire.values(), costs.held.values()):
        if not all(0 <= cost < float("inf") for cost in what):
            raise BadArgument("a cost is at least 0, and finite")
    network = _Network(path, costs)
    cost, sides = minimum_cut(network.count, network.arcs, network.source, network.sink)
    tensors = path.crossing({place for place in range(len(path.nodes)) if sides[place]})
    return MinimumCut(frozenset(path.ancestors(tensors)), tensors, (cost + network.offset) / UNITS)


class _Network:
    def __init__(self, path: DataPath, costs: CutCosts) -> None:
        count = len(path.nodes)
        self.source, self.sink, self.count = count, count + 1, count + 2
        self.arcs: list[Arc] = []
        device, edge = ([round(cost * UNITS) for cost in side] for side in (costs.device, costs.edge))
        wire, held = ({t: round(c * UNITS) for t, c in part.items()} for part in (costs.wire, costs.held))
        self.limitless = sum(device) + sum(edge) + sum(wire.values()) + sum(held.values()) + 1
        self.offset = sum(map(min, device, edge))
        for place in range(count):
            difference = device[place] - edge[place]
            if difference > 0:
                self.arcs.append((place, self.sink, difference, 0))
            elif difference < 0:
                self.arcs.append((self.source, place, -difference, 0))
        copies = {place: self._vertex() for place in range(count) if path.repeatable[place]}
        for t in (*path.inputs, *path.maker):
            self._tensor(path, t, wire[t], copies)
        for place, copy in copies.items():
            self.arcs.append((place, copy, self.limitless, 0))
            for t in path.reads[place]:
                if (maker := path.maker.get(t)) is not None:
                    self.arcs.append((copy, copies.get(maker, maker), self.limitless, 0))
        weights = {t: self._vertex() for t in held}
        self.arcs += ((weights[t], self.sink, cost, 0) for t, cost in held.items())
        for place, read in enumerate(path.constants):
            self.arcs += ((place, weights[t], self.limitless, 0) for t in read if t in weights)

    def _vertex(self) -> int:
        self.count += 1
        return self.count - 1

    def _tensor(self, path: DataPath, t: int, cost: int, copies: Mapping[int, int]) -> None:
        maker = path.maker.get(t)
        start = self.source if maker is None else maker
        readers = [self.sink if reader == len(path.nodes) else reader for reader in path.readers[t]]
        if len(readers) == 1:
            start_of_last, capacity = start, cost
        else:
            start_of_last, capacity = self._vertex(), self.limitless
            self.arcs.append((start, start_of_last, cost, 0))
        for reader in readers:
            self.arcs.append((start_of_last, reader, capacity, 0))
            if maker is not None and reader != self.sink and not path.repeatable[reader]:
                self.arcs.append((reader, copies.get(maker, maker), self.limitless, 0))
