from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.outcome import FrameResult
from pipeline.sinks import SinkRunner, StreamInfo, WindowSink, viewer, window
from splitrtc_errors import SinkError

INFO = StreamInfo("test", 30.0)
LATE = 10.0


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A virtual display, where Xvfb is installed."""
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as stream:
        name = f":{stream.readline().strip()}"
    monkeypatch.setenv("DISPLAY", name)
    yield name
    server.terminate()
    server.wait()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """A function that puts another program in the viewer's place."""

    def use(code: str) -> None:
        path = tmp_path / "stand_in.py"
        path.write_text(f"import os, sys, time\n{code}\n")
        monkeypatch.setattr(viewer, "__file__", str(path))

    return use


def test_pictures_are_shown_until_the_stream_ends(make_result: Callable[..., FrameResult], display: str) -> None:
    sink = WindowSink()
    sink.open(INFO)
    for index in range(20):
        sink.write(make_result(index, size=(320, 240)))
    process = sink._process
    assert process is not None
    sink.close()
    sink.close()
    assert process.returncode == 0
    assert not sink.wants_stop


@pytest.mark.skipif(shutil.which("xdotool") is None, reason="needs xdotool")
def test_q_ends_the_stream(make_result: Callable[..., FrameResult], display: str) -> None:
    over = threading.Event()
    runner = SinkRunner(WindowSink(), on_end=lambda runner: over.set())
    runner.start(INFO)
    runner.put(make_result(0, size=(320, 240)))
    press = ["xdotool", "search", "--sync", "--name", "splitrtc: test", "windowfocus", "--sync", "key", "q"]
    subprocess.run(press, check=True, timeout=LATE)
    for index in range(1, 10_000):
        runner.put(make_result(index, size=(320, 240)))
        if over.wait(0.01):
            break
    assert runner.sink.wants_stop
    runner.close()
    assert runner.error is None


def test_without_a_display_it_is_one_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    runner = SinkRunner(WindowSink())
    with pytest.raises(SinkError, match=r"^cannot open a window: .*record to FILE\.mp4") as caught:
        runner.start(INFO)
    assert "\n" not in str(caught.value)


def test_a_closed_window_asks_for_the_end(
    make_result: Callable[..., FrameResult], stand_in: Callable[[str], None]
) -> None:
    stand_in(f"os.write(1, {viewer.READY!r}); os.read(0, 1); os._exit({viewer.CLOSED_BY_USER})")
    sink = WindowSink()
    sink.open(INFO)
    sink.write(make_result(size=(640, 480)))  # far more than a pipe holds
    assert sink.wants_stop
    sink.close()


def test_a_window_that_dies_is_an_error(
    make_result: Callable[..., FrameResult], stand_in: Callable[[str], None]
) -> None:
    stand_in(f"os.write(1, {viewer.READY!r}); os.read(0, 1); raise OSError('the screen fell down')")
    sink = WindowSink()
    sink.open(INFO)
    with pytest.raises(SinkError, match="the window has gone: OSError: the screen fell down"):
        sink.write(make_result(size=(640, 480)))
    assert not sink.wants_stop
    sink.close()


def test_a_viewer_that_says_nothing_is_still_an_error(stand_in: Callable[[str], None]) -> None:
    stand_in("sys.exit(1)")
    sink = WindowSink()
    with pytest.raises(SinkError, match="it ended without a word"):
        sink.open(INFO)
    sink.close()


def test_a_window_that_does_not_close_is_ended(
    stand_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "EXIT_TIMEOUT", 0.05)
    stand_in(f"os.write(1, {viewer.READY!r}); time.sleep(60)")
    sink = WindowSink()
    sink.open(INFO)
    process = sink._process
    assert process is not None
    sink.close()
    assert process.returncode < 0


def test_the_viewer_imports_nothing_of_the_project() -> None:
    code = f"import sys, runpy; runpy.run_path({viewer.__file__!r}); assert 'pipeline' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, cwd="/")
