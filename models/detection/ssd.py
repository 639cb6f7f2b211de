"""Scheme "ssd": the graph has decoded the boxes already; what is left is to choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard
from models.detection.candidates import Candidates, best

__all__ = ["Ssd"]


class Ssd:
    """Outputs: scores 1 x N x classes, boxes 1 x N x 1 x 4 with (y1, x1, y2, x2) from 0 to 1."""

    def __init__(self, card: ModelCard) -> None:
        self._size = np.array(card.image_size * 2, np.float32)

    def candidates(self, outputs: Sequence[NDArray[Any]], lowest: np.float32) -> Candidates:
        """Boxes of all classes of all anchors."""
        scores, boxes = outputs
        rows, classes, values = best(scores[0], lowest)
        return Candidates(boxes.reshape(-1, 4)[rows][:, [1, 0, 3, 2]] * self._size, values, classes)
