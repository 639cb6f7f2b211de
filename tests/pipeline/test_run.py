from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from models import Detections, EncodedFrame
from pipeline import run as run_module
from pipeline.device import CodedFrame
from pipeline.frames import Frame
from pipeline.outcome import FrameResult
from pipeline.run import Lanes, Run
from pipeline.sinks import Sink, StreamInfo
from pipeline.sources import open_source
from pipeline.uplink import Finish
from splitrtc_errors import ConnectionLost, SinkError, SourceError, TensorError

WAIT = 20.0
GREY = np.zeros((4, 4, 3), np.uint8)
NOTHING_FOUND = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))


class QuickLane:
    """A lane without an edge: every frame is answered as soon as it is submitted, unless ``hold`` is set."""

    mode = "split"

    def __init__(self) -> None:
        self.lanes = Lanes(ThreadPoolExecutor(1, "head"), ThreadPoolExecutor(1, "chores"), 10.0)
        self.lanes.add(self, "a test")
        self.hold = False
        self.held: list[tuple[Frame, Finish]] = []
        self.forgotten = 0
        self.error: Exception | None = None
        self.run: Run
        self.released = threading.Event()
        self.released.set()
        self.busy = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._settled = asyncio.Event()

    def start(self, source: Any, *sinks: Sink, **options: Any) -> Run:
        self.run = Run(self.lanes, open_source(source), sinks, **options)
        return self.run

    def describe(self) -> dict[str, Any]:
        return {"model": "m", "partition": "p", "profile": "q8", "provider": "cpu"}

    def admits(self, frame: Frame) -> bool:
        return True

    def process(self, frame: Frame) -> CodedFrame:
        self._loop.call_soon_threadsafe(self.busy.set)
        assert self.released.wait(WAIT)
        if frame.image.shape[0] == 1:
            raise TensorError("too flat")
        return CodedFrame(frame.index + 1, EncodedFrame([b""], True, None), 0.0, 0.0, 0.0, 0.0)

    def submit(self, frame: Frame, coded: CodedFrame, finish: Finish) -> None:
        if self.error is not None:
            raise self.error
        self.held.append((frame, finish))
        if not self.hold:
            self.answer_held()

    def answer_held(self) -> None:
        while self.held:
            frame, finish = self.held.pop(0)
            finish(FrameResult(frame=frame, status="ok", detections=NOTHING_FOUND))
        self._settled.set()

    async def settle(self) -> None:
        if self.held:
            self._settled.clear()
            await self._settled.wait()

    def forget(self) -> None:
        self.forgotten += 1

    def close(self) -> None:
        self.lanes.stop()
        self.lanes.worker.shutdown()
        self.lanes.chores.shutdown()


@pytest.fixture
async def lane() -> AsyncIterator[QuickLane]:
    lane = QuickLane()
    yield lane
    lane.released.set()
    await lane.run.aclose()
    assert lane.forgotten == 1
    lane.close()


class Recorder(Sink):
    """A sink that keeps what it gets, and can be made to wait or to fail."""

    name = "recorder"

    def __init__(self) -> None:
        self.results: list[FrameResult] = []
        self.may_write = threading.Event()
        self.may_write.set()
        self.may_close = threading.Event()
        self.may_close.set()
        self.closing = threading.Event()
        self.closed = 0
        self.fails_at: int | None = None
        self.stops_at: int | None = None

    def write(self, result: FrameResult) -> None:
        assert self.may_write.wait(WAIT)
        if len(self.results) == self.fails_at:
            raise OSError("disk full")
        self.results.append(result)
        self.wants_stop = len(self.results) == self.stops_at

    def close(self) -> None:
        self.closing.set()
        assert self.may_close.wait(WAIT)
        self.closed += 1


async def take(run: Run, count: int) -> list[FrameResult]:
    async with asyncio.timeout(WAIT):
        return [await anext(run) for _ in range(count)]


async def rest(run: Run) -> list[FrameResult]:
    async with asyncio.timeout(WAIT):
        return [result async for result in run]


async def test_the_run_ends_with_its_source(lane: QuickLane, make_feed: Any) -> None:
    feed, sink = make_feed(), Recorder()
    run = lane.start(feed, sink)
    for index in range(3):
        feed.give(GREY)
        assert [result.frame.index for result in await take(run, 1)] == [index]
    feed.give(None)
    assert await rest(run) == []
    assert (await run.wait()).outcomes == {"ok": 3}
    assert [result.frame.index for result in sink.results] == [0, 1, 2]
    assert sink.closed == 1
    assert run.to_json()["sinks"] == {"recorder": {"written": 3, "dropped": 0, "error": None}}


async def test_frames_that_gave_way_to_newer_ones_are_told_of_when_asked_for(lane: QuickLane, make_feed: Any) -> None:
    feed = make_feed()
    run = lane.start(feed, every=True)
    lane.released.clear()
    feed.give(GREY)
    async with asyncio.timeout(WAIT):
        await lane.busy.wait()  # the device has the first one, and takes its time
    feed.give(*[GREY] * 4, None)
    skipped = await take(run, 3)
    assert [(result.frame.index, result.status, result.dropped_at) for result in skipped] == [
        (index, "skipped", "slot") for index in (1, 2, 3)
    ]
    lane.released.set()
    assert [(result.frame.index, result.status) for result in await rest(run)] == [(0, "ok"), (4, "ok")]
    assert run.summary.produced == 5


async def test_a_frame_that_is_too_old_when_the_device_comes_to_it_is_dropped(lane: QuickLane, make_feed: Any) -> None:
    feed = make_feed()
    lane.lanes.budget = 0.0
    run = lane.start(feed, every=True)
    feed.give(GREY)
    (result,) = await take(run, 1)
    assert (result.status, result.dropped_at) == ("skipped", "device")


async def test_a_frame_that_cannot_be_coded_costs_only_itself(lane: QuickLane, make_feed: Any) -> None:
    feed = make_feed()
    run = lane.start(feed, every=True)
    feed.give(GREY[:1])
    (result,) = await take(run, 1)
    assert (result.status, result.dropped_at) == ("error", "encode")
    feed.give(GREY)
    assert [result.status for result in await take(run, 1)] == ["ok"]


async def test_a_source_that_fails_is_raised_after_what_it_gave(lane: QuickLane, make_feed: Any, until: Any) -> None:
    feed = make_feed()
    lane.hold = True
    run = lane.start(feed)
    feed.give(GREY, OSError("unplugged"))
    following = asyncio.create_task(take(run, 1))
    await until(lambda: bool(lane.held) and run._capture.finished)
    assert not following.done()
    lane.answer_held()
    assert [result.frame.index for result in await following] == [0]
    for _ in range(2):
        with pytest.raises(SourceError, match="unplugged"):
            await take(run, 1)
    with pytest.raises(SourceError, match="unplugged"):
        await run.wait()


async def test_a_source_that_cannot_be_opened_is_raised(lane: QuickLane, tmp_path: Any) -> None:
    (tmp_path / "not.mp4").write_text("no film")
    run = lane.start(tmp_path / "not.mp4")
    with pytest.raises(SourceError, match="not.mp4"):
        await rest(run)


async def test_a_sink_that_cannot_be_opened_is_raised_and_the_others_are_closed(
    lane: QuickLane, make_feed: Any
) -> None:
    class Broken(Recorder):
        def open(self, info: StreamInfo) -> None:
            raise SinkError("no display")

    good = Recorder()
    run = lane.start(make_feed(), good, Broken())
    with pytest.raises(SinkError, match="no display"):
        await run.wait()
    assert good.closed == 1


async def test_a_sink_that_fails_ends_alone(lane: QuickLane, make_feed: Any) -> None:
    feed, good, bad = make_feed(), Recorder(), Recorder()
    bad.name, bad.fails_at = "bad", 1
    run = lane.start(feed, bad, good)
    for _ in range(4):
        feed.give(GREY)
        await take(run, 1)
    feed.give(None)
    await run.wait()
    assert len(good.results) == 4
    assert len(bad.results) == 1
    assert "disk full" in run.to_json()["sinks"]["bad"]["error"]
    assert bad.closed == 1


async def test_a_slow_sink_slows_nothing(lane: QuickLane, make_feed: Any) -> None:
    feed, slow = make_feed(), Recorder()
    slow.name = "slow"
    slow.may_write.clear()
    run = lane.start(feed, slow)
    for _ in range(40):
        feed.give(GREY)
        await take(run, 1)
    slow.may_write.set()
    feed.give(None)
    await run.wait()
    sinks = run.to_json()["sinks"]
    assert sinks["slow"]["dropped"] > 0
    assert sinks["slow"]["written"] + sinks["slow"]["dropped"] == 40


async def test_a_sink_whose_user_wants_the_end_gets_it(lane: QuickLane, make_feed: Any) -> None:
    feed, window = make_feed(), Recorder()
    window.stops_at = 1
    run = lane.start(feed, window)
    feed.give(GREY)
    assert len(await rest(run)) == 1  # without the source's end
    await run.wait()


async def test_stopping_waits_for_what_is_in_flight(lane: QuickLane, make_feed: Any, until: Any) -> None:
    feed = make_feed()
    lane.hold = True
    run = lane.start(feed)
    feed.give(GREY)
    await until(lambda: bool(lane.held))
    await run.stop()
    lane.answer_held()
    assert len(await rest(run)) == 1
    await run.stop()  # once more, after the end


async def test_an_interruption_comes_after_the_results_that_are_there(
    lane: QuickLane, make_feed: Any, until: Any
) -> None:
    feed = make_feed()
    run = lane.start(feed, every=True)
    feed.give(GREY[:1])
    await until(lambda: bool(run._results))
    run.interrupt(ConnectionLost("gone"))
    run.interrupt(ConnectionLost("and gone again"))
    assert len(await take(run, 1)) == 1
    with pytest.raises(ConnectionLost, match="^gone$"):
        await take(run, 1)


async def test_a_run_that_is_interrupted_before_it_began_still_ends(lane: QuickLane, make_feed: Any) -> None:
    run = lane.start(make_feed())
    run.interrupt(ConnectionLost("gone"))
    with pytest.raises(ConnectionLost):
        await take(run, 1)


async def test_nothing_cuts_short_the_end_of_a_run(lane: QuickLane, make_feed: Any) -> None:
    feed, film = make_feed(), Recorder()
    film.may_close.clear()
    run = lane.start(feed, film)
    feed.give(GREY, None)
    following = asyncio.create_task(rest(run))
    await asyncio.to_thread(film.closing.wait, WAIT)  # it is over, and the film's index is being written
    closing = asyncio.create_task(run.aclose())
    run.interrupt(ConnectionLost("gone"))
    await asyncio.sleep(0)
    closing.cancel()  # an impatient caller
    await asyncio.gather(closing, return_exceptions=True)
    assert not following.done()
    film.may_close.set()
    await asyncio.gather(following, return_exceptions=True)
    await run.aclose()
    assert film.closed == 1
    assert lane.forgotten == 1


async def test_leaving_the_run_stops_it(lane: QuickLane, make_feed: Any) -> None:
    feed, sink = make_feed(), Recorder()
    async with lane.start(feed, sink) as run:
        feed.give(GREY)
        async for result in run:
            assert result.answered
            break
    assert sink.closed == 1
    assert await rest(run) == []
    await run.aclose()


async def test_for_a_slow_reader_the_oldest_results_give_way(
    lane: QuickLane, make_feed: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "ITERATOR_BACKLOG", 2)
    feed, sink = make_feed(), Recorder()
    run = lane.start(feed, sink)
    for produced in range(1, 6):
        feed.give(GREY)
        await until(lambda count=produced: run.summary.produced == count)
    feed.give(None)
    assert [result.frame.index for result in await rest(run)] == [3, 4]
    assert run.unread == 3
    assert len(sink.results) == 5


async def test_who_only_waits_holds_no_results(lane: QuickLane, make_feed: Any, until: Any) -> None:
    feed = make_feed()
    run = lane.start(feed)
    feed.give(GREY)
    await until(lambda: run.summary.produced == 1)
    waiting = asyncio.create_task(run.wait())
    feed.give(GREY, None)
    await waiting
    assert await rest(run) == []
    assert run.unread == 0


async def test_what_is_wrong_with_the_program_itself_is_not_hidden(
    lane: QuickLane, make_feed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    feed = make_feed()
    monkeypatch.setattr(lane, "submit", broken)
    run = lane.start(feed)
    feed.give(GREY)
    with pytest.raises(ZeroDivisionError):
        await rest(run)


async def test_what_nobody_foresaw_ends_the_run_and_is_told(lane: QuickLane, make_feed: Any) -> None:
    lane.error = RuntimeError("a bug")
    feed = make_feed()
    run = lane.start(feed)
    feed.give(GREY)
    with pytest.raises(RuntimeError, match="a bug"):
        async with asyncio.timeout(WAIT):
            await run.wait()
    assert run.over


# Lanes that come and go.


class ShortLane:
    """A lane that can end. It answers some frames at once, and some only when it is told to."""

    mode = "split"

    def __init__(self, rng: random.Random) -> None:
        self.over = False
        self.answered = 0
        self._rng = rng
        self._mine: list[CodedFrame] = []
        self._open: list[tuple[Frame, Finish]] = []
        self._settled = asyncio.Event()
        self._settled.set()

    def describe(self) -> dict[str, Any]:
        return {"model": "m", "partition": "p", "profile": "q8", "provider": "cpu"}

    def admits(self, frame: Frame) -> bool:
        return True

    def process(self, frame: Frame) -> CodedFrame:
        coded = CodedFrame(frame.index + 1, EncodedFrame([b""], True, None), 0.0, 0.0, 0.0, 0.0)
        self._mine.append(coded)
        return coded

    def submit(self, frame: Frame, coded: CodedFrame, finish: Finish) -> None:
        assert any(coded is mine for mine in self._mine), "a frame that was coded for another lane"
        if self.over:
            finish(FrameResult(frame=frame, status="skipped", dropped_at="link"))
            return
        self._settled.clear()
        self._open.append((frame, finish))
        if self._rng.random() < 0.5:
            self.answer()

    def answer(self) -> None:
        self._close("ok", None)

    def end(self) -> None:
        self.over = True
        self._close("lost", "network")

    def _close(self, status: Any, where: str | None) -> None:
        for frame, finish in self._open:
            self.answered += status == "ok"
            found = NOTHING_FOUND if status == "ok" else None
            finish(FrameResult(frame=frame, status=status, dropped_at=where, detections=found))
        self._open.clear()
        self._settled.set()

    async def settle(self) -> None:
        await self._settled.wait()

    def forget(self) -> None:
        self._open.clear()


@pytest.mark.parametrize("seed", range(20))
async def test_whenever_lanes_come_and_go_each_frame_ends_once(lane: QuickLane, make_feed: Any, seed: int) -> None:
    rng = random.Random(seed)
    feed, frames, lanes = make_feed(), 0, [ShortLane(rng)]
    lane.lanes.remove(lane, "a test")
    lane.lanes.add(lanes[0], "a test")
    lane.run = run = Run(lane.lanes, open_source(feed), every=True)
    for _ in range(150):
        match rng.choice(("frame", "frame", "frame", "turns", "turns", "answers", "loss", "loss noticed", "return")):
            case "frame":
                feed.give(GREY)
                frames += 1
            case "turns":
                await asyncio.sleep(rng.choice((0, 0, 0.001)))  # any moment will do
            case "answers":
                lanes[-1].answer()
            case "loss":  # of which the run does not know yet
                lanes[-1].end()
            case "loss noticed":
                lanes[-1].end()
                lane.lanes.remove(lanes[-1], "loss")
            case "return" if lanes[-1].over:
                lane.lanes.remove(lanes[-1], "loss")
                lanes.append(ShortLane(rng))
                lane.lanes.add(lanes[-1], "return")
    feed.give(None)
    ended: list[FrameResult] = []
    async with asyncio.timeout(WAIT):
        while not run.over:
            lanes[-1].answer()
            await asyncio.sleep(0.001)  # as an edge would, some time
        ended += [result async for result in run]
    assert sorted([result.frame.index for result in ended]) == list(range(frames))
    assert run.unread == 0
    assert run.summary.produced == frames
    assert run.summary.outcomes["ok"] == sum(one.answered for one in lanes)
    lane.forgotten += 1


async def test_without_a_lane_frames_are_skipped_and_the_head_rests(lane: QuickLane, make_feed: Any) -> None:
    feed = make_feed()
    run = lane.start(feed, every=True)
    lane.lanes.remove(lane, "gone")
    feed.give(GREY)
    (result,) = await take(run, 1)
    assert (result.status, result.dropped_at, result.mode) == ("skipped", "link", "none")
    assert result.change is not None
    assert result.change.reason == "gone"
    assert not lane.busy.is_set()
    lane.lanes.add(lane, "back")
    feed.give(GREY, None)
    assert [result.status for result in await rest(run)] == ["ok"]


async def test_the_summary_tells_of_the_session_and_the_source(lane: QuickLane, make_feed: Any) -> None:
    feed = make_feed()
    run = lane.start(feed)
    lane.lanes.outages.begin("nothing heard", time.monotonic())
    told = run.to_json()
    assert (told["reconnects"], told["disconnected"], told["source_reopened"]) == (0, "nothing heard", 0)
    feed.give(GREY, None)
    await rest(run)


async def test_an_iterator_that_takes_its_time_to_close_is_waited_for(lane: QuickLane) -> None:
    closed = False

    async def pictures() -> AsyncIterator[np.ndarray]:
        nonlocal closed
        try:
            while True:
                yield GREY
                await asyncio.sleep(0)
        finally:
            for _ in range(50):
                await asyncio.sleep(0.001)
            closed = True

    run = lane.start(pictures())
    async with asyncio.timeout(WAIT):
        await anext(run)
        await run.aclose()
    assert closed
