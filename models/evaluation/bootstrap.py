"""Confidence intervals by bootstrap: what a figure might have been on other frames of the same kind.

Neighbouring frames of a clip show nearly the same picture, so whole blocks of them are drawn, not single frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from splitrtc_errors import BadArgument

__all__ = ["BLOCK", "LEVEL", "blocks", "interval", "weights"]

BLOCK = 20
"""Frames of a clip that are drawn together: two thirds of a second at 30 frames per second."""
DRAWS = 1000
LEVEL = 0.90
"""Share of the draws within an interval: from the 5th percentile to the 95th."""


def blocks(lengths: Sequence[int], size: int = BLOCK) -> NDArray[np.intp]:
    """Return the block of every frame, counted from 0; ``lengths`` are those of the segments, one after the other.

    A block never reaches over a segment's end. A segment is cut into blocks of nearly equal length, ``size`` or a few
    more, so that none is a remainder of a frame or two.
    """
    if size < 1 or not lengths or min(lengths) < 1:
        raise BadArgument(f"expected segments of at least one frame and blocks of at least one, not {lengths}, {size}")
    parts: list[NDArray[np.intp]] = []
    first = 0
    for length in lengths:
        count = max(length // size, 1)
        parts.append(first + np.arange(length) * count // length)
        first += count
    return np.concatenate(parts)


def weights(count: int, seed: int = 0, draws: int = DRAWS) -> NDArray[np.float64]:
    """Return how often each of ``count`` blocks is drawn, float64 (draws, count); every row sums to ``count``."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)


def interval(values: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """Return the ends between which the middle ``level`` of the draws' values lies; NaN draws say nothing."""
    low, high = np.nanquantile(values, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)
