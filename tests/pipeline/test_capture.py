from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.capture import MAX_LAG, Capture, Pacer
from pipeline.frames import Frame
from pipeline.reconnect import Backoff
from pipeline.sources import ImageFolder, Picture, Source, TestPattern, VideoFile
from splitrtc_errors import MissingDependency, SourceError

LATE = 5.0
"""A bound for waiting in tests, far above what it takes."""


def all_frames(capture: Capture) -> list[Frame]:
    """What the capture gives until its end."""
    return list(iter(lambda: capture.get(LATE), None))


class Scripted(Source):
    """Gives pictures as fast as it is asked, then ends, fails, or waits until it is interrupted."""

    def __init__(self, pictures: int, *, end: Exception | str | None = None, live: bool = True) -> None:
        self.name = "scripted"
        self.live = live
        self.opened = self.closed = 0
        self._pictures = pictures
        self._end = end
        self._given = 0
        self._interrupted = threading.Event()

    def open(self) -> None:
        self.opened += 1
        self._given = 0

    def read(self) -> Picture | None:
        if self._given < self._pictures:
            self._given += 1
            return Picture(np.zeros((2, 2, 3), np.uint8), 0.0)
        if isinstance(self._end, Exception):
            raise self._end
        if self._end == "wait":
            self._interrupted.wait()
            raise SourceError("interrupted")
        return None

    def close(self) -> None:
        self.closed += 1

    def interrupt(self) -> None:
        self._interrupted.set()


def test_each_picture_is_due_at_its_position_after_the_first() -> None:
    pacer = Pacer(0.1)
    assert pacer.due(2.0, now=100.0) == 100.0
    # However late each call comes, the times do not move.
    assert pacer.due(2.1, now=100.3) == pytest.approx(100.1)
    assert pacer.due(2.2, now=100.15) == pytest.approx(100.2)


def test_a_new_pass_follows_one_interval_after_the_last_picture() -> None:
    pacer = Pacer(0.1)
    pacer.due(0.0, now=10.0)
    pacer.due(0.5, now=10.5)
    pacer.start_over()
    assert pacer.due(0.0, now=10.55) == pytest.approx(10.6)


def test_a_position_that_goes_back_is_due_at_once() -> None:
    pacer = Pacer(0.1)
    pacer.due(0.0, now=10.0)
    assert pacer.due(0.5, now=10.1) == pytest.approx(10.5)
    assert pacer.due(0.2, now=10.5) == pytest.approx(10.5)


def test_after_a_long_stall_it_goes_on_from_where_it_is() -> None:
    pacer = Pacer(0.1)
    pacer.due(0.0, now=10.0)
    stalled = 10.1 + MAX_LAG + 5.0
    assert pacer.due(0.1, now=stalled) == stalled
    assert pacer.due(0.2, now=stalled) == pytest.approx(stalled + 0.1)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 5)), min_size=1))
def test_due_times_never_go_back_and_never_lag_behind(steps: list[tuple[float, float]]) -> None:
    pacer, now, last = Pacer(0.1), 0.0, 0.0
    for pts, passed in steps:
        now += passed
        due = pacer.due(pts, now)
        assert due >= last
        assert due >= now - MAX_LAG
        last = due


def test_a_file_is_played_at_its_own_rate_without_drift(make_video: Callable[..., Path]) -> None:
    with Capture(VideoFile(make_video(frames=40, fps=50))) as capture:
        frames = all_frames(capture)
    assert frames[-1].index == 39
    # Seen from the first, none comes early, and delays do not add up: of the last ten, the best is on time.
    late = [frame.captured - frames[0].captured - frame.index / 50 for frame in frames]
    assert min(late) > -0.010
    assert min(late[-10:]) < 0.015
    assert capture.produced == 40
    assert len(frames) + capture.replaced == 40


def test_a_loop_goes_on_in_step(make_video: Callable[..., Path]) -> None:
    with Capture(VideoFile(make_video(frames=5, fps=50)), loop=True) as capture:
        frames: list[Frame] = []
        while not frames or frames[-1].index < 22:
            frame = capture.get(LATE)
            assert frame is not None
            frames.append(frame)
    for frame in frames:
        assert frame.pts == pytest.approx(frame.index % 5 / 50)
    span = frames[-1].captured - frames[0].captured
    assert span > (frames[-1].index - frames[0].index) / 50 - 0.015


def test_a_frame_nobody_took_is_replaced_by_the_newest() -> None:
    source = Scripted(100)
    replaced: list[int] = []
    with Capture(source, on_replaced=lambda frame: replaced.append(frame.index)) as capture:
        taken = [frame.index for frame in all_frames(capture)]
    assert taken[-1] == 99
    assert sorted(taken + replaced) == list(range(100))
    assert (capture.produced, capture.replaced) == (100, len(replaced))
    assert source.closed == 1


def test_a_picture_that_comes_while_it_is_stopped_counts_for_nothing() -> None:
    replaced: list[Frame] = []

    class Late(Scripted):
        def read(self) -> Picture | None:
            picture = super().read()
            if self._given == 2:
                self._interrupted.wait()
            return picture

    capture = Capture(Late(2), on_replaced=replaced.append)
    capture.start()
    assert capture.get(LATE) is not None
    capture.stop()
    assert (capture.produced, replaced) == (1, [])


def test_stop_does_not_wait_for_the_next_picture_to_be_due() -> None:
    capture = Capture(TestPattern(fps=0.01))
    capture.start()
    assert capture.get(LATE) is not None
    start = time.monotonic()
    capture.stop()
    assert time.monotonic() - start < 1.0
    assert capture.get() is None
    assert capture.finished
    assert capture.error is None


def test_stop_interrupts_a_read_that_waits_and_that_is_no_error() -> None:
    source = Scripted(1, end="wait")
    capture = Capture(source)
    capture.start()
    assert capture.get(LATE) is not None
    capture.stop()
    capture.stop()
    assert capture.error is None
    assert source.closed == 1


def test_stop_before_start_is_harmless() -> None:
    capture = Capture(Scripted(0))
    capture.stop()
    assert capture.finished


def test_a_source_that_cannot_be_opened_fails_at_start(tmp_path: Path) -> None:
    capture = Capture(ImageFolder(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="nowhere"):
        capture.start()
    assert capture.finished


def test_a_source_that_goes_away_fails_after_its_last_frame() -> None:
    gone = SourceError("camera 0 disappeared")
    capture = Capture(Scripted(1, end=gone))
    capture.start()
    assert capture.get(LATE) is not None
    for _ in range(2):
        with pytest.raises(SourceError, match="disappeared"):
            capture.get(LATE)
    assert capture.error is gone
    capture.stop()


def test_whatever_a_source_raises_becomes_a_source_error() -> None:
    capture = Capture(Scripted(1, end=ZeroDivisionError("oops")))
    capture.start()
    assert capture.get(LATE) is not None
    with pytest.raises(SourceError, match="scripted failed: ZeroDivisionError: oops") as caught:
        capture.get(LATE)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    capture.stop()


@pytest.mark.parametrize("loop", [False, True])
def test_a_source_without_any_picture_is_an_error(loop: bool) -> None:
    capture = Capture(Scripted(0, live=False), loop=loop)
    with pytest.raises(SourceError, match="no picture"):
        with capture:
            capture.get(LATE)
    capture.stop()


def test_a_live_source_is_not_started_again() -> None:
    source = Scripted(2)
    with Capture(source, loop=True) as capture:
        assert all_frames(capture)[-1].index == 1
    assert source.opened == 1


class Unsteady(Scripted):
    """A camera that fails after each picture, and can be opened again at every second try."""

    live = True

    def __init__(self, pictures: int, error: Exception) -> None:
        super().__init__(0)
        self._left = pictures
        self._error = error
        self._there = False

    def open(self) -> None:
        super().open()
        if self.opened % 2 == 0:
            raise SourceError("camera not found")
        self._there = True

    def read(self) -> Picture | None:
        if not self._there:
            raise self._error
        if not self._left:
            return None
        self._there, self._left = False, self._left - 1
        return Picture(np.zeros((2, 2, 3), np.uint8))


def at_once() -> Backoff:
    return Backoff(first=1e-6, longest=1e-6)


@pytest.mark.parametrize("error", [SourceError("unplugged"), OSError("unplugged")])
def test_a_live_source_that_fails_is_opened_again(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    source = Unsteady(3, error)
    capture = Capture(source, reopen=True, backoff=at_once())
    seen = []
    with capture:
        while (frame := capture.get()) is not None:
            seen.append(frame.index)
    # The numbers go on. That it ended, then, was its own will.
    assert seen[-1] == 2
    assert (capture.produced, capture.reopened, capture.error) == (3, 3, None)
    assert source.opened == 7
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in told if "unplugged; trying again" in line]
    assert [line for line in told if "camera not found; trying again" in line]


def late_camera(error: Exception) -> Unsteady:
    """One that is not there at the first try."""
    source = Unsteady(1, error)
    source.opened = 1
    return source


def test_a_camera_that_is_not_there_at_first_is_waited_for() -> None:
    capture = Capture(late_camera(SourceError("gone")), reopen=True, backoff=at_once())
    with capture:
        frame = capture.get(LATE)
        assert frame is not None
        assert frame.index == 0
    with pytest.raises(SourceError, match="not found"):
        Capture(late_camera(SourceError("gone"))).start()


def test_stop_ends_the_waiting_for_a_camera() -> None:
    source = late_camera(SourceError("gone"))
    capture = Capture(source, reopen=True, backoff=Backoff(first=1000.0, longest=1000.0))
    capture.start()
    start = time.monotonic()
    capture.stop()
    assert time.monotonic() - start < 1.0
    assert (capture.error, capture.finished, source.opened) == (None, True, 2)


def test_what_is_no_absence_is_not_waited_for() -> None:
    class Broken(Scripted):
        def open(self) -> None:
            raise ZeroDivisionError("oops")

    with pytest.raises(SourceError, match="failed: ZeroDivisionError: oops"):
        Capture(Broken(1), reopen=True, backoff=at_once()).start()
    with pytest.raises(SourceError, match="no such file"):
        source = Scripted(0, live=False)
        source.open = lambda: _raise(SourceError("no such file"))  # type: ignore[method-assign]
        Capture(source, reopen=True, backoff=at_once()).start()


def _raise(error: Exception) -> None:
    raise error


def test_one_that_gave_nothing_yet_is_an_error_too() -> None:
    capture = Capture(Scripted(0, end=SourceError("no signal")), reopen=True, backoff=at_once())
    with pytest.raises(SourceError, match="no signal"):
        with capture:
            capture.get(LATE)


def test_a_file_that_fails_is_not_opened_again() -> None:
    capture = Capture(Scripted(1, live=False, end=SourceError("damaged")), reopen=True, backoff=at_once())
    with capture:
        assert capture.get(LATE) is not None
        with pytest.raises(SourceError, match="damaged"):
            capture.get(LATE)
    assert capture.reopened == 0


def test_what_no_other_try_mends_ends_it() -> None:
    class Broken(Unsteady):
        def open(self) -> None:
            if self.opened:
                raise MissingDependency("a driver is missing")
            super().open()

    capture = Capture(Broken(2, SourceError("gone")), reopen=True, backoff=at_once())
    with capture:
        assert capture.get(LATE) is not None
        with pytest.raises(MissingDependency):
            capture.get(LATE)


def test_stop_does_not_wait_for_the_next_try() -> None:
    capture = Capture(Unsteady(2, SourceError("gone")), reopen=True, backoff=Backoff(first=1000.0, longest=1000.0))
    capture.start()
    assert capture.get(LATE) is not None
    start = time.monotonic()
    capture.stop()
    assert time.monotonic() - start < 1.0
    assert capture.error is None
