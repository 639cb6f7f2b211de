from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.frames import Frame


def test_a_frame_knows_its_size() -> None:
    frame = Frame(np.zeros((48, 64, 3), np.uint8), 3, 1.5)
    assert (frame.width, frame.height) == (64, 48)
    assert frame.pts is None
    assert frame.is_picture


@pytest.mark.parametrize("ready", [np.zeros(16, np.uint8), np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_picture_has_no_size(ready: NDArray[Any]) -> None:
    frame = Frame(ready, 0, 0.0)
    assert (frame.is_picture, frame.width, frame.height) == (False, 0, 0)


def test_frames_are_told_apart_by_identity_not_by_their_pixels() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    first, second = Frame(image, 0, 0.0), Frame(image, 0, 0.0)
    assert first != second
    assert first in [second, first]
