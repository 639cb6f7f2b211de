"""The hand-over between two threads that never queues: one place, and the newest item wins."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

__all__ = ["NewestSlot"]

T = TypeVar("T")


class NewestSlot(Generic[T]):
    """Holds at most one item for whoever takes it; a newer one replaces it, and the replacement is counted.

    Any number of threads may call any method. None cannot be an item.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False
        self._accepted = 0
        self._replaced = 0

    @property
    def accepted(self) -> int:
        """How many items were put in."""
        return self._accepted

    @property
    def replaced(self) -> int:
        """How many of these were replaced before anybody took them."""
        return self._replaced

    @property
    def closed(self) -> bool:
        """Nothing more can be put in. The last item may still be there."""
        return self._closed

    @property
    def finished(self) -> bool:
        """Closed, and the last item has been taken."""
        with self._changed:
            return self._closed and self._item is None

    def put(self, item: T) -> T | None:
        """Put ``item`` in, without ever waiting. Returns what nobody will get because of it.

        That is the item it replaced, None where the place was free, or ``item`` itself when the slot is closed.
        """
        with self._changed:
            if self._closed:
                return item
            old, self._item = self._item, item
            self._accepted += 1
            if old is not None:
                self._replaced += 1
            self._changed.notify()
            return old

    def get(self, timeout: float | None = None) -> T | None:
        """Take the item, waiting for one up to ``timeout`` seconds (None: for ever; 0: not at all).

        Returns None at the timeout, and at once when the slot is closed and empty (``finished`` tells which).
        """
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed, timeout)
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        """Let nothing more in, and wake everybody who waits. An item that is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
