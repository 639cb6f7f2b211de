"""Cameras, read with OpenCV."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.sources.base import Picture, RateLimit, Source
from splitrtc_errors import SourceError

if TYPE_CHECKING:
    import cv2

__all__ = ["Camera"]


class Camera(Source):
    """A camera by its index (0 is the first) or by its device path (``/dev/video0``), at ``fps`` at most."""

    live = True

    def __init__(self, device: int | str | Path, *, fps: float | None = None) -> None:
        self.name = f"camera {device}"
        self.fps = fps
        self._device = device if isinstance(device, int) else str(device)
        self._limit = fps
        self._rate_limit = RateLimit(fps)
        self._camera: cv2.VideoCapture | None = None

    def open(self) -> None:
        """Take hold of the camera."""
        import cv2

        with _quiet_opencv():
            # A device path goes to the camera driver at once; what OpenCV would try first takes it for a video file.
            is_device = isinstance(self._device, str) and Path(self._device).is_char_device()
            camera = cv2.VideoCapture(self._device, cv2.CAP_V4L2 if is_device else cv2.CAP_ANY)
        if not camera.isOpened():
            camera.release()
            raise SourceError(
                f"cannot open {self.name}: it is not there, another program uses it, or it may not be read "
                "(`ls /dev/video*` lists the cameras of a Linux machine)"
            )
        self._camera = camera
        if self._limit:
            camera.set(cv2.CAP_PROP_FPS, self._limit)
        reported = camera.get(cv2.CAP_PROP_FPS)  # 0 or -1 where the driver does not know
        self.fps = min((rate for rate in (self._limit, reported) if rate and rate > 0), default=None)
        self._rate_limit = RateLimit(self._limit)

    def read(self) -> Picture | None:
        """Wait for the next picture; SourceError when the camera has gone."""
        if self._camera is None:
            return None
        there = self._camera.grab()
        while there and not self._rate_limit.admits(time.monotonic()):  # it does not care what it was asked for
            there = self._camera.grab()
        if there:
            there, image = self._camera.retrieve()
        if not there:
            raise SourceError(
                f"{self.name} disappeared: it gives no more pictures (unplugged, or taken by another program)"
            )
        return Picture(np.asarray(image, dtype=np.uint8))

    def close(self) -> None:
        """Release the camera."""
        if self._camera is not None:
            self._camera.release()
            self._camera = None


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """While a camera is opened, keep OpenCV from printing a warning for each driver that does not have it."""
    from cv2.utils import logging

    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
