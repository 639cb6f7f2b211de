"""Detections: what a detection model finds in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from splitrtc_errors import MissingDependency

__all__ = ["MAX_DETECTIONS", "Detections", "to_supervision"]

MAX_DETECTIONS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """N objects in descending order of score.

    ``xyxy`` is N x 4 float32 (x1, y1, x2, y2) in pixels, ``scores`` N float32 from 0 to 1, ``classes`` N int64: indices
    into the labels of the model's card.
    """

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def at_least(self, score: float) -> Self:
        """Return those with this score or a higher one."""
        chosen = self.scores >= score
        return type(self)(self.xyxy[chosen], self.scores[chosen], self.classes[chosen])


def to_supervision(detections: Detections, labels: Sequence[str]) -> Any:
    """Return a ``supervision.Detections``, with the labels as its "class_name" data.

    MissingDependency when the package is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise MissingDependency(
            f"supervision cannot be loaded ({error}); run: pip install 'splitrtc[supervision]'"
        ) from error
    return supervision.Detections(
        xyxy=detections.xyxy,
        confidence=detections.scores,
        class_id=detections.classes,
        data={"class_name": np.array([labels[index] for index in detections.classes], dtype=str)},
    )
