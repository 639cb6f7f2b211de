"""The ways that frames can go in a session, and which one they go now: `pipeline.modes` with clock, timer and log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.alarm import Alarm
from pipeline.events import NO_LANE, ModeChanged
from pipeline.modes import Modes
from pipeline.reconnect import Outages

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from pipeline.frames import Frame
    from pipeline.outcome import FrameResult
    from pipeline.uplink import Finish

__all__ = ["MAX_CHANGES", "Lane", "Lanes"]

logger = logging.getLogger(__name__)

MAX_CHANGES = 64
"""Changes of the mode that are kept for the summary, at most: the newest."""


class Lane(Protocol):
    """One way from frames to results: to an edge, or the device's own."""

    @property
    def mode(self) -> str:
        """``local``, ``split`` or ``remote``."""

    def describe(self) -> dict[str, Any]:
        """The operating point: model, partition, profile, variant, provider; None for what it has not."""

    def admits(self, frame: Frame) -> bool:
        """Whether the frame rate agreed on has room for a frame. Called in the worker, for one after the other."""

    def process(self, frame: Frame) -> Any:
        """The device's share of a frame, in a form that only this lane's `submit` needs to know.

        Called in the worker. Raises ModelError for a frame that cannot be coded.
        """

    def submit(self, frame: Frame, coded: Any, finish: Finish) -> None:
        """Send what this lane's `process` made. How it ends is told to ``finish``, once; also when the lane is over."""

    async def settle(self) -> None:
        """Return when every submitted frame has ended."""

    def forget(self) -> None:
        """Nobody is interested in what is still in flight."""


class Lanes:
    """What a run needs of its session: threads to compute in, and the lane that takes the next frame.

    Lanes come and go with the connections to edges; the run goes on over all of them. To be used in the thread of the
    event loop, but for `current` and `on_trial`.
    """

    def __init__(
        self,
        worker: Executor,
        chores: Executor,
        budget: float,
        *,
        reconnect: bool = False,
        outages: Outages | None = None,
        on_change: Callable[[ModeChanged], object] = lambda _: None,
    ) -> None:
        """Start without a lane.

        Args:
            worker: one thread, for the device's share of frames.
            chores: one thread, for what blocks and is not worth a frame's time.
            budget: seconds after capture at which a frame is worthless.
            reconnect: a live source that fails shall come back, too.
            outages: of the session.
            on_change: is told when frames begin to be answered another way.
        """
        self.worker = worker
        self.chores = chores
        self.budget = budget
        self.reconnect = reconnect
        self.outages = outages or Outages()
        self.changes: deque[ModeChanged] = deque(maxlen=MAX_CHANGES)
        self.switches = 0
        """How often the mode or the lane changed, after the first one."""
        self._on_change = on_change
        self._modes: Modes[Lane] = Modes()
        self._open: list[Lane] = []
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._alarm: Alarm | None = None
        self._changed = asyncio.Event()
        self._taken = 0  # counted in the worker
        self._handed_over = 0

    @property
    def current(self) -> Lane | None:
        """The lane that takes the next frame; None while there is none. Readable in any thread."""
        return self._modes.serving

    @property
    def on_trial(self) -> Lane | None:
        """The lane that is to be given the next frame as well, if there is one. Readable in any thread."""
        return self._modes.trial if self._modes.probe_wanted else None

    @property
    def mode(self) -> str:
        """How frames are answered now; ``none`` when they are not."""
        return self.changes[-1].mode if self.changes else NO_LANE

    def take(self) -> Lane | None:
        """The lane for the frame at hand, in the worker; `handed_over` is called when that frame has been submitted."""
        self._taken += 1
        return self._modes.serving

    def handed_over(self) -> None:
        """The frame that was taken first has been submitted, or has ended otherwise."""
        self._handed_over += 1
        self._changed.set()

    async def up_to_date(self) -> None:
        """Return when no frame is still on its way from the worker to a lane that served before this was called."""
        taken = self._taken
        while self._handed_over < taken:
            self._changed.clear()
            await self._changed.wait()

    # Lanes that come and go.

    def add(self, lane: Lane, reason: str) -> None:
        """A lane to an edge is open: it serves at once where nothing else does, else when it has proved to work."""
        if lane not in self._open:
            self._open.append(lane)
        self._modes.opened(lane, reason, time.monotonic())
        self._update()

    def add_own(self, lane: Lane, reason: str) -> None:
        """The device's own lane is ready. It serves where, and as soon as, no edge gives results."""
        self._open.append(lane)
        self._modes.own_ready(lane, reason, time.monotonic())
        self._update()

    def promote(self, lane: Lane) -> None:
        """Let a lane serve that was added, though it has not proved to work."""
        self._modes.promote(lane, time.monotonic())
        self._update()

    def remove(self, lane: Lane, reason: str) -> None:
        """A lane is over."""
        if lane in self._open:
            self._open.remove(lane)
        self._modes.closed(lane, reason, time.monotonic())
        self._update()

    def absent(self, reason: str) -> None:
        """There is no lane yet, for this reason."""
        self._modes.absent(reason, time.monotonic())
        self._update()

    async def taken_over(self, lane: Lane) -> None:
        """Return when a lane serves."""
        while self._modes.serving is not lane:
            self._changed.clear()
            await self._changed.wait()

    def stop(self) -> None:
        """Nothing is to be done any more."""
        if self._alarm is not None:
            self._alarm.set(None)

    # Frames.

    def submit(self, lane: Lane, frame: Frame, coded: Any, finish: Finish) -> None:
        """Give a lane what its `process` made of a frame."""
        self._modes.submitted(lane, frame.index, time.monotonic())
        lane.submit(frame, coded, partial(self._ended, lane, finish))
        self._update()

    def probe(self, lane: Lane, frame: Frame, coded: Any) -> None:
        """Give a lane on trial a frame that another one answers."""
        self._modes.probed(time.monotonic())
        self.submit(lane, frame, coded, lambda _: None)

    def _ended(self, lane: Lane, finish: Finish, result: FrameResult) -> None:
        if result.answered:
            self._modes.answered(lane, result.frame.index, time.monotonic())
            self._update()
        finish(result)

    def stamp(self, result: FrameResult) -> FrameResult:
        """The result, with the mode by which it was answered, or else the one it was not answered in."""
        if not self.changes:
            return result
        change = self.changes[-1]
        return replace(result, mode=result.mode if result.answered else change.mode, change=change)

    async def settle(self) -> None:
        """Return when every frame that was submitted to any lane has ended."""
        for lane in tuple(self._open):
            await lane.settle()

    def forget(self) -> None:
        """Nobody is interested in what is still in flight."""
        self._modes.forget()
        for lane in self._open:
            lane.forget()
        self._update()

    # What is told.

    def to_json(self, now: float) -> dict[str, Any]:
        """How often the mode changed, the seconds in each, and the last changes."""
        seconds = self._seconds.copy()
        changes = list(self.changes)
        if changes:
            seconds[changes[-1].mode] += now - changes[-1].time
        return {
            "mode_switches": self.switches,
            "mode_seconds": {mode: round(value, 3) for mode, value in sorted(seconds.items())},
            "mode_changes": [change.to_json() for change in changes],
        }

    def _update(self) -> None:
        """After anything that has happened: tell of changes, and set the alarm to when something is to be done next."""
        if self._alarm is None:
            self._alarm = Alarm(self._tick)
        self._alarm.set(self._modes.next_event())
        changes, self._modes.changes = self._modes.changes, []
        for change in changes:
            lane = change.lane
            mode, point = (NO_LANE, None) if lane is None else (lane.mode, lane.describe())
            self._tell(ModeChanged(mode, point, change.reason, change.time))

    def _tell(self, change: ModeChanged) -> None:
        if self.changes:
            before = self.changes[-1]
            self._seconds[before.mode] += change.time - before.time
            self.switches += not before.mode == change.mode == NO_LANE
        self.changes.append(change)
        self._changed.set()
        # That there is no connection is told, with the reason, by whoever sees to that.
        if change.mode != NO_LANE or self.current is not None:
            is_makeshift = change.mode in ("local", NO_LANE) and len(self.changes) > 1
            logger.log(logging.WARNING if is_makeshift else logging.INFO, "%s", change.text)
        self._on_change(change)

    def _tick(self) -> None:
        self._modes.tick(time.monotonic())
        self._update()
