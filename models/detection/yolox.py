"""Scheme "yolox": one box for each cell, relative to the cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard
from models.detection.candidates import Candidates, Cells, best, corners

__all__ = ["Yolox"]


class Yolox:
    """Output: predictions 1 x N x (5 + classes): x, y, log width, log height, objectness, and the classes' shares."""

    def __init__(self, card: ModelCard) -> None:
        self._cells = Cells(card.image_size, card.detection.strides)

    def candidates(self, outputs: Sequence[NDArray[Any]], lowest: np.float32) -> Candidates:
        """Boxes of all classes of all cells."""
        predictions = outputs[0][0]
        likely = np.flatnonzero(predictions[:, 4] >= lowest)  # no class has more than its box
        rows, classes, scores = best(predictions[likely, 4:5] * predictions[likely, 5:], lowest)
        chosen = likely[rows]
        strides = self._cells.strides[chosen]
        centres = (predictions[chosen, :2] + self._cells.corners[chosen]) * strides
        return Candidates(corners(centres, np.exp(predictions[chosen, 2:4]) * strides), scores, classes)
