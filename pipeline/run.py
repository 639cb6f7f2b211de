"""One run of a session: a source's frames in, their results out, until the source ends or the run is closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pipeline.capture import Capture
from pipeline.lanes import Lane, Lanes
from pipeline.outcome import FrameResult, Status
from pipeline.sinks.base import SinkRunner, StreamInfo
from pipeline.summary import Summary
from splitrtc_errors import ModelError, SplitRtcError

if TYPE_CHECKING:
    from pipeline.frames import Frame
    from pipeline.sinks import Sink
    from pipeline.sources import Source

__all__ = ["ITERATOR_BACKLOG", "Lane", "Lanes", "Run"]

logger = logging.getLogger(__name__)

ITERATOR_BACKLOG = 64
"""Results that wait for a slow ``async for``, at most; the oldest gives way and is counted in `Run.unread`."""


class _Ready(NamedTuple):
    """A coded frame, and the lane that it was coded for: on another one its number would mean nothing."""

    lane: Lane
    coded: Any


class Run:
    """An asynchronous iterator over the results of one source's frames; built by `UeSession.run`.

    It yields answered frames; with ``every`` also those that were dropped or lost, so that each frame that the source
    produced comes exactly once. It ends with the source, raises SourceError when the source fails and ConnectionLost
    when the session does (with ``reconnect``, what ended the attempts to bring it back). Leaving ``async with run:``,
    `aclose` and the end of the session stop it early; nothing stays behind. ``summary`` and the sinks see every frame,
    iterated or not.
    """

    def __init__(
        self, lanes: Lanes, source: Source, sinks: Sequence[Sink] = (), *, repeat: bool = False, every: bool = False
    ) -> None:
        self.summary = Summary()
        self.unread = 0
        self._lanes = lanes
        self._sinks = [SinkRunner(sink, on_end=self._on_sink_end) for sink in sinks]
        self._every = every
        self._iterated = True
        self._loop = asyncio.get_running_loop()
        self._capture = Capture(source, loop=repeat, on_replaced=self._on_replaced, reopen=lanes.reconnect)
        self._results: deque[FrameResult] = deque()
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self._told = False
        # Two tasks: the first one may be cancelled, any number of times; the second one tidies up after it, whole.
        self._stream = asyncio.create_task(self._work(), name="run")
        self._task = asyncio.create_task(self._tidy_up(), name="end of a run")
        self._task.add_done_callback(lambda _: self._changed.set())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FrameResult:
        while not self._results:
            if self._task.done():
                self._raise()
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._results.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def wait(self) -> Summary:
        """Go on to the source's end without iterating; returns the summary. Raises what iterating would.

        From here on no results are kept for an iteration: each holds its picture.
        """
        self._iterated = False
        self._results.clear()
        await asyncio.wait([self._task])
        self._raise()
        return self.summary

    def to_json(self) -> dict[str, Any]:
        """The summary, how the session and the source held, and how the sinks kept up, as plain values."""
        sinks = {
            sink.sink.name: {
                "written": sink.written,
                "dropped": sink.dropped,
                "error": None if sink.error is None else str(sink.error),
            }
            for sink in self._sinks
        }
        return {
            "source": self._capture.source.name,
            "source_reopened": self._capture.reopened,
            **self._lanes.outages.to_json(time.monotonic()),
            **self._lanes.to_json(time.monotonic()),
            **self.summary.to_json(),
            "sinks": sinks,
        }

    @property
    def over(self) -> bool:
        """Everything has ended and nothing is left behind."""
        return self._task.done()

    def interrupt(self, error: Exception) -> None:
        """End at once, and raise this to whoever iterates or waits."""
        self._error = self._error or error
        self._stream.cancel()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
        if not self._stream.cancelled():
            self._stream.result()

    async def stop(self) -> None:
        """End as if the source had ended: what is in flight is still waited for. Iterating then comes to its end."""
        if self._task.done():
            return
        await self._loop.run_in_executor(self._lanes.chores, self._capture.stop)

    async def aclose(self) -> None:
        """Stop capturing, give up what is in flight, finish the sinks. May be called again."""
        self._stream.cancel()
        await asyncio.wait([self._task])

    def finish(self, result: FrameResult) -> None:
        """Take note of how a frame ended: for the books, the sinks and whoever iterates."""
        result = self._lanes.stamp(result)
        self.summary.add(result)
        for sink in self._sinks:
            sink.put(result)
        if self._iterated and (result.answered or self._every):
            if len(self._results) == ITERATOR_BACKLOG:
                self._results.popleft()
                self.unread += 1
            self._results.append(result)
            self._changed.set()

    async def _work(self) -> None:
        run = self._loop.run_in_executor
        try:
            await run(self._lanes.chores, self._start)
            await run(self._lanes.worker, self._produce)
        except SplitRtcError as error:
            self._error = self._error or error
        # Also when the source has failed: what it gave before is under way and will be answered.
        await self._lanes.settle()

    async def _tidy_up(self) -> None:
        await asyncio.wait([self._stream])
        run = self._loop.run_in_executor
        # The capture first: that frees a worker which waits for the next frame.
        await run(self._lanes.chores, self._capture.stop)
        await self._capture.source.settle()
        self._lanes.forget()
        await run(self._lanes.chores, self._close_sinks)

    def _start(self) -> None:
        source = self._capture.source
        for sink in self._sinks:
            sink.start(StreamInfo(source.name, source.fps))
        self._capture.start()

    def _produce(self) -> None:
        """In the worker: do the device's share of the newest frame, again and again, until there are no more.

        It goes on with the next frame while the loop sends this one, but never more than one ahead.
        """
        taken = threading.Semaphore()
        while (frame := self._capture.get()) is not None:
            lane = self._lanes.take()
            ready = _dropped(frame, "skipped", "link") if lane is None else self._ready(frame, lane)
            taken.acquire()
            self._loop.call_soon_threadsafe(self._take, frame, ready, taken)
            # After that, so that the frame's own result does not wait for it.
            if (trial := self._lanes.on_trial) is not None and trial is not lane:
                self._probe(frame, trial)

    def _ready(self, frame: Frame, lane: Lane) -> _Ready | FrameResult:
        """In the worker: the frame ready to be sent on this lane, or its end."""
        if time.monotonic() - frame.captured > self._lanes.budget:
            return _dropped(frame, "skipped", "device")
        if not lane.admits(frame):
            return _dropped(frame, "skipped", "rate")
        try:
            return _Ready(lane, lane.process(frame))
        except ModelError as error:
            log = logger.debug if self._told else logger.warning
            self._told = True
            log("frame %d cannot be coded: %s", frame.index, error)
            return _dropped(frame, "error", "encode")

    def _probe(self, frame: Frame, trial: Lane) -> None:
        """In the worker: see whether this lane, too, gives results."""
        with contextlib.suppress(ModelError):
            coded = trial.process(frame)
            self._loop.call_soon_threadsafe(self._take_probe, frame, trial, coded)

    def _take_probe(self, frame: Frame, trial: Lane, coded: Any) -> None:
        if not self._stream.done():
            self._lanes.probe(trial, frame, coded)

    def _take(self, frame: Frame, ready: _Ready | FrameResult, taken: threading.Semaphore) -> None:
        """In the loop: send what the worker has done."""
        taken.release()
        if isinstance(ready, FrameResult):
            self.finish(ready)
        elif not self._stream.done():
            try:
                self._lanes.submit(ready.lane, frame, ready.coded, self.finish)
            except Exception as error:  # not foreseen: nothing would be told of this frame, so the run ends with it
                self.interrupt(error)
        self._lanes.handed_over()

    def _on_replaced(self, frame: Frame) -> None:
        """In the capture thread: a newer frame took this one's place before the device came to it."""
        self._loop.call_soon_threadsafe(self.finish, _dropped(frame, "skipped", "slot"))

    def _on_sink_end(self, runner: SinkRunner) -> None:
        """In the sink's thread: it failed, which ends it alone, or its user wants the end."""
        if runner.error is not None:
            logger.warning("%s, the stream goes on without it", runner.error)
        else:
            asyncio.run_coroutine_threadsafe(self.stop(), self._loop)

    def _close_sinks(self) -> None:
        for sink in self._sinks:
            sink.close()


def _dropped(frame: Frame, status: Status, where: str) -> FrameResult:
    return FrameResult(frame=frame, status=status, dropped_at=where, completed=time.monotonic())
