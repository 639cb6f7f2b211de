"""Which detections of one run are found again in another: the agreement of a codec's run with the whole model's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.detection import Detections

__all__ = ["IOU", "f1", "matches", "overlaps"]

IOU = 0.5
"""Intersection over union from which on two boxes of one class are the same object."""


def overlaps(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the intersection over union of every pair of boxes, float64 (N, M).

    ``one`` is N x 4, ``other`` M x 4, both (x1, y1, x2, y2). A pair without any area has none in common: 0.
    """
    a, b = one.astype(np.float64)[:, None], other.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    quotient: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return quotient


def matches(found: Detections, wanted: Detections, iou: float = IOU) -> int:
    """Return how many detections of ``found`` have a partner in ``wanted``: class equal, overlap at least ``iou``.

    The surest ones choose first, each its best partner of those left.
    """
    overlap = overlaps(found.xyxy, wanted.xyxy)
    overlap[found.classes[:, None] != wanted.classes[None]] = 0
    hits = 0
    for row in np.argsort(-found.scores, kind="stable"):
        if len(wanted) and overlap[row, best := overlap[row].argmax()] >= iou:
            overlap[:, best] = 0
            hits += 1
    return hits


def f1(hits: NDArray[np.float64], found: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the F1 score, 2 hits / (found + wanted), elementwise; 1 where there was nothing and nothing was found."""
    total = np.asarray(found + wanted, np.float64)
    return np.divide(2.0 * hits, total, out=np.ones_like(total), where=total > 0)
