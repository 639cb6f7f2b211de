"""From a camera frame to the model's input, and boxes back to the frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard
from splitrtc_errors import MissingDependency, TensorError

__all__ = ["Preprocessor"]


class Preprocessor:
    """Makes the input of one model from frames of any size.

    It owns its buffers: a result is valid until the next call, and one preprocessor serves one thread.
    """

    def __init__(self, card: ModelCard) -> None:
        """MissingDependency when OpenCV cannot be loaded."""
        self._cv2 = _opencv()
        how = card.picture
        self._how = how
        self._size = card.image_size
        width, height = self._size
        self._input = np.empty(card.image.shape, card.image.dtype)
        planes_last = how.layout == "NHWC"
        shape = (1, 1, 3) if planes_last else (3, 1, 1)
        self._mean = _per_plane(how.mean, shape, neutral=0.0)
        self._scale = _per_plane(how.scale, shape, neutral=1.0)
        # Resize and split bytes, convert to floats last: 0.20 ms for 640x480 to 300x300, where a strided conversion
        # of the resized picture takes 0.29 and cv2.dnn.blobFromImage 0.30.
        self._resized = np.empty((height, width, 3), np.uint8)
        self._planes = np.empty((height, width, 3) if planes_last else (3, height, width), np.uint8)
        self._place = (0, 0, 0, 0)
        """Where the picture lies in the input: x, y, width, height."""

    def prepare(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the model's input, in the shape and type of the card, for an H x W x 3 uint8 BGR ``image``.

        TensorError when the image is something else.
        """
        self.fit(image)
        self._reorder()
        np.copyto(self._input[0], self._planes)
        if self._mean is not None:
            self._input -= self._mean
        if self._scale is not None:
            self._input *= self._scale
        return self._input

    def fit(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the picture alone, H x W x 3 uint8 BGR in the size of the model's input: `prepare` goes on from it.

        `prepare` leaves a picture of that size as it is. TensorError when the image is something else.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise TensorError(f"a frame is an H x W x 3 uint8 BGR picture, {image.dtype}{list(image.shape)} came")
        place = self.placed((image.shape[1], image.shape[0]))
        if place != self._place:
            self._place = place
            self._resized[:] = self._how.pad
        x, y, width, height = place
        inside = self._resized[y : y + height, x : x + width]
        self._cv2.resize(image, (width, height), dst=inside, interpolation=self._cv2.INTER_LINEAR)
        return self._resized

    def _reorder(self) -> None:
        """From blue, green, red of each pixel to the order and layout of the model."""
        if self._how.layout == "NCHW":
            self._cv2.split(self._resized, list(self._planes if self._how.order == "BGR" else self._planes[::-1]))
        elif self._how.order == "BGR":
            np.copyto(self._planes, self._resized)
        else:
            self._cv2.cvtColor(self._resized, self._cv2.COLOR_BGR2RGB, dst=self._planes)

    def placed(self, frame_size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Where a frame of this width and height lies in the model's input: x, y, width and height, in its pixels."""
        full_width, full_height = self._size
        if self._how.resize == "stretch":
            return 0, 0, full_width, full_height
        frame_width, frame_height = frame_size
        # In integers: a quotient that is a hair too small would cost a pixel.
        width = min(full_width, max(1, frame_width * full_height // frame_height))
        height = min(full_height, max(1, frame_height * full_width // frame_width))
        if self._how.place == "top-left":
            return 0, 0, width, height
        return (full_width - width) // 2, (full_height - height) // 2, width, height

    def undo(self, boxes: NDArray[np.float32], frame_size: tuple[int, int]) -> NDArray[np.float32]:
        """Bring boxes from the model's input back to the frame.

        Args:
            boxes: N x 4 float32 (x1, y1, x2, y2) in pixels of the model's input.
            frame_size: width and height of the frame in pixels.

        Returns:
            N x 4 float32 in pixels of the frame, clipped to it.
        """
        x, y, width, height = self.placed(frame_size)
        limits = np.array(frame_size * 2, np.float32)
        scale = limits / np.array((width, height) * 2, np.float32)
        offset = np.array((x, y) * 2, np.float32)
        return np.clip((boxes - offset) * scale, np.float32(0), limits)


def _per_plane(values: tuple[float, ...], shape: tuple[int, ...], neutral: float) -> NDArray[np.float32] | None:
    if all(value == neutral for value in values):
        return None
    return np.array(values, np.float32).reshape(shape)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingDependency(
            f"OpenCV cannot be loaded ({error}); if a system library is missing, on Debian and Ubuntu run: "
            "apt-get install libgl1 libglib2.0-0"
        ) from error
    return cv2
