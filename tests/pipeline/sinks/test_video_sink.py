from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.outcome import FrameResult
from pipeline.sinks import StreamInfo, VideoSink
from splitrtc_errors import SinkError


def record(path: Path, results: list[FrameResult], fps: float | None = 30.0) -> VideoSink:
    """Write a video of the results."""
    sink = VideoSink(path)
    sink.open(StreamInfo("test", fps))
    for result in results:
        sink.write(result)
    sink.close()
    return sink


def read(path: Path) -> list[tuple[float, np.ndarray]]:
    """Times and pictures of a video."""
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.mov"])
def test_each_picture_stands_at_the_time_of_its_capture(
    make_result: Callable[..., FrameResult], tmp_path: Path, name: str
) -> None:
    times = [100.0, 100.033, 100.2, 100.21, 100.9]
    record(tmp_path / name, [make_result(i, captured=time) for i, time in enumerate(times)])
    written = read(tmp_path / name)
    assert [time for time, _ in written] == pytest.approx([time - 100 for time in times], abs=0.002)


def test_the_boxes_are_in_the_picture(make_result: Callable[..., FrameResult], tmp_path: Path) -> None:
    record(tmp_path / "out.mp4", [make_result(i, size=(640, 480)) for i in range(3)])
    for _, image in read(tmp_path / "out.mp4"):
        edge, ground = image[30, 4].astype(int), image[200, 300].astype(int)
        assert np.abs(edge - ground).max() > 40


@pytest.mark.parametrize("fps", [None, 29.97, 1000.0, 0.5])
def test_any_rate_of_the_source_will_do(
    make_result: Callable[..., FrameResult], tmp_path: Path, fps: float | None
) -> None:
    record(tmp_path / "out.mp4", [make_result(i) for i in range(4)], fps)
    assert len(read(tmp_path / "out.mp4")) == 4


def test_odd_and_changing_sizes_fit_into_the_first_one(make_result: Callable[..., FrameResult], tmp_path: Path) -> None:
    sizes = [(65, 49), (65, 49), (32, 100), (64, 48), (2, 2)]
    record(tmp_path / "out.mp4", [make_result(i, size=size) for i, size in enumerate(sizes)])
    assert [image.shape for _, image in read(tmp_path / "out.mp4")] == [(48, 64, 3)] * 5


def test_a_result_older_than_the_last_picture_is_left_out(
    make_result: Callable[..., FrameResult], tmp_path: Path
) -> None:
    sink = record(tmp_path / "out.mp4", [make_result(i, captured=t) for i, t in enumerate([1.0, 1.2, 1.1, 1.2, 1.3])])
    assert sink.skipped == 2
    assert [time for time, _ in read(tmp_path / "out.mp4")] == pytest.approx([0.0, 0.2, 0.3], abs=0.001)


def test_without_a_picture_no_file_remains(tmp_path: Path) -> None:
    sink = record(tmp_path / "out.mp4", [])
    sink.close()
    assert not (tmp_path / "out.mp4").exists()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "gone" / "out.mp4")
    with pytest.raises(SinkError, match=r"cannot write .*out\.mp4: No such file"):
        sink.open(StreamInfo("test"))
    sink.close()


NOISE = np.random.default_rng(1)


def noise(make_result: Callable[..., FrameResult], index: int) -> FrameResult:
    """A picture that needs many bytes."""
    result = make_result(index)
    image = NOISE.integers(0, 255, (240, 320, 3), np.uint8)
    return dataclasses.replace(result, frame=dataclasses.replace(result.frame, image=image))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
@pytest.mark.parametrize("pictures", [1, 60])
def test_a_disk_that_is_full_from_the_start(
    make_result: Callable[..., FrameResult], tmp_path: Path, name: str, pictures: int
) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    sink = VideoSink(tmp_path / name)
    sink.open(StreamInfo("test", 30.0))
    with pytest.raises(SinkError, match="No space left"):
        for index in range(pictures):
            sink.write(noise(make_result, index))
        sink.close()  # with one picture all is in the encoder till then
    sink.close()


def test_a_disk_that_is_full_on_the_way(make_result: Callable[..., FrameResult], tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4")
    sink.open(StreamInfo("test", 30.0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(SinkError, match=r"cannot write .*out\.mp4: File too large"):
            for index in range(200):
                sink.write(noise(make_result, index))
        sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 0 < (tmp_path / "out.mp4").stat().st_size <= 200_000
