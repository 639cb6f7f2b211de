"""OpenCV reads a video file through the same calls as a camera; a file that ends is a camera that has gone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cv2.utils import logging as cv_logging

from pipeline.capture import Capture
from pipeline.sources import Camera
from splitrtc_errors import SourceError


def test_a_camera_that_disappears_says_so(make_video: Callable[..., Path]) -> None:
    path = make_video("camera.avi", frames=3, codec="mjpeg", fps=25)
    camera = Camera(path)
    camera.open()
    assert camera.fps == 25
    for _ in range(3):
        picture = camera.read()
        assert picture is not None
        assert picture.image.shape == (48, 64, 3)
        assert picture.pts is None
    with pytest.raises(SourceError, match=r"camera .*camera\.avi disappeared"):
        camera.read()
    camera.close()
    camera.close()
    assert camera.read() is None


def test_a_camera_that_is_faster_than_asked_is_thinned_out(make_video: Callable[..., Path]) -> None:
    camera = Camera(make_video("camera.avi", frames=10, codec="mjpeg"), fps=0.01)
    camera.open()
    assert camera.fps == 0.01
    assert camera.read() is not None
    with pytest.raises(SourceError, match="disappeared"):  # the next one would be due in 100 s
        camera.read()
    camera.close()


def test_a_camera_unplugged_under_way_ends_the_capture_with_an_error(
    make_video: Callable[..., Path], tmp_path: Path
) -> None:
    """The device is a pipe, whose writer goes away in the middle of the stream."""
    data = make_video("camera.ts", frames=40).read_bytes()
    pipe = tmp_path / "video0"
    os.mkfifo(pipe)

    def plug() -> None:
        with pipe.open("wb") as device:
            device.write(data[: len(data) * 3 // 4])

    writer = threading.Thread(target=plug)
    writer.start()
    capture = Capture(Camera(pipe))
    capture.start()
    with pytest.raises(SourceError, match="disappeared"):
        while capture.get(5) is not None:
            pass
    assert capture.produced > 0
    capture.stop()
    writer.join()


@pytest.mark.parametrize("device", [99, Path(os.devnull), "no-such-device"])
def test_a_camera_that_is_not_there_is_one_error_without_noise(
    device: int | str | Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = cv_logging.getLogLevel()
    with pytest.raises(SourceError, match=f"^cannot open camera {device}: it is not there") as caught:
        Camera(device).open()
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert cv_logging.getLogLevel() == before
