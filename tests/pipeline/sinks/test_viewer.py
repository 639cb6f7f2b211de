from __future__ import annotations

import io
import os

import numpy as np
import pytest

from pipeline.sinks.viewer import Receiver, header

LATE = 5.0


def picture(value: int) -> np.ndarray:
    """A picture bigger than what a pipe holds."""
    return np.full((200, 300, 3), value, np.uint8)


@pytest.mark.parametrize("missing", [0, 1, 180_000, 180_004])
def test_the_newest_complete_picture_is_kept(missing: int) -> None:
    reading, writing = os.pipe()
    data = b"".join(header(picture(value)) + picture(value).tobytes() for value in (1, 2))
    with io.FileIO(reading) as pipe:
        receiver = Receiver(pipe)
        with io.FileIO(writing, "w") as stream:
            view = memoryview(data)[: len(data) - missing]
            while view:
                view = view[stream.write(view) :]
        assert receiver.ended.wait(LATE)
        image = receiver.take()
    assert image is not None
    assert image.shape == (200, 300, 3)
    assert (image == (1 if missing else 2)).all()
    assert receiver.take() is None
