"""The cuts of a model that one can choose from, each with what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from models.graph.enumeration import frontier_cuts, pareto, single_tensor_cuts
from models.graph.memory import Memory, frontier_memory, head_memory, tail_memory
from models.graph.prediction import Deployment, Latency
from models.graph.surroundings import Surroundings

if TYPE_CHECKING:
    from models.graph.costs import Costs
    from models.graph.types import TensorType

__all__ = ["Candidate", "Catalogue", "on_pareto_front"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cut and what it costs.

    Attributes:
        name: the last node of the head in topological order (of a head that is no beginning of that order: the one
            that most of the crossing bytes come from), or the first node of the model for an empty head.
        flag: "after" or "before", as the TR has it.
        nodes: how many nodes of the data path the head has.
        tensors: those that cross.
        bytes: theirs, without compression.
        single: whether one tensor crosses, and so separates the inputs from the outputs alone.
        carries_input: whether an input of the model is among them: the picture itself is sent.
        device_macs, device_macs_share: what the head computes, and its share of the whole model.
        head_memory, tail_memory: bytes that a run of either side needs.
        places: what is said of each tensor, as in `models.graph.surroundings.PLACES`.
        latency: predicted; None where no times were given.
        coded: bytes under each profile, where that was measured; None where the profile cannot code them.
    """

    name: str
    flag: str
    nodes: int
    tensors: tuple[TensorType, ...]
    bytes: int
    single: bool
    carries_input: bool
    device_macs: int
    device_macs_share: float
    head_memory: Memory
    tail_memory: Memory
    places: tuple[str, ...]
    latency: Latency | None
    coded: Mapping[str, int | None]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        value: dict[str, Any] = {
            "name": self.name,
            "flag": self.flag,
            "tensors": [tensor.name for tensor in self.tensors],
            "shapes": [list(tensor.shape or ()) for tensor in self.tensors],
            "types": [tensor.dtype for tensor in self.tensors],
            "bytes": self.bytes,
            "single": self.single,
            "carries_input": self.carries_input,
            "nodes": self.nodes,
            "device_macs": self.device_macs,
            "device_macs_share": self.device_macs_share,
            "head_memory": self.head_memory.total,
            "tail_memory": self.tail_memory.total,
            "places": list(self.places),
        }
        if self.latency is not None:
            latency = self.latency
            value["device_ms"], value["link_ms"], value["edge_ms"] = latency.device, latency.link, latency.edge
            value["latency_ms"] = latency.total
        if self.coded:
            value["coded"] = dict(self.coded)
        return value


class Catalogue:
    """Makes candidates of one model's cuts.

    ``deployment`` predicts their latency. ``coded`` are the bytes of tensors under profiles, by profile and tensor;
    with ``profile`` those under it are what the prediction counts as sent, else the raw bytes.
    """

    def __init__(
        self,
        costs: Costs,
        deployment: Deployment | None = None,
        coded: Mapping[str, Mapping[int, int]] | None = None,
        profile: str | None = None,
    ) -> None:
        self.costs, self.deployment, self.coded = costs, deployment, coded or {}
        self._node_ms = deployment.node_ms if deployment is not None else [0.0] * len(costs.path.nodes)
        self.sent = costs.sizes if profile is None else self.coded[profile]
        self._surroundings = Surroundings(costs.model.graph, costs.path, costs.types)
        self._single = frozenset(single_tensor_cuts(costs.path))

    def frontier(self) -> list[Candidate]:
        """Return the cut after each node in topological order that can be sent, from the empty head to the whole."""
        path = self.costs.path
        macs = list(accumulate(self.costs.macs, initial=0))
        ms = list(accumulate(self._node_ms, initial=0.0))
        heads, tails = frontier_memory(path, self.costs.sizes)
        found = []
        for cut in frontier_cuts(path):
            if all(map(self.costs.can_be_sent, cut.tensors)) and cut.tensors:
                at = cut.nodes
                memory = heads[at], tails[at]
                found.append(self._candidate(range(at), cut.tensors, macs[at], ms[at], ms[-1] - ms[at], *memory))
        return found

    def of_head(self, head: Iterable[int], tensors: Sequence[int]) -> Candidate:
        """Return what a cut costs whose head are the nodes at these places."""
        path, sizes = self.costs.path, self.costs.sizes
        inside = set(head)
        memory = head_memory(path, inside, sizes), tail_memory(path, inside, sizes)
        head_ms = sum(self._node_ms[place] for place in inside)
        # Named by the node that most of the bytes come from: in topological order, no single node marks such a head.
        order = sorted(inside)
        last = max(
            (path.maker[t] for t in tensors if t in path.maker), key=lambda place: self._made(place), default=None
        )
        if last is not None:
            order.remove(last)
            order.append(last)
        macs = sum(self.costs.macs[place] for place in inside)
        return self._candidate(order, tensors, macs, head_ms, sum(self._node_ms) - head_ms, *memory)

    def _made(self, place: int) -> int:
        return sum(self.costs.sizes.get(t, 0) for t in self.costs.path.makes[place])

    def _candidate(
        self,
        head: Sequence[int],
        tensors: Sequence[int],
        macs: int,
        head_ms: float,
        tail_ms: float,
        head_needs: Memory,
        tail_needs: Memory,
    ) -> Candidate:
        costs = self.costs
        graph, path = costs.model.graph, costs.path
        names = sorted(((graph.tensor_names[t], t) for t in tensors), key=lambda pair: pair[0].encode())
        node = path.nodes[head[-1] if head else 0]
        sent = [self.sent.get(t) for t in tensors]
        latency = None
        if self.deployment is not None and None not in sent:
            latency = self.deployment.latency(head_ms, tail_ms, sum(size or 0 for size in sent))
        return Candidate(
            name=graph.node_names[node],
            flag="after" if head else "before",
            nodes=len(head),
            tensors=tuple(costs.types[name] for name, _ in names),
            bytes=sum(costs.sizes[t] for t in tensors),
            single=len(tensors) == 1 and tensors[0] in self._single,
            carries_input=any(t not in path.maker for t in tensors),
            device_macs=macs,
            device_macs_share=macs / costs.total_macs if costs.total_macs else 0.0,
            head_memory=head_needs,
            tail_memory=tail_needs,
            places=tuple(self._surroundings.of(t) for _, t in names),
            latency=latency,
            coded={
                profile: sum(sizes[t] for t in tensors) if all(t in sizes for t in tensors) else None
                for profile, sizes in self.coded.items()
            },
        )


def on_pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return those that no other beats in both bytes and device work, by device work.

    Of equal ones, the last: behind an activation, which costs no MACs, is a better place than before it.
    """
    backwards = candidates[::-1]
    return pareto(backwards, [(c.device_macs, c.bytes) for c in backwards])


SORTS: dict[str, Callable[[Candidate], Any]] = {
    "depth": lambda c: c.nodes,
    "bytes": lambda c: (c.bytes, c.device_macs),
    "macs": lambda c: (c.device_macs, c.bytes),
    "memory": lambda c: (c.head_memory.total, c.bytes),
    "latency": lambda c: (c.latency.total if c.latency is not None else float("inf"), c.bytes),
    "name": lambda c: c.name,
}
"""Orders that a table may have."""
