from __future__ import annotations

import numpy as np

from pipeline.frames import Frame


def test_a_frame_knows_its_size() -> None:
    frame = Frame(np.zeros((48, 64, 3), np.uint8), 3, 1.5)
    assert (frame.width, frame.height) == (64, 48)
    assert frame.pts is None


def test_frames_are_told_apart_by_identity_not_by_their_pixels() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    first, second = Frame(image, 0, 0.0), Frame(image, 0, 0.0)
    assert first != second
    assert first in [second, first]
