"""One picture of a stream, with the time at which it was captured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame", "Image"]

Image = NDArray[np.uint8]
"""A picture: uint8, shape (height, width, 3), channels in the order blue, green, red."""


# Not comparable by value: comparing two pictures is never what a caller wants, and numpy would refuse the truth of it.
@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One captured picture. Frames are shared between threads: nobody writes into ``image``."""

    image: NDArray[Any]
    """An `Image`; or, for a model that takes no pictures, its input as it is."""
    index: int
    """Counts the frames that the source gave, from 0. Frames that were replaced before use leave gaps."""
    captured: float
    """Seconds of the local monotonic clock at which the frame was published."""
    pts: float | None = None
    """Position in the source's own time, in seconds; None where it has none (cameras, iterators)."""

    @property
    def is_picture(self) -> bool:
        """Whether ``image`` is one."""
        return self.image.ndim == 3 and self.image.shape[2] == 3 and self.image.dtype == np.uint8

    @property
    def width(self) -> int:
        """Width in pixels; 0 for what is no picture."""
        return int(self.image.shape[1]) if self.is_picture else 0

    @property
    def height(self) -> int:
        """Height in pixels; 0 for what is no picture."""
        return int(self.image.shape[0]) if self.is_picture else 0
