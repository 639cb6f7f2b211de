"""What waits for a thread of the edge: the newest frame, and before it those without which it would decode worse."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

__all__ = ["MAX_WAITING", "Backlog"]

MAX_WAITING = 8
"""Frames that wait at most. Decoding one takes little beside the tail, which runs on the newest alone."""

T = TypeVar("T")


class Backlog(Generic[T]):
    """Frames in the order in which they came. Safe between threads."""

    def __init__(self, limit: int = MAX_WAITING) -> None:
        """``limit``: frames that wait at most."""
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: list[T] = []

    def put(self, item: T, keep: bool) -> list[T]:
        """Add the newest frame; returns those that will not be taken any more.

        ``keep``: those that wait are to be taken with it, as many as may wait; else it replaces them.
        """
        with self._lock:
            first = max(0, len(self._waiting) + 1 - self._limit) if keep else len(self._waiting)
            dropped, self._waiting = self._waiting[:first], [*self._waiting[first:], item]
            return dropped

    def take(self) -> list[T]:
        """All that wait, the newest last; nothing waits afterwards."""
        with self._lock:
            taken, self._waiting = self._waiting, []
            return taken
