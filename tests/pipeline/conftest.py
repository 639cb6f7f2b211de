"""Small videos and results, made where they are needed."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from models import Detections
from pipeline.frames import Frame
from pipeline.outcome import FrameResult, Timings

GREY_STEP = 6
"""Frame i of a made video is plain grey of the value 10 + 6 i, so it can be told after coding."""

CODING_LOSS = 3
"""FFmpeg's fast conversion from grey RGB makes its pictures darker by this."""


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a video of plain grey frames, each a step brighter."""

    def make(
        name: str = "clip.mp4",
        *,
        frames: int = 10,
        fps: int = 30,
        size: tuple[int, int] = (64, 48),
        codec: str = "libx264",
        times: list[float] | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            # Every picture stands alone and is coded well enough to be recognised.
            stream: Any = container.add_stream(
                codec, rate=fps, options={"crf": "4", "g": "1"} if codec == "libx264" else {}
            )
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, fps)
            for index in range(frames):
                image = np.full((size[1], size[0], 3), 10 + GREY_STEP * index, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts = round(times[index] * 1000) if times else index
                frame.time_base = stream.codec_context.time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture
def grey_index() -> Callable[[np.ndarray], int]:
    """Which frame of a made video a picture is."""
    return lambda image: round((float(image.mean()) + CODING_LOSS - 10) / GREY_STEP)


@pytest.fixture
def make_result() -> Callable[..., FrameResult]:
    """A function that makes the result of one frame, with one detection unless told otherwise."""

    def make(
        index: int = 0, *, size: tuple[int, int] = (64, 48), captured: float | None = None, answered: bool = True
    ) -> FrameResult:
        image = np.full((size[1], size[0], 3), 10 + GREY_STEP * (index % 40), np.uint8)
        found = Detections(
            np.array([[4.0, 20.0, 30.0, 40.0]], np.float32), np.array([0.875], np.float32), np.array([1], np.int64)
        )
        return FrameResult(
            frame=Frame(image, index, index / 30 if captured is None else captured, index / 30),
            status="ok" if answered else "lost",
            frame_id=index + 1,
            detections=found if answered else None,
            labels=("cat", "dog"),
            timings=Timings(head=0.004, total=0.02),
            bytes_sent=9000,
        )

    return make
