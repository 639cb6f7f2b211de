"""What the schemes share: the best of many scores, cells of a grid, and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_CANDIDATES", "Candidates", "Cells", "best", "corners", "suppress"]

MAX_CANDIDATES = 512
"""Boxes that enter the non-maximum suppression, whose cost is their square: the highest scores."""


class Candidates(NamedTuple):
    """Boxes in descending order of score; they may overlap, and those of damaged features are anything.

    ``boxes`` is N x 4 float32 (x1, y1, x2, y2) in pixels of the model's input, ``scores`` N float32, ``classes`` N
    integers.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]


class Cells:
    """The cells of the grids of several strides, level by level, row by row."""

    def __init__(self, size: tuple[int, int], strides: Sequence[int]) -> None:
        """``size`` is the width and height of the model's input."""
        width, height = size
        corners = [
            np.mgrid[: -(-height // stride), : -(-width // stride)][::-1].reshape(2, -1).T.astype(np.float32)
            for stride in strides
        ]
        self.corners = np.concatenate(corners)
        """N x 2 float32: column and row of each cell in its grid."""
        self.strides = np.repeat(np.array(strides, np.float32), list(map(len, corners)))[:, None]
        """N x 1 float32: pixels from one cell to the next."""


def best(scores: NDArray[Any], lowest: np.float32) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float32]]:
    """Return rows, columns and values of the highest ``scores`` (N x classes) from ``lowest`` on, in their order."""
    flat = scores.reshape(-1)
    candidates = np.flatnonzero(flat >= lowest)  # NaN is never above
    if len(candidates) > MAX_CANDIDATES:
        highest = np.argpartition(-flat[candidates], MAX_CANDIDATES)[:MAX_CANDIDATES]
        candidates = candidates[np.sort(highest)]
    candidates = candidates[np.argsort(-flat[candidates], kind="stable")]
    rows, classes = np.divmod(candidates, scores.shape[1])
    return rows, classes, flat[candidates]


def corners(centres: NDArray[np.float32], sizes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return boxes N x 4 (x1, y1, x2, y2) from their centres and sizes, each N x 2."""
    half = sizes * np.float32(0.5)
    return np.concatenate([centres - half, centres + half], axis=1)


def suppress(boxes: NDArray[np.float32], classes: NDArray[np.int64], iou: np.float32) -> NDArray[np.intp]:
    """Greedy non-maximum suppression per class; returns the indices that stay.

    ``boxes`` (N x 4, x1 y1 x2 y2) come in descending order of score. A box goes when a better one of its class, which
    itself stays, overlaps it by more than ``iou`` (intersection over union).
    """
    # Only pairs of one class are compared: most pictures hold few boxes of each.
    better, worse = np.nonzero(np.triu(classes[:, None] == classes, 1))
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    width = np.minimum(x2[better], x2[worse]) - np.maximum(x1[better], x1[worse])
    height = np.minimum(y2[better], y2[worse]) - np.maximum(y1[better], y1[worse])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area = (x2 - x1) * (y2 - y1)
    overlap = shared > iou * (area[better] + area[worse] - shared)
    better, worse = better[overlap], worse[overlap]
    # Each round settles at least one more box of every chain of overlaps, so this ends, and exactly where the greedy
    # loop over all boxes would. Chains are short: two or three rounds.
    stays = np.ones(len(boxes), bool)
    while True:
        after = np.ones(len(boxes), bool)
        after[worse[stays[better]]] = False
        if (after == stays).all():
            return np.flatnonzero(stays)
        stays = after
