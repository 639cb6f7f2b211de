"""The best way to run a model on a device and an edge: whole on either, or cut in the best place.

Without a memory limit the plan is the best one there is: the minimum cut (`models.graph.mincut`), or the whole model on
the device, which sends nothing.

The memory that a head needs is no sum over its nodes (what lives at the same time depends on all of them), so that a
limit does not fit into a minimum cut, and the problem with it is NP-hard. It is handled so:

1. a node that alone, with what it reads and makes, is over the limit is kept off the device: this loses nothing;
2. if the best cut is then within the limit, it is the best of all that are;
3. else a price on each byte of weights is raised (Lagrangian relaxation), which makes heads smaller. The best cut
   within the limit is taken of those found so, and of all cuts in topological order. For each price, the cost of its
   minimum cut less the price of the limit is a lower bound for every cut within the limit; the plan states the highest.
   Where plan and bound meet, the plan is the best all the same; else it is at most the difference away from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.graph.candidates import Candidate, Catalogue
from models.graph.enumeration import frontier_cuts
from models.graph.memory import head_memory
from models.graph.mincut import CutCosts, MinimumCut, best_cut
from models.graph.prediction import Deployment, Latency
from splitrtc_errors import BadArgument, CutError

if TYPE_CHECKING:
    from models.graph.costs import Costs

__all__ = ["Plan", "best_plan"]

PRICES = 24
"""Prices of memory that are tried, each twice or half the last one, then between them."""
SMALL_SHARE = 10
"""An input that has fewer bytes than the largest one by this factor is no picture: a size, a threshold."""
EQUAL = 1e-6
"""Milliseconds: what a plan may be above its bound and still count as the best, as costs are rounded."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run where.

    Attributes:
        cut: where to cut; None for the whole model on the device.
        latency: predicted.
        bound: no plan within the memory limit takes less than so many milliseconds.
        local: what the whole model takes on the device; None when that is over the memory limit.
        remote: what it takes at the edge, with the inputs sent; None when they cannot be sent, or must not.
        single: the best cut at a single tensor; None when there is none within the limit.
    """

    cut: Candidate | None
    latency: Latency
    bound: float
    local: Latency | None
    remote: Latency | None
    single: Candidate | None

    @property
    def is_optimal(self) -> bool:
        """Whether no plan takes less."""
        return self.latency.total <= self.bound + EQUAL


def best_plan(catalogue: Catalogue, memory_limit: int | None = None, split_only: bool = False) -> Plan:
    """Return the plan that takes the least time.

    Args:
        catalogue: of the model, with a deployment; the bytes that it counts as sent are what crosses.
        memory_limit: bytes that a run of the head may need.
        split_only: neither the whole model on the device nor sending the inputs (the picture), or what is made of them
            without any MAC, will do.

    Raises:
        BadArgument: no deployment.
        CutError: no cut is within the limit, or can be sent.
    """
    if catalogue.deployment is None:
        raise BadArgument("a plan needs a deployment: a device, a link and an edge")
    planner = _Planner(catalogue, catalogue.deployment, memory_limit, split_only)
    found, bound = planner.search()
    local, remote = planner.local(), planner.remote()
    single = min((c for c in planner.prefixes() if c.single), key=_total, default=None)
    cut = catalogue.of_head(found.head, found.tensors) if found is not None else None
    if local is not None and (cut is None or local.total <= _total(cut)):
        return Plan(None, local, min(bound, local.total), local, remote, single)
    if cut is None or cut.latency is None:
        raise CutError("there is no cut that can be sent and whose head is within the memory limit")
    bound = bound if local is None else min(bound, local.total)
    return Plan(cut, cut.latency, bound, local, remote, single)


def _total(candidate: Candidate) -> float:
    return candidate.latency.total if candidate.latency is not None else float("inf")


class _Planner:
    def __init__(self, catalogue: Catalogue, deployment: Deployment, limit: int | None, split_only: bool) -> None:
        self._catalogue, self._deployment, self._limit, self._split_only = catalogue, deployment, limit, split_only
        self._costs: Costs = catalogue.costs
        costs, path = self._costs, self._costs.path
        self._device, self._edge = deployment.device_ms(), deployment.edge_ms()
        wire = {
            t: deployment.wire_ms(catalogue.sent[t])
            for t in path.readers
            if t in catalogue.sent and costs.can_be_sent(t)
        }
        # More than any cut can cost: taken only where nothing else is left, and then refused.
        self._never = 2 * (sum(self._device) + sum(self._edge) + sum(wire.values())) + 1
        if split_only:
            for t in self._pictures():
                wire.pop(t, None)
        self._wire = {t: wire.get(t, self._never) for t in path.readers}
        if limit is not None:
            for place, read in enumerate(path.reads):
                at_once = {*read, *path.makes[place], *path.constants[place]}
                if sum(costs.sizes.get(t, 0) for t in at_once) > limit:
                    self._device[place] = self._never

    def _pictures(self) -> list[int]:
        """The inputs and what was made of them without work (scaled, cut), but for the small ones."""
        costs, path = self._costs, self._costs.path
        worked: set[int] = set()
        for place, read in enumerate(path.reads):
            if costs.macs[place] or not worked.isdisjoint(read):
                worked.update(path.makes[place])
        least = max((costs.sizes.get(t, 0) for t in path.inputs), default=0) / SMALL_SHARE
        return [t for t in path.readers if t not in worked and costs.sizes.get(t, 0) >= least]

    def search(self) -> tuple[MinimumCut | None, float]:
        """The best cut within the limit that was found, and a lower bound; without the local mode."""
        first = self._solve(0.0)
        if self._limit is None or self._is_within(first):
            return self._if_possible(first), first.cost + self._deployment.rtt
        bound, price = first.cost, self._first_price(first)
        found = [self._if_possible(cut) for cut in self._prefix_cuts()]
        low, high = 0.0, float("inf")
        for _ in range(PRICES):
            cut = self._solve(price)
            bound = max(bound, cut.cost - price * self._limit)
            if self._is_within(cut):
                found.append(self._if_possible(cut))
                high = price
            else:
                low = price
            price = 2 * price if high == float("inf") else (low + high) / 2
        best = min((cut for cut in found if cut is not None), key=self._cost, default=None)
        return best, bound + self._deployment.rtt

    def _first_price(self, cut: MinimumCut) -> float:
        return max(cut.cost, 1.0) / max(1, head_memory(self._costs.path, cut.head, self._costs.sizes).total)

    def _solve(self, price: float) -> MinimumCut:
        held: Mapping[int, float] = {}
        if price:
            constants = {t for read in self._costs.path.constants for t in read}
            held = {t: price * self._costs.sizes[t] for t in constants if t in self._costs.sizes}
        return best_cut(self._costs.path, CutCosts(self._device, self._edge, self._wire, held))

    def _is_within(self, cut: MinimumCut) -> bool:
        needed = head_memory(self._costs.path, cut.head, self._costs.sizes).total
        return self._limit is None or needed <= self._limit

    def _if_possible(self, cut: MinimumCut) -> MinimumCut | None:
        return cut if self._cost(cut) < self._never else None

    def _cost(self, cut: MinimumCut) -> float:
        """Without any price of memory."""
        return (
            sum(self._device[place] for place in cut.head)
            + sum(self._edge)
            - sum(self._edge[place] for place in cut.head)
            + sum(self._wire[t] for t in cut.tensors)
        )

    def _prefix_cuts(self) -> list[MinimumCut]:
        cuts = (MinimumCut(frozenset(range(cut.nodes)), cut.tensors, 0.0) for cut in frontier_cuts(self._costs.path))
        return [cut for cut in cuts if self._is_within(cut)]

    def prefixes(self) -> list[Candidate]:
        """The cuts in topological order that the limit and the mode allow, and that divide the model."""
        graph = self._costs.model.graph
        return [
            cut
            for cut in self._catalogue.frontier()
            if 0 < cut.nodes < len(self._costs.path.nodes)
            and (self._limit is None or cut.head_memory.total <= self._limit)
            and all(self._wire[graph.tensor_id(tensor.name)] < self._never for tensor in cut.tensors)
        ]

    def local(self) -> Latency | None:
        """The whole model on the device."""
        fits = self._limit is None or self._costs.peak_memory <= self._limit
        return self._deployment.local() if fits and not self._split_only else None

    def remote(self) -> Latency | None:
        """The inputs sent."""
        first = next(frontier_cuts(self._costs.path))
        if self._split_only or not all(t in self._catalogue.sent for t in first.tensors):
            return None
        size = sum(self._catalogue.sent[t] for t in first.tensors)
        return self._deployment.latency(0.0, sum(self._deployment.node_ms), size)
