"""Video files and network streams, read with PyAV."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from pipeline.frames import Image
from pipeline.sources.base import Picture, RateLimit, Source
from splitrtc_errors import BadArgument, SourceError

if TYPE_CHECKING:
    import av

__all__ = ["NETWORK_TIMEOUT", "URL_SCHEMES", "VideoFile", "VideoUrl", "exact_colours"]

URL_SCHEMES = ("rtsp", "rtsps", "http", "https")
NETWORK_TIMEOUT = 5.0
"""Seconds that a server may take for each step of opening, and for the next packet afterwards."""
MAX_DAMAGED = 100
"""Undecodable packets in a row after which a stream counts as gone."""
SINGLE_THREAD_PIXELS = 1920 * 1088
"""Up to this size one thread decodes in a few milliseconds; more threads only cost memory and delay."""

# Over UDP every lost packet is a grey smear, which a detector takes for an object.
_NETWORK_OPTIONS = {"rtsp_flags": "prefer_tcp"}


def exact_colours() -> dict[str, Any]:
    """Arguments for PyAV's ``reformat`` that let colours survive the way there and back.

    The conversions that it takes by default truncate: they are ten times faster, and darken a picture by two or three
    levels, which measurements would hold against whatever converts once more than the others.
    """
    from av.video.reformatter import Interpolation

    rounded = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    return {"interpolation": Interpolation.BICUBIC | rounded}


class _Video(Source):
    """What files and streams share: opening, decoding, conversion to BGR."""

    def __init__(
        self, target: str, name: str, fps: float | None, options: dict[str, str] | None, *, exact: bool = False
    ) -> None:
        self.name = name
        self.live = False
        self.fps = fps
        self.damaged = 0
        """Packets that could not be decoded and were skipped."""
        self._target = target
        self._limit = fps
        self._options = options
        self._exact = exact
        self._container: av.container.InputContainer | None = None
        self._pictures: Iterator[Picture] = iter(())

    def open(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        timeout = None if self._options is None else NETWORK_TIMEOUT
        begin = time.monotonic()
        try:
            self._container = container = av.open(self._target, options=self._options, timeout=timeout)
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(f"cannot open {self.name}: {self._reason(error, begin)}") from error
        if not container.streams.video:
            raise SourceError(f"cannot open {self.name}: it holds no video stream")
        stream = container.streams.video[0]
        # Only a stream without an end is live; a file on a server is played at its own rate like any other.
        self.live = self._options is not None and container.duration is None
        rate = float(stream.average_rate or stream.guessed_rate or 0) or None
        self.fps = min(filter(None, (self._limit, rate)), default=None)
        many = stream.width * stream.height > SINGLE_THREAD_PIXELS and not self.live
        stream.thread_type = "AUTO" if many else "NONE"
        # One reformatter for all pictures: a new one each time, as in ``to_ndarray(format=...)``, costs 1 ms more.
        self._pictures = self._decode(container, stream, 1.0 / rate if rate else 0.0, VideoReformatter())

    def read(self) -> Picture | None:
        import av

        begin = time.monotonic()
        try:
            picture = next(self._pictures, None)
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(f"{self.name} stopped: {self._reason(error, begin)}") from error
        if picture is None and self.live:
            raise SourceError(f"{self.name} ended: the camera or the server closed the stream")
        return picture

    def close(self) -> None:
        self._pictures = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    def _decode(self, container: Any, stream: Any, interval: float, reformatter: Any) -> Iterator[Picture]:
        import av

        limit = RateLimit(self._limit)
        conversion = exact_colours() if self._exact else {}
        failures = 0
        origin: float | None = None
        position = -interval
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                self.damaged += 1
                failures += 1
                if failures > MAX_DAMAGED:
                    raise SourceError(f"{self.name}: {failures} damaged packets in a row, no picture") from error
                continue
            for frame in frames:
                failures = 0
                if frame.time is None:
                    position += interval
                else:
                    origin = frame.time if origin is None else origin
                    position = frame.time - origin
                if not limit.admits(position):
                    continue
                picture = reformatter.reformat(frame, format="bgr24", threads=1, **conversion).to_ndarray()
                yield Picture(_upright(picture, frame.rotation), None if self.live else position)

    def _reason(self, error: Exception, begin: float) -> str:
        """FFmpeg's reason, without the address that its messages repeat, and with a timeout called by its name.

        A timeout has no name of its own there: RTSP, for one, calls it invalid data.
        """
        if self._options is not None and time.monotonic() - begin >= NETWORK_TIMEOUT:
            return f"no answer within {NETWORK_TIMEOUT:g} s"
        return getattr(error, "strerror", None) or type(error).__name__


class VideoFile(_Video):
    """A video file, in its own time; of a faster one than ``fps``, pictures are left out.

    With ``exact``, colours are converted as `exact_colours` says.
    """

    def __init__(
        self, path: str | Path, *, fps: float | None = None, name: str | None = None, exact: bool = False
    ) -> None:
        super().__init__(str(path), name or str(path), fps, None, exact=exact)


class VideoUrl(_Video):
    """An RTSP or HTTP stream. A finite one, such as a file on a web server, is played like a file."""

    def __init__(self, url: str, *, fps: float | None = None) -> None:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise BadArgument(f"not a URL: {error}") from error
        # User, password and query stay out of every message.
        name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        super().__init__(url, name, fps, _NETWORK_OPTIONS)
        self.live = True  # as far as one knows before it has answered


def _upright(image: Image, rotation: int) -> Image:
    """Undo the rotation that phones write into a file instead of turning the picture: quarters counter-clockwise."""
    return np.ascontiguousarray(np.rot90(image, round(rotation / 90)))
