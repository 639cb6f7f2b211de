from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pipeline.outcome import FrameResult
from pipeline.sinks import CallbackSink, NullSink, Sink, SinkRunner, StreamInfo
from pipeline.sinks.base import RECORDER_BACKLOG
from splitrtc_errors import SinkError

INFO = StreamInfo("test", 30.0)
LATE = 5.0


class Gate(Sink):
    """Notes what it gets; each write waits until the gate is opened."""

    name = "gate"

    def __init__(self, *, backlog: int = RECORDER_BACKLOG, answered_only: bool = False) -> None:
        self.backlog = backlog
        self.answered_only = answered_only
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.got: list[int] = []
        self.closed = 0
        self.fail_at: int | None = None
        self.stop_at: int | None = None

    def write(self, result: FrameResult) -> None:
        self.entered.set()
        self.opened.wait(LATE)
        if result.frame.index == self.fail_at:
            raise OSError("disk full")
        self.got.append(result.frame.index)
        if result.frame.index == self.stop_at:
            self.wants_stop = True

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is open at the end, whatever happened."""
    gate = Gate()
    yield gate
    gate.opened.set()


def test_results_arrive_in_order_and_closing_waits_for_the_last(make_result: Callable[..., FrameResult]) -> None:
    got: list[int] = []
    runner = SinkRunner(CallbackSink(lambda result: got.append(result.frame.index)))
    runner.start(INFO)
    for index in range(RECORDER_BACKLOG):
        runner.put(make_result(index))
    runner.close()
    assert got == list(range(RECORDER_BACKLOG))
    assert (runner.written, runner.dropped, runner.error) == (RECORDER_BACKLOG, 0, None)


def test_a_slow_sink_never_makes_anybody_wait_and_keeps_the_newest(
    make_result: Callable[..., FrameResult], gate: Gate
) -> None:
    gate.backlog = 3
    runner = SinkRunner(gate)
    runner.start(INFO)
    runner.put(make_result(0))
    assert gate.entered.wait(LATE)
    start = time.monotonic()
    for index in range(1, 200):
        runner.put(make_result(index))
    assert time.monotonic() - start < 1.0
    gate.opened.set()
    runner.close()
    assert gate.got == [0, 197, 198, 199]
    assert (runner.written, runner.dropped) == (4, 196)


def test_a_viewer_is_not_given_frames_without_an_answer(make_result: Callable[..., FrameResult], gate: Gate) -> None:
    gate.backlog, gate.answered_only = 1, True
    runner = SinkRunner(gate)
    runner.start(INFO)
    runner.put(make_result(0))
    assert gate.entered.wait(LATE)
    runner.put(make_result(2))
    runner.put(make_result(1, answered=False))  # must not push the answer out
    gate.opened.set()
    runner.close()
    assert gate.got == [0, 2]
    assert runner.dropped == 0


def test_a_sink_that_fails_ends_alone_and_says_why(make_result: Callable[..., FrameResult], gate: Gate) -> None:
    ended: list[SinkRunner] = []
    over = threading.Event()

    def on_end(runner: SinkRunner) -> None:
        ended.append(runner)
        over.set()

    gate.fail_at = 0
    failing, healthy = SinkRunner(gate, on_end=on_end), SinkRunner(NullSink())
    for runner in (failing, healthy):
        runner.start(INFO)
        runner.put(make_result(0))
        runner.put(make_result(1))
    gate.opened.set()
    assert over.wait(LATE)
    for runner in (failing, healthy):
        runner.put(make_result(2))
        runner.close()
    assert ended == [failing]
    assert isinstance(failing.error, SinkError)
    assert str(failing.error) == "gate failed: OSError: disk full"
    assert isinstance(failing.error.__cause__, OSError)
    assert (failing.written, failing.dropped) == (0, 2)
    assert (healthy.written, healthy.error) == (3, None)
    assert gate.closed == 1


def test_a_sink_whose_user_has_seen_enough_asks_for_the_end(
    make_result: Callable[..., FrameResult], gate: Gate
) -> None:
    over = threading.Event()
    gate.stop_at = 1
    gate.opened.set()
    runner = SinkRunner(gate, on_end=lambda runner: over.set())
    runner.start(INFO)
    runner.put(make_result(0))
    runner.put(make_result(1))
    assert over.wait(LATE)
    assert runner.sink.wants_stop
    assert runner.error is None
    assert gate.closed == 1
    runner.close()


def test_the_first_failure_is_the_one_that_is_told(make_result: Callable[..., FrameResult]) -> None:
    class Broken(Sink):
        name = "broken"

        def write(self, result: FrameResult) -> None:
            raise SinkError("cannot write")

        def close(self) -> None:
            raise SinkError("cannot close")

    runner = SinkRunner(Broken())
    runner.start(INFO)
    runner.put(make_result())
    runner.close()
    assert str(runner.error) == "cannot write"
    unused = SinkRunner(Broken())
    unused.start(INFO)
    unused.close()
    assert str(unused.error) == "cannot close"


def test_an_ordinary_end_is_not_reported(make_result: Callable[..., FrameResult]) -> None:
    ended: list[SinkRunner] = []
    runner = SinkRunner(NullSink(), on_end=ended.append)
    runner.start(INFO)
    runner.close()
    runner.put(make_result(0))
    assert ended == []
    assert runner.dropped == 1


def test_a_sink_that_cannot_be_opened_fails_at_start() -> None:
    class Shut(NullSink):
        def open(self, info: StreamInfo) -> None:
            raise SinkError(f"no room for {info.source}")

    ended: list[SinkRunner] = []
    runner = SinkRunner(Shut(), on_end=ended.append)
    with pytest.raises(SinkError, match="no room for test"):
        runner.start(INFO)
    runner.close()
    assert ended == []


def test_a_sink_that_is_stuck_is_given_up_in_time(make_result: Callable[..., FrameResult], gate: Gate) -> None:
    runner = SinkRunner(gate)
    runner.start(INFO)
    runner.put(make_result(0))
    assert gate.entered.wait(LATE)
    runner.put(make_result(1))
    runner.close(timeout=0.05)
    assert str(runner.error) == "gate did not finish within 0.05 s"
    assert runner.dropped == 1


def test_a_sink_that_was_never_started_is_closed_without_a_word() -> None:
    runner = SinkRunner(NullSink())
    runner.close()
    assert runner.error is None


@pytest.mark.parametrize(("never_still", "got"), [(True, [1]), (False, [])])
def test_while_nobody_answers_what_never_stands_still_gets_all_frames(
    make_result: Callable[..., FrameResult], never_still: bool, got: list[int]
) -> None:
    gate = Gate(answered_only=True)
    gate.never_still = never_still
    gate.opened.set()
    runner = SinkRunner(gate)
    runner.start(INFO)
    for index, mode in enumerate(("split", "none", "local")):
        runner.put(replace(make_result(index, answered=False), mode=mode))
    runner.close()
    assert gate.got == got
