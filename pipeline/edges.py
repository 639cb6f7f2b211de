"""Several edges: which one a UE goes to first. Pure: what was seen of them in, an order with reasons out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MARGIN", "Ranked", "Seen", "rank"]

MARGIN = 0.005
"""Seconds by which an edge may be slower than the best one and still count as good as it: the user's order holds."""
MOST_LOAD = 0.95
"""Of an edge that says of itself that it takes sessions, its load counts as this at most."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of an edge. Times in seconds.

    ``rtt``: of a small request; None when it did not answer in time. ``state`` as in its manifest, None when that did
    not come; ``load``: share of its sessions that are taken; ``tail``: what it takes for a frame while it does nothing
    else. ``wait``: for how long it asked to be left alone. ``lost``: the connection to it is the one that was lost.
    """

    url: str
    rtt: float | None = None
    state: str | None = None
    load: float = 0.0
    tail: float | None = None
    wait: float = 0.0
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Ranked:
    """An edge in its place, and why it is there."""

    url: str
    reason: str


def rank(seen: Sequence[Seen]) -> list[Ranked]:
    """Order edges, the best first; ``seen`` is in the user's order, which holds among equals.

    Those that take sessions come first, the fastest of them at the top: round trip, and the tail's time as the load
    stretches it (as in a queue with one server). Then those that are not warm yet, the one that was just lost, those
    that are full or draining or asked to be left alone, the shortest wait first, and at last those that did not answer.
    """
    slowest = max((one.tail for one in seen if one.tail is not None), default=0.0)
    costs = [_cost(one, slowest) for one in seen]
    groups = [_group(one) for one in seen]
    best = min((cost for cost, group in zip(costs, groups, strict=True) if group == 0), default=0.0)

    def key(place: int) -> tuple[int, float, int]:
        group, cost = groups[place], costs[place]
        if group == 0:
            return group, 0.0 if cost <= best + MARGIN else cost, place
        return group, seen[place].wait, place

    return [Ranked(seen[place].url, _reason(seen[place], costs[place])) for place in sorted(range(len(seen)), key=key)]


def _cost(one: Seen, slowest: float) -> float:
    """Seconds, about, that a frame takes there and back; a tail whose time is not known counts as the slowest known."""
    tail = slowest if one.tail is None else one.tail
    return (one.rtt or 0.0) + tail / (1 - min(one.load, MOST_LOAD))


def _group(one: Seen) -> int:
    if one.rtt is None:
        return 4
    if one.wait > 0 or one.state in ("full", "draining"):
        return 3
    if one.lost:
        return 2
    return 1 if one.state == "warming" else 0


def _reason(one: Seen, cost: float) -> str:
    match _group(one):
        case 4:
            return "did not answer in time"
        case 3 if one.wait > 0:
            return f"asked to be left alone for {one.wait:.1f} s"
        case 2:
            return "was just lost"
        case 0:
            return f"about {1e3 * cost:.0f} ms: {1e3 * (one.rtt or 0.0):.0f} ms away, {one.load:.0%} taken"
    return f"is {one.state}"
