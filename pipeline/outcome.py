"""What became of one frame: the record that every sink is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.frames import Frame

if TYPE_CHECKING:
    from models.detection import Detections
    from pipeline.events import ModeChanged

__all__ = ["ANSWERED", "FrameResult", "Status", "Timings"]

Status = Literal["ok", "incomplete", "superseded", "late", "error", "lost", "skipped"]
"""What became of a frame: the edge's answer (protocol section 3.2), or, where it never gave one,

``lost``: sent, and no result came in time; ``skipped``: dropped on this side, ``dropped_at`` says where.
"""


ANSWERED: tuple[Status, ...] = ("ok", "incomplete")
"""What became of a frame that has a result to show."""


@dataclass(frozen=True, slots=True)
class Timings:
    """How long each stage took, in seconds; None for a stage that did not take place.

    Durations of the edge were measured there. ``network`` is what remains of ``total`` when everything measured is
    taken away, so clocks of two machines are never subtracted.
    """

    wait: float | None = None
    """In the capture slot, until the device came to it."""
    preprocess: float | None = None
    head: float | None = None
    encode: float | None = None
    network: float | None = None
    queue: float | None = None
    decode: float | None = None
    tail: float | None = None
    post: float | None = None
    total: float | None = None
    """From the frame's capture until its result was there."""

    def milliseconds(self) -> dict[str, float]:
        """The stages that took place, in milliseconds, rounded to a microsecond."""
        values = ((entry.name, getattr(self, entry.name)) for entry in fields(self))
        return {name: round(value * 1000, 3) for name, value in values if value is not None}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FrameResult:
    """One frame, what was found in it, and what it cost."""

    frame: Frame
    status: Status
    mode: str = "split"
    """By which the frame was answered: ``local``, ``split`` or ``remote``. For one that was not: that of the session
    when it ended, ``none`` where there was nobody to answer it."""
    change: ModeChanged | None = None
    """How the session came to the mode that it was in when the frame ended."""
    frame_id: int | None = None
    """The session's number of the frame on the wire, from 1; None when it was never sent."""
    dropped_at: str | None = None
    """The stage that dropped the frame, when one did."""
    detections: Detections | None = None
    """In pixels of ``frame.image``; None when there is no answer, while an answer may well be empty."""
    tensors: Mapping[str, NDArray[Any]] | None = None
    """Of a model that detects nothing: its outputs by name, read-only; None when there is no answer."""
    labels: Sequence[str] = ()
    """Names of the classes: ``detections.classes`` are indices into it."""
    share_received: float = 1.0
    """Share of the intermediate data that arrived, 0 to 1; the rest was concealed. 1 where nothing is sent."""
    share_returned: float = 1.0
    """Share of ``tensors`` that came back, 0 to 1; the rest are values of the frame before, or 0."""
    timings: Timings = field(default_factory=Timings)
    bytes_sent: int = 0
    """Payload handed to the transport for this frame, headers of the units included."""
    completed: float = 0.0
    """Seconds of the local monotonic clock at which this record was made."""

    @property
    def answered(self) -> bool:
        """There is a result to show, perhaps with nothing found, perhaps from incomplete data."""
        return self.detections is not None or self.tensors is not None

    def label(self, class_index: int) -> str:
        """The name of a class, or its number where it has no name."""
        return self.labels[class_index] if 0 <= class_index < len(self.labels) else str(class_index)

    def to_json(self) -> dict[str, Any]:
        """The record without the picture and the values of ``tensors``, made of what ``json`` can write.

        Boxes are ``[x1, y1, x2, y2]`` in pixels of the source's frame; times are milliseconds, except ``captured``
        (seconds of the monotonic clock) and ``pts`` (seconds of the source).
        """
        return {
            "frame_id": self.frame_id,
            "index": self.frame.index,
            "captured": round(self.frame.captured, 6),
            "pts": None if self.frame.pts is None else round(self.frame.pts, 6),
            "width": self.frame.width,
            "height": self.frame.height,
            "status": self.status,
            "mode": self.mode,
            "dropped_at": self.dropped_at,
            "share_received": round(self.share_received, 4),
            "share_returned": round(self.share_returned, 4),
            "bytes_sent": self.bytes_sent,
            "timings_ms": self.timings.milliseconds(),
            "detections": None if self.detections is None else self._detections_json(self.detections),
            "tensors": None if self.tensors is None else [_tensor_json(*item) for item in self.tensors.items()],
        }

    def _detections_json(self, found: Detections) -> list[dict[str, Any]]:
        rows = zip(found.classes.tolist(), found.scores.tolist(), found.xyxy.tolist(), strict=True)
        return [
            {
                "class": index,
                "label": self.label(index),
                "score": round(score, 4),
                "box": [round(value, 2) for value in box],
            }
            for index, score, box in rows
        ]


def _tensor_json(name: str, tensor: NDArray[Any]) -> dict[str, Any]:
    """What a tensor looks like, in place of its values; None for what is not finite."""
    figures = {"min": tensor.min(), "max": tensor.max(), "mean": tensor.mean(dtype=np.float64)}
    return {
        "name": name,
        "type": tensor.dtype.name,
        "shape": list(tensor.shape),
        **{key: value.item() if np.isfinite(value) else None for key, value in figures.items()},
    }
