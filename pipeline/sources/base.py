"""What a source of pictures is."""

from __future__ import annotations

import abc
import math
from typing import Any, NamedTuple

from numpy.typing import NDArray

__all__ = ["Picture", "RateLimit", "Source"]


class Picture(NamedTuple):
    """What a source gives: a picture (`pipeline.frames.Image`), and where it stands in the source's own time."""

    image: NDArray[Any]
    """A picture; or, for a model that takes no pictures, its input as it is."""
    pts: float | None = None
    """Seconds since the source's start; None in a live source."""


class Source(abc.ABC):
    """Gives pictures one after the other. ``Capture`` runs it: one thread calls open, read (many times) and close.

    ``open`` may be called again after ``close``, and starts from the beginning.
    """

    name: str
    """For messages: never holds a password."""
    live: bool
    """Pictures come when they come (camera). Otherwise each has a ``pts``, by which ``Capture`` paces them."""
    fps: float | None = None
    """Pictures per second, where that is known; for some sources only after ``open``."""

    @abc.abstractmethod
    def open(self) -> None:
        """Open it. Raises SourceError, in bounded time, saying what is wrong."""

    @abc.abstractmethod
    def read(self) -> Picture | None:
        """Wait for the next picture; None at the end.

        Raises SourceError when the source has gone. A live source that ends by itself has gone.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Give everything back; also after a failed ``open``, and more than once."""

    async def settle(self) -> None:
        """Called in the event loop after the last ``close``: wait for what that could only set going."""
        return

    def interrupt(self) -> None:
        """Let a ``read`` that waits in another thread return soon. Needed only where reads have no time limit."""
        return


class RateLimit:
    """Thins a stream out to at most ``fps`` pictures per second on average. Pure: it is told each picture's time.

    Pictures are admitted on a grid of 1 / fps, with a quarter of a step of tolerance, so that the jitter of a camera
    that already has this rate costs nothing.
    """

    def __init__(self, fps: float | None) -> None:
        """``fps``: None admits everything."""
        self._step = 1.0 / fps if fps else 0.0
        self._next = -math.inf

    def admits(self, position: float) -> bool:
        """Whether the picture at this time, in seconds, is one to use."""
        if position < self._next - self._step / 4:
            return False
        self._next += self._step
        if position > self._next:  # the first one, or the stream was slower: no burst to make up for it
            self._next = position + self._step
        return True
