"""Detections as bytes on the wire and back (docs/protocol.md, 3.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.detection.boxes import MAX_DETECTIONS, Detections
from splitrtc_errors import ProtocolError, TensorError

__all__ = ["pack_detections", "parse_detections"]

MAX_CLASS = 2**16 - 1

_WIRE = np.dtype([("class", ">u2"), ("zero", ">u2"), ("score", ">f4"), ("box", ">f4", (4,))])


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
