"""A folder of images, and the built-in test pattern."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from pipeline.frames import Image
from pipeline.sources.base import Picture, Source
from splitrtc_errors import SourceError

__all__ = ["IMAGE_SUFFIXES", "ImageFolder", "TestPattern"]

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
IMAGES_PER_SECOND = 5.0
"""Slow enough that a modest device shows every image of a folder."""
PATTERN_FPS = 30.0


class ImageFolder(Source):
    """The images of a folder in the order of their names; sizes may differ."""

    live = False
    fps: float

    def __init__(self, folder: str | Path, *, fps: float | None = None) -> None:
        self.name = str(folder)
        self.fps = fps or IMAGES_PER_SECOND
        self._folder = Path(folder)
        self.damaged = 0
        """Images that could not be read and were left out."""
        self._files: list[Path] = []
        self._next = 0
        self._given = 0

    def open(self) -> None:
        """List the images."""
        try:
            entries = sorted(self._folder.iterdir())
        except OSError as error:
            raise SourceError(f"cannot open {self.name}: {error.strerror}") from error
        self._files = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]
        self._next = self._given = 0
        if not self._files:
            raise SourceError(
                f"cannot open {self.name}: no images in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})"
            )

    def read(self) -> Picture | None:
        """Read the next image."""
        import cv2

        while self._next < len(self._files):
            path = self._files[self._next]
            self._next += 1
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is not None:
                self._given += 1
                return Picture(np.asarray(image, dtype=np.uint8), (self._given - 1) / self.fps)
            self.damaged += 1
            logger.warning("%s is not an image, or a damaged one: left out", path)
        if not self._given:
            raise SourceError(f"{self.name}: none of its {len(self._files)} images can be read")
        return None

    def close(self) -> None:
        """Forget the list."""
        self._files = []
        self._next = self._given = 0


class TestPattern(Source):
    """A moving picture that needs no camera: colour bars, a running block and the frame's number. It never ends."""

    __test__ = False  # not a test, whatever pytest makes of the name
    live = False
    fps: float

    def __init__(self, width: int = 640, height: int = 480, *, fps: float | None = None) -> None:
        self.name = "testsrc"
        self.fps = fps or PATTERN_FPS
        self._next = 0
        self._bars = _colour_bars(width, height)

    def open(self) -> None:
        """Begin with number 0."""
        self._next = 0

    def read(self) -> Picture | None:
        """Draw the next picture."""
        import cv2

        height, width = self._bars.shape[:2]
        side = min(width, height) // 8
        x = self._next * 4 % max(width - side, 1)
        image = self._bars.copy()
        cv2.rectangle(image, (x, height // 2), (x + side, height // 2 + side), (255, 255, 255), cv2.FILLED)
        cv2.putText(image, str(self._next), (side // 2, side), cv2.FONT_HERSHEY_SIMPLEX, side / 40, (255, 255, 255), 2)
        self._next += 1
        return Picture(image, (self._next - 1) / self.fps)

    def close(self) -> None:
        """Nothing is held."""
        self._next = 0


def _colour_bars(width: int, height: int) -> Image:
    """The eight colours that are made of full and missing channels, from white to black, at three quarters."""
    colours = np.array([[(i & 1) == 0, (i & 4) == 0, (i & 2) == 0] for i in range(8)], dtype=np.uint8) * np.uint8(191)
    row = colours[np.arange(width) * 8 // width]
    return np.ascontiguousarray(np.broadcast_to(row, (height, width, 3)))
