"""The annotated video file."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.outcome import FrameResult
from pipeline.overlay import annotate
from pipeline.sinks.base import Sink, StreamInfo
from splitrtc_errors import SinkError

if TYPE_CHECKING:
    import av

    from pipeline.frames import Image

__all__ = ["VIDEO_SUFFIXES", "VideoSink"]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")
TIME_BASE = Fraction(1, 90_000)
ENCODER: Final = "libx264"
ENCODER_OPTIONS = {"crf": "26", "preset": "superfast"}  # a third less work than veryfast: the model needs it more
NOMINAL_FPS = 30
"""For the file's header where the source does not know its rate; pictures have their own times."""


class VideoSink(Sink):
    """Records answered frames with their results drawn in, as H.264; each stands at the time of its capture."""

    answered_only = True
    never_still = True

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        self.skipped = 0
        """Results that came after a newer frame had been written, and so cannot be."""
        self._path = Path(path)
        self._fps = Fraction(NOMINAL_FPS)
        self._container: av.container.OutputContainer | None = None
        self._stream: Any = None
        self._start = 0.0
        self._last = -1
        self._failed = False

    def open(self, info: StreamInfo) -> None:
        """Create the file."""
        import av

        self._fps = Fraction(info.fps or NOMINAL_FPS).limit_denominator(1001)
        try:
            self._path.open("wb").close()  # PyAV itself would find out at the first picture only
            self._container = av.open(str(self._path), "w")
        except OSError as error:
            raise SinkError(f"cannot write {self.name}: {error.strerror}") from error

    def write(self, result: FrameResult) -> None:
        """Draw, encode and append one picture."""
        import av

        assert self._container is not None
        image = annotate(result)
        try:
            if self._stream is None:
                self._begin(image, result.frame.captured)
            position = round((result.frame.captured - self._start) / TIME_BASE)
            if position <= self._last:
                self.skipped += 1
                return
            self._last = position
            frame = av.VideoFrame.from_ndarray(self._fitted(image), format="bgr24")
            frame.pts, frame.time_base = position, TIME_BASE
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            self._failed = True
            raise SinkError(f"cannot write {self.name}: {error.strerror}") from error

    def close(self) -> None:
        """Finish the file; one without pictures is removed. One that could not be written is left as it is."""
        import av

        container, self._container = self._container, None
        if container is None:
            return
        if self._failed:
            # That was told. With the encoder's rest FFmpeg would begin the file again, in memory that is freed already.
            with contextlib.suppress(av.error.FFmpegError, OSError):
                container.close()
            return
        try:
            with contextlib.closing(container):
                if self._stream is not None:
                    container.mux(self._stream.encode(None))
        except (av.error.FFmpegError, OSError) as error:
            raise SinkError(f"cannot finish {self.name}: {error.strerror}") from error
        if self._stream is None:
            self._path.unlink(missing_ok=True)  # an empty file is no video

    def _begin(self, image: Image, captured: float) -> None:
        assert self._container is not None
        height, width = image.shape[:2]
        stream = self._container.add_stream(ENCODER, rate=self._fps, options=ENCODER_OPTIONS)
        stream.width, stream.height = width & ~1, height & ~1  # 4:2:0 needs even sizes
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = TIME_BASE
        self._stream = stream
        self._start = captured

    def _fitted(self, image: Image) -> Image:
        """The picture in the size of the first one: a file has only one."""
        import cv2
        import numpy as np

        width, height = self._stream.width, self._stream.height
        if image.shape[0] - height in (0, 1) and image.shape[1] - width in (0, 1):
            return np.ascontiguousarray(image[:height, :width])
        return np.asarray(cv2.resize(image, (width, height)), dtype=np.uint8)
