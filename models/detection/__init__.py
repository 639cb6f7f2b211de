"""Detection: from a model's outputs to boxes, and these as bytes. A module for each decoding scheme."""

from __future__ import annotations

from models.detection.boxes import MAX_DETECTIONS, Detections, to_supervision
from models.detection.detector import SCHEMES, Detector
from models.detection.wire import pack_detections, parse_detections

__all__ = [
    "MAX_DETECTIONS",
    "SCHEMES",
    "Detections",
    "Detector",
    "pack_detections",
    "parse_detections",
    "to_supervision",
]
