"""The data path of a graph: the nodes that a cut divides between the device and the edge.

What is constant, and what no output needs, is on no side of a cut. Nodes are numbered anew here, from 0 in the graph's
order, so that a head which is "everything up to here" is a range.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.graph.index import Graph

__all__ = ["DataPath"]


@dataclass(frozen=True, slots=True)
class DataPath:
    """The nodes that turn a model's inputs into its outputs, by place. Tensors keep the graph's numbers.

    Attributes:
        nodes: the graph's number of the node at each place.
        reads: the varying tensors that each reads.
        constants: the constant tensors that each reads: its weights, mostly.
        makes: the tensors that each makes and something needs.
        repeatable: whether either part may compute a node for nothing, where its inputs are.
        maker: the place of the node that makes a tensor; inputs of the model are not in it.
        readers: the places of the nodes that read a tensor, in order; ``len(nodes)`` at the end for an output.
        inputs: the model's inputs that something needs.
    """

    nodes: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    constants: tuple[tuple[int, ...], ...]
    makes: tuple[tuple[int, ...], ...]
    repeatable: tuple[bool, ...]
    maker: dict[int, int]
    readers: dict[int, list[int]]
    inputs: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph) -> DataPath:
        """Find it, in linear time."""
        needed = set(graph.outputs)
        nodes: list[int] = []
        for node in range(len(graph.uses) - 1, -1, -1):
            if not graph.free[node] and not needed.isdisjoint(graph.makes[node]):
                nodes.append(node)
                needed.update(graph.uses[node])
        nodes.reverse()
        maker: dict[int, int] = {}
        readers: dict[int, list[int]] = {t: [] for t in graph.inputs if t in needed}
        reads, makes = [], []
        for place, node in enumerate(nodes):
            read = tuple(t for t in graph.uses[node] if graph.varying[t])
            made = tuple(t for t in graph.makes[node] if t in needed)
            for t in read:
                readers[t].append(place)
            for t in made:
                maker[t] = place
                readers[t] = []
            reads.append(read)
            makes.append(made)
        for t in dict.fromkeys(graph.outputs):
            if graph.varying[t]:
                readers[t].append(len(nodes))
        return cls(
            nodes=tuple(nodes),
            reads=tuple(reads),
            constants=tuple(tuple(t for t in graph.uses[node] if not graph.varying[t]) for node in nodes),
            makes=tuple(makes),
            repeatable=tuple(graph.repeatable[node] for node in nodes),
            maker=maker,
            readers=readers,
            inputs=tuple(t for t in graph.inputs if readers.get(t)),
        )

    def ancestors(self, tensors: Iterable[int]) -> set[int]:
        """Return the places of the nodes that compute these tensors."""
        found: set[int] = set()
        waiting = list(tensors)
        while waiting:
            place = self.maker.get(waiting.pop(), -1)
            if place >= 0 and place not in found:
                found.add(place)
                waiting += self.reads[place]
        return found

    def crossing(self, head: Collection[int]) -> tuple[int, ...]:
        """Return the tensors that nodes at these places make, or that are inputs, and that others read."""
        made = (*self.inputs, *(t for place in sorted(head) for t in self.makes[place]))
        return tuple(t for t in made if any(reader not in head for reader in self.readers[t]))
