"""One timer of an event loop that can be moved: the only place where the sans-I/O parts' times meet the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Alarm"]


class Alarm:
    """Calls back once at the time it was last set to (seconds of the loop's clock, which is the monotonic one)."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._when: float | None = None  # uvloop's handles do not tell

    def set(self, when: float | None) -> None:
        """Ring at ``when``, or not at all for None; replaces what was set before. Cheap when nothing changes."""
        if when == self._when:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._when = when
        self._handle = None if when is None else self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._handle = self._when = None
        self._callback()
