"""Scheme "fastestdet": one grid, one box for each cell, sizes as shares of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard
from models.detection.candidates import Candidates, best, corners

__all__ = ["FastestDet"]


class FastestDet:
    """Output: predictions 1 x (5 + classes) x rows x columns: objectness, x, y, width, height, and the classes."""

    def __init__(self, card: ModelCard) -> None:
        self._size = np.array(card.image_size, np.float32)

    def candidates(self, outputs: Sequence[NDArray[Any]], lowest: np.float32) -> Candidates:
        """Boxes of all classes of all cells."""
        _, channels, rows, columns = outputs[0].shape
        predictions = outputs[0].reshape(channels, -1).T
        objectness = np.power(predictions[:, :1], np.float32(0.6))
        likely = np.flatnonzero(objectness >= lowest)  # no class has more than its box
        scores = objectness[likely] * np.power(predictions[likely, 5:], np.float32(0.4))
        chosen, classes, values = best(scores, lowest)
        cells = likely[chosen]
        corner = np.stack(np.divmod(cells, columns)[::-1], axis=1).astype(np.float32)
        centres = (corner + np.tanh(predictions[cells, 1:3])) / np.array([columns, rows], np.float32) * self._size
        sizes = self._size / (1 + np.exp(-predictions[cells, 3:5]))
        return Candidates(corners(centres, sizes), values, classes)
