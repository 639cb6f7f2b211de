"""Pictures as video codecs take them: planes Y, U, V at half the resolution for colour (I420, ITU-R BT.601)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bgr_of", "even_size", "i420_of"]


def even_size(size: tuple[int, int]) -> tuple[int, int]:
    """The width and height that a picture of this size has as I420: the next even numbers."""
    width, height = size
    return width + width % 2, height + height % 2


def i420_of(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The planes of an H x W x 3 BGR picture, below each other: H * 3 / 2 rows of W bytes, after making both even."""
    import cv2

    height, width = picture.shape[:2]
    even_width, even_height = even_size((width, height))
    if (even_width, even_height) != (width, height):
        picture = cv2.copyMakeBorder(  # type: ignore[assignment]
            picture, 0, even_height - height, 0, even_width - width, cv2.BORDER_REPLICATE
        )
    planes: Any = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
    return planes  # type: ignore[no-any-return]


def bgr_of(planes: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The inverse of `i420_of`, as far as there is one, for a picture of this width and height."""
    import cv2

    width, height = size
    picture: Any = cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420)
    return picture[:height, :width]  # type: ignore[no-any-return]
