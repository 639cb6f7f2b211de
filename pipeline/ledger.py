"""Which frames are under way, and how each of them ended: the UE's books, without clocks or sockets.

Every frame that the source produced ends exactly once: answered (``ok``, ``incomplete``), told off by the edge
(``superseded``, ``late``, ``error``), dropped on this side (``skipped``), or ``lost`` when its time budget is over.
The books hold only frames in flight, and those are bounded by the budget.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["MAX_IN_FLIGHT", "Entry", "Ledger"]

MAX_IN_FLIGHT = 256
"""Frames in flight, at most: half a second at 500 frames per second. The oldest gives way."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One frame in flight; ``expires`` is the time (s, monotonic) at which its result becomes worthless."""

    frame_id: int
    expires: float
    item: T


class Ledger(Generic[T]):
    """Frames in flight by frame id. Times are seconds of one monotonic clock."""

    def __init__(self, limit: int = MAX_IN_FLIGHT) -> None:
        self._limit = limit
        self._entries: OrderedDict[int, Entry[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def open(self, frame_id: int, item: T, expires: float) -> list[Entry[T]]:
        """Enter a frame; returns what had to give way for it (nothing, or the oldest)."""
        crowded = [self._entries.popitem(last=False)[1]] if len(self._entries) >= self._limit else []
        self._entries[frame_id] = Entry(frame_id, expires, item)
        return crowded

    def get(self, frame_id: int) -> T | None:
        """A frame that is in flight; None when it is not (or no longer)."""
        entry = self._entries.get(frame_id)
        return None if entry is None else entry.item

    def replace(self, frame_id: int, item: T) -> None:
        """Keep something else of a frame that is in flight."""
        self._entries[frame_id] = Entry(frame_id, self._entries[frame_id].expires, item)

    def close(self, frame_id: int) -> T | None:
        """Take a frame out, because it is answered or dropped; None when it is not (or no longer) in flight."""
        entry = self._entries.pop(frame_id, None)
        return None if entry is None else entry.item

    def expire(self, now: float) -> list[Entry[T]]:
        """Take out the frames whose time is over."""
        over = [entry for entry in self._entries.values() if entry.expires <= now]
        for entry in over:
            del self._entries[entry.frame_id]
        return over

    def clear(self) -> list[Entry[T]]:
        """Take out all frames: the session is over."""
        left = list(self._entries.values())
        self._entries.clear()
        return left

    def next_expiry(self) -> float | None:
        """When `expire` has something to do next; None when nothing is in flight."""
        return min((entry.expires for entry in self._entries.values()), default=None)
