"""Detections: from the model's outputs, to bytes and back (docs/protocol.md, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard
from splitrtc_errors import MissingDependency, ProtocolError, TensorError

__all__ = ["MAX_DETECTIONS", "Detections", "Detector", "pack_detections", "parse_detections", "to_supervision"]

MAX_DETECTIONS = 100
MAX_CANDIDATES = 512
"""Boxes that enter the non-maximum suppression, whose cost is their square: the highest scores."""

MAX_CLASS = 2**16 - 1

_WIRE = np.dtype([("class", ">u2"), ("zero", ">u2"), ("score", ">f4"), ("box", ">f4", (4,))])


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


class Detector:
    """Turns the outputs of one model into detections. It keeps no state: any number of threads may share it."""

    def __init__(self, card: ModelCard, score: float | None = None) -> None:
        """``score`` overrides the lowest score that the card wants reported."""
        names = [spec.name for spec in card.outputs]
        self._scores_at = names.index(card.decoding.scores)
        self._boxes_at = names.index(card.decoding.boxes)
        self._expected = tuple(spec.shape for spec in card.outputs)
        self._score = np.float32(card.decoding.score if score is None else score)
        self._iou = np.float32(card.decoding.iou)
        _, _, height, width = card.inputs[0].shape
        self._input_size = np.array([width, height, width, height], np.float32)

    def decode(self, outputs: Sequence[NDArray[Any]]) -> Detections:
        """Return at most 100 detections in pixels of the model's input, not clipped to it.

        ``outputs`` are the model's, in the card's order; TensorError when their shapes are not the card's. Boxes that
        are not finite are dropped: they come from damaged features.
        """
        if tuple(output.shape for output in outputs) != self._expected:
            raise TensorError(f"the detector expects outputs of shapes {self._expected}, others came")
        every_score = outputs[self._scores_at].reshape(-1)
        candidates = np.flatnonzero(every_score >= self._score)  # NaN is never above
        if len(candidates) > MAX_CANDIDATES:
            best = np.argpartition(-every_score[candidates], MAX_CANDIDATES)[:MAX_CANDIDATES]
            candidates = candidates[np.sort(best)]
        candidates = candidates[np.argsort(-every_score[candidates], kind="stable")]
        anchors, classes = np.divmod(candidates, outputs[self._scores_at].shape[2])
        boxes = outputs[self._boxes_at].reshape(-1, 4)[anchors][:, [1, 0, 3, 2]]
        with np.errstate(over="ignore", invalid="ignore"):  # damaged features decode to boxes of any size
            boxes = boxes * self._input_size
            usable = np.isfinite(boxes).all(axis=1)
            boxes, classes, scores = boxes[usable], classes[usable], every_score[candidates[usable]]
            kept = suppress(boxes, classes, self._iou)[:MAX_DETECTIONS]
        return Detections(boxes[kept], np.minimum(scores[kept], np.float32(1)), classes[kept])


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


def pack_detections(detections: Detections) -> bytes:
    """Return the bytes on the wire. TensorError when there are too many, or they are not as a reader demands."""
    if len(detections) > MAX_DETECTIONS:
        raise TensorError(f"at most {MAX_DETECTIONS} detections fit into a result, not {len(detections)}")
    if len(detections) and not 0 <= detections.classes.min() <= detections.classes.max() <= MAX_CLASS:
        raise TensorError(f"a class is from 0 to {MAX_CLASS}")
    records = np.zeros(len(detections), _WIRE)
    records["class"] = detections.classes
    records["score"] = detections.scores
    records["box"] = detections.xyxy
    _check(records, TensorError)
    return bytes([len(records)]) + records.tobytes()


def parse_detections(data: bytes | memoryview) -> Detections:
    """Read the bytes of the wire; ProtocolError when they are malformed.

    The classes are not checked against any model's labels: this is the caller's part.
    """
    if len(data) < 1 or data[0] > MAX_DETECTIONS or len(data) != 1 + data[0] * _WIRE.itemsize:
        raise ProtocolError(f"{len(data)} bytes do not hold the number of detections that they announce, 100 at most")
    records = np.frombuffer(data, _WIRE, offset=1)
    _check(records, ProtocolError)
    return Detections(
        records["box"].astype(np.float32), records["score"].astype(np.float32), records["class"].astype(np.int64)
    )


def _check(records: NDArray[Any], error: type[Exception]) -> None:
    scores = records["score"]
    if not np.isfinite(records["box"]).all():
        raise error("a detection's box is not finite")
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN is neither
        raise error("a detection's score is not between 0 and 1")
    if (np.diff(scores) > 0).any():
        raise error("the detections are not in descending order of score")
    if records["zero"].any():
        raise error("a reserved field of a detection is not zero")


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
