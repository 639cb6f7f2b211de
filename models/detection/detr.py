"""Scheme "detr": a fixed number of boxes, each found once: nothing to suppress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard
from models.detection.candidates import Candidates, best

__all__ = ["Detr"]


class Detr:
    """Outputs: labels 1 x N, boxes 1 x N x 4 in pixels of the model's input, scores 1 x N."""

    def __init__(self, card: ModelCard) -> None:
        """All is in the outputs; the card has no more to say."""

    def candidates(self, outputs: Sequence[NDArray[Any]], lowest: np.float32) -> Candidates:
        """The boxes as they are."""
        labels, boxes, scores = outputs
        rows, _, values = best(scores.reshape(-1, 1), lowest)
        return Candidates(boxes[0, rows], values, labels[0, rows].astype(np.int64))
