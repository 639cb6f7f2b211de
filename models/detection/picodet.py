"""Scheme "picodet": distances from the centre of a cell to the four sides, as distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard
from models.detection.candidates import Candidates, Cells, best

__all__ = ["Picodet"]


class Picodet:
    """Outputs: scores 1 x N x classes of each stride, then distances 1 x N x 4 bins of each stride."""

    def __init__(self, card: ModelCard) -> None:
        self._levels = len(card.detection.strides)
        cells = Cells(card.image_size, card.detection.strides)
        self._strides = cells.strides
        self._centres = (cells.corners + np.float32(0.5)) * cells.strides

    def candidates(self, outputs: Sequence[NDArray[Any]], lowest: np.float32) -> Candidates:
        """Boxes of all classes of all cells."""
        scores = np.concatenate([level[0] for level in outputs[: self._levels]])
        distances = np.concatenate([level[0] for level in outputs[self._levels :]])
        rows, classes, values = best(scores, lowest)
        logits = distances[rows].reshape(len(rows), 4, -1)
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        means = weights @ np.arange(logits.shape[2], dtype=np.float32) / weights.sum(axis=2)
        sides = means * self._strides[rows]
        centres = self._centres[rows]
        return Candidates(np.concatenate([centres - sides[:, :2], centres + sides[:, 2:]], axis=1), values, classes)
