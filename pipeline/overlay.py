"""Draws results on the frame that produced them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from pipeline.events import NO_LANE
from splitrtc_errors import SinkError

if TYPE_CHECKING:
    from pipeline.frames import Image
    from pipeline.outcome import FrameResult

__all__ = ["annotate", "status_line"]

_MARGIN = 3
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)
_RED = (0, 0, 160)


def annotate(result: FrameResult) -> Image:
    """A copy of the frame with its boxes, their labels and scores, and lines on the frame and on who answers it.

    SinkError for a frame that is no picture.
    """
    import cv2

    if not result.frame.is_picture:
        raise SinkError("the frames are no pictures, so there is nothing to draw on: record to FILE.jsonl")
    image = result.frame.image.copy()
    height, width = image.shape[:2]
    scale = max(0.4, min(width, height) / 1000)
    thickness = max(2, round(scale * 2))
    if result.detections is not None:
        found = result.detections
        # Whatever a result holds, OpenCV is only given coordinates that it can draw.
        boxes = np.nan_to_num(found.xyxy, nan=0.0).clip(-width - height, 2 * (width + height)).round().astype(int)
        rows = zip(boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
        for (x1, y1, x2, y2), score, index in reversed(list(rows)):  # the best on top
            colour = _colour(index)
            cv2.rectangle(image, (x1, y1), (x2, y2), colour, thickness)
            _write(image, f"{result.label(index)} {score:.0%}", (x1, y1), scale, _BLACK, colour)
    _write(image, status_line(result), (0, height), scale, _WHITE, _BLACK)
    if result.change is not None:
        ground = _RED if result.mode == NO_LANE else _BLACK
        _write(image, result.change.text, (0, 0), scale, _WHITE, ground)
    return image


def status_line(result: FrameResult) -> str:
    """The frame's number, its mode if not split, how old its result is, and how much arrived when that was not all."""
    parts = [f"#{result.frame.index}"]
    if result.mode not in ("split", NO_LANE):
        parts.append(result.mode)
    if result.timings.total is not None:
        parts.append(f"{result.timings.total * 1000:.0f} ms")
    if result.bytes_sent:
        parts.append(f"{result.bytes_sent / 1000:.1f} kB")
    if result.share_received < 1:
        parts.append(f"{result.share_received:.0%} received")
    if not result.answered:
        parts.append(result.status)
    return "  ".join(parts)


def _write(
    image: Image,
    text: str,
    corner: tuple[int, int],
    scale: float,
    ink: tuple[int, int, int],
    ground: tuple[int, int, int],
) -> None:
    """Write on a filled box whose lower left corner is at ``corner``; one that would stick out is moved inside."""
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    (text_width, text_height), baseline = cv2.getTextSize(text, font, scale, 1)
    box_width, box_height = text_width + 2 * _MARGIN, text_height + baseline + 2 * _MARGIN
    left = max(0, min(corner[0], image.shape[1] - box_width))
    bottom = max(box_height, min(corner[1], image.shape[0]))
    cv2.rectangle(image, (left, bottom - box_height), (left + box_width, bottom), ground, cv2.FILLED)
    cv2.putText(image, text, (left + _MARGIN, bottom - baseline - _MARGIN), font, scale, ink, 1, cv2.LINE_AA)


@cache
def _colour(index: int) -> tuple[int, int, int]:
    """A bright colour for a class, the same in every run; neighbouring classes differ by the golden angle in hue."""
    import cv2

    hue = round(index * 180 * 0.618034) % 180
    blue, green, red = cv2.cvtColor(np.full((1, 1, 3), (hue, 180, 255), np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red
