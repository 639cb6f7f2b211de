"""How long it is worth waiting for more slices of a frame, learned from how the ones before came. Sans-I/O.

A lost slice never comes, so time spent waiting for it only makes the frame's result late. What still may come is known
from two things: slices are sent in the order of their index, and they come about as far apart as lately. So after the
last slice, more will come only if the network reorders; and after any other, only until the last one is due.
"""

from __future__ import annotations

__all__ = ["MARGIN", "MAX_PAUSES", "Patience"]

MARGIN = 0.001
"""Seconds added to what is learned: clocks and timers are no more exact than that."""

MAX_PAUSES = 3
"""Pauses that are waited at most: with so many slices lost in a row, the rest is probably lost as well."""

_TOLERANCE = 1.25
"""The next one may come a little later than those before."""

_PAUSE_DECAY = 1 / 8
_REORDERING_DECAY = 1 / 64
"""Share of the way to a smaller value that is gone with each frame. Towards a greater value it is all at once: giving a
frame up too early costs slices, waiting too long only time. Reordering is rare, so it is remembered for longer."""


class Patience:
    """Learns the pauses between the slices of frames. All times are seconds."""

    def __init__(self) -> None:
        self._pause: float | None = None
        self._reordering = 0.0

    def after(self, left: int) -> float | None:
        """How long to wait for more when ``left`` slices come after the latest; None while nothing is known."""
        if self._pause is None:
            return None
        if not left:
            return self._reordering * _TOLERANCE
        return min(left, MAX_PAUSES) * self._pause * _TOLERANCE + MARGIN

    def frame(self, pause: float | None) -> None:
        """A frame is over; ``pause`` was the longest between two of its slices, None if it had but one."""
        self._reordering -= self._reordering * _REORDERING_DECAY
        if pause is None:
            return
        if self._pause is None or pause > self._pause:
            self._pause = pause
        else:
            self._pause += (pause - self._pause) * _PAUSE_DECAY

    def late(self, seconds: float, *, overtaken: bool) -> None:
        """A slice came that long after one with a higher index, which had ``overtaken`` it, or after the one before."""
        if overtaken:
            self._reordering = max(self._reordering, seconds)
        else:
            self._pause = max(self._pause or 0.0, seconds)
