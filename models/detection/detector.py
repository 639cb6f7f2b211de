"""From the outputs of a model to detections, as its card says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard
from models.detection.boxes import MAX_DETECTIONS, Detections
from models.detection.candidates import Candidates, suppress
from models.detection.detr import Detr
from models.detection.fastestdet import FastestDet
from models.detection.picodet import Picodet
from models.detection.ssd import Ssd
from models.detection.yolox import Yolox
from splitrtc_errors import TensorError

__all__ = ["SCHEMES", "Detector"]


class _Scheme(Protocol):
    def candidates(self, outputs: Sequence[NDArray[Any]], lowest: np.float32) -> Candidates:
        """Read the outputs that the card names, in its order; what scores less than ``lowest`` is left out."""
        ...


SCHEMES: dict[str, Callable[[ModelCard], _Scheme]] = {
    "ssd": Ssd,
    "yolox": Yolox,
    "detr": Detr,
    "picodet": Picodet,
    "fastestdet": FastestDet,
}
"""What reads the outputs, for each scheme that a card can name (`models.task.SCHEMES`)."""


class Detector:
    """Turns the outputs of one model into detections. It keeps no state: any number of threads may share it."""

    def __init__(self, card: ModelCard, score: float | None = None) -> None:
        """``score`` overrides the lowest score that the card wants reported."""
        decoding = card.detection
        names = [spec.name for spec in card.outputs]
        self._chosen = [names.index(name) for role in decoding.outputs for name in role]
        self._expected = tuple(spec.shape for spec in card.outputs)
        self._classes = len(card.labels)
        self._score = np.float32(decoding.score if score is None else score)
        self._iou = None if decoding.iou is None else np.float32(decoding.iou)
        self._scheme = SCHEMES[decoding.scheme](card)

    def decode(self, outputs: Sequence[NDArray[Any]]) -> Detections:
        """Return at most 100 detections in pixels of the model's input, not clipped to it.

        ``outputs`` are the model's, in the card's order; TensorError when their shapes are not the card's. Boxes that
        are not finite and classes that do not exist are dropped: they come from damaged features.
        """
        if tuple(output.shape for output in outputs) != self._expected:
            raise TensorError(f"the detector expects outputs of shapes {self._expected}, others came")
        with np.errstate(all="ignore"):  # damaged features decode to anything
            boxes, scores, classes = self._scheme.candidates([outputs[place] for place in self._chosen], self._score)
            usable = np.isfinite(boxes).all(axis=1) & (classes >= 0) & (classes < self._classes)
            boxes, scores, classes = boxes[usable], scores[usable], classes[usable]
            if self._iou is not None:
                kept = suppress(boxes, classes, self._iou)
                boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
        best = slice(MAX_DETECTIONS)
        return Detections(boxes[best], np.minimum(scores[best], np.float32(1)), classes[best])
