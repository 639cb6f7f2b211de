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
        _, planes, height, width = card.inputs[0].shape
        how = card.preprocessing
        self._size = (width, height)
        self._input = np.empty(card.inputs[0].shape, card.inputs[0].dtype)
        # Resize and split bytes, convert to floats last: 0.20 ms for 640x480 to 300x300, where a strided conversion
        # of the resized picture takes 0.29 and cv2.dnn.blobFromImage 0.30.
        self._resized = np.empty((height, width, planes), np.uint8)
        self._planes = np.empty((planes, height, width), np.uint8)
        self._blue_green_red = list(self._planes if how.order == "BGR" else self._planes[::-1])
        self._mean = _per_plane(how.mean, neutral=0.0)
        self._scale = _per_plane(how.scale, neutral=1.0)

    def prepare(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the model's input, 1 x planes x height x width, for an H x W x 3 uint8 BGR ``image``.

        TensorError when the image is something else.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise TensorError(f"a frame is an H x W x 3 uint8 BGR picture, {image.dtype}{list(image.shape)} came")
        self._cv2.resize(image, self._size, dst=self._resized, interpolation=self._cv2.INTER_LINEAR)
        self._cv2.split(self._resized, self._blue_green_red)
        np.copyto(self._input[0], self._planes)
        if self._mean is not None:
            self._input -= self._mean
        if self._scale is not None:
            self._input *= self._scale
        return self._input

    def undo(self, boxes: NDArray[np.float32], frame_size: tuple[int, int]) -> NDArray[np.float32]:
        """Bring boxes from the model's input back to the frame.

        Args:
            boxes: N x 4 float32 (x1, y1, x2, y2) in pixels of the model's input.
            frame_size: width and height of the frame in pixels.

        Returns:
            N x 4 float32 in pixels of the frame, clipped to it.
        """
        limits = np.array(frame_size * 2, np.float32)
        scale = limits / np.array(self._size * 2, np.float32)
        return np.clip(boxes * scale, np.float32(0), limits)


def _per_plane(values: tuple[float, ...], neutral: float) -> NDArray[np.float32] | None:
    if all(value == neutral for value in values):
        return None
    return np.array(values, np.float32).reshape(-1, 1, 1)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingDependency(
            f"OpenCV cannot be loaded ({error}); if a system library is missing, on Debian and Ubuntu run: "
            "apt-get install libgl1 libglib2.0-0"
        ) from error
    return cv2
