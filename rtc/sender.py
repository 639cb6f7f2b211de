"""Frames into the transport, newest first: nothing queues where it cannot be replaced.

The SCTP association keeps the messages of all channels in one first-in-first-out queue, from which nothing can be
taken back. So the units of a frame wait here, and one is handed over only when nothing of its channel waits in that
queue; a control message then never stands behind more than two units (one waiting for the congestion window, one for
its turn).
"""

from __future__ import annotations

import asyncio
import enum
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

__all__ = ["DropReason", "Dropped", "LinkLoad", "OutgoingFrame", "SenderCounters", "SliceScheduler", "UnitSender"]


TIMER = 0.001
"""Least seconds until a frame that must not begin yet is looked at again: timers are no more exact than that."""


@dataclass(frozen=True, slots=True)
class OutgoingFrame:
    """A frame ready to be sent: its units in order, and the time (monotonic seconds) after which it is worthless."""

    frame_id: int
    units: Sequence[bytes]
    deadline: float


class LinkLoad(NamedTuple):
    """What a sender knows of its link."""

    backlog: float = 0.0
    """Seconds for which what was sent before will stand in the link's queue."""
    rate: float = math.inf
    """Bytes per second that the link takes."""


class DropReason(enum.StrEnum):
    """Why the sender dropped a frame."""

    REPLACED = "replaced"
    """A newer frame came before its first unit could be sent."""
    EXPIRED = "expired"
    """Its deadline passed."""
    CLOSED = "closed"
    """The sender was closed."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that the sender dropped, and how many of its units had been sent by then."""

    frame_id: int
    reason: DropReason
    slices_sent: int


@dataclass(slots=True)
class SenderCounters:
    """What the sender did. `bytes` are those of the units, headers included."""

    frames_offered: int = 0
    frames_sent: int = 0
    slices_sent: int = 0
    bytes_sent: int = 0
    dropped: dict[DropReason, int] = field(default_factory=lambda: dict.fromkeys(DropReason, 0))


class SliceScheduler:
    """Decides which unit goes next. Sans-I/O; holds one frame going out and at most one waiting.

    A newer frame replaces the waiting one. The one going out is finished, because half a frame is worth less than what
    it has cost already; unless its deadline passes, then the rest is dropped.

    On a link that is too slow for all frames, none begins while earlier ones stand in a queue on the way: it would only
    grow older there, where it cannot be replaced. And one that had to wait so long that the next is soon due is kept
    in case none comes: the next one, sent at once, is newer when it arrives.
    """

    BACKLOG = 0.008
    """Seconds that earlier frames may still stand in the link's queue when a frame begins."""
    BUSY = 0.9
    """Share of the link's rate up to which the frames are no load that it could not take: nothing waits for a queue
    then, which delays that vary may only pretend."""
    LATEST = 0.25
    """Share of the time between two frames that a frame may have waited when it begins."""
    GRACE = 1.25
    """The same after which no newer one is expected."""

    def __init__(self) -> None:
        self.counters = SenderCounters()
        self._going: OutgoingFrame | None = None
        self._sent = 0
        self._waiting: OutgoingFrame | None = None
        self._dropped: list[Dropped] = []
        self._offered_at = -math.inf
        self._interval = 0.0

    def offer(self, frame: OutgoingFrame, now: float) -> None:
        """Take a frame of at least one unit, newer than those before."""
        self.counters.frames_offered += 1
        self.expire(now)
        self._interval, self._offered_at = now - self._offered_at, now
        if self._sent:
            replaced, self._waiting = self._waiting, frame
        else:
            # Nothing of the first one is on its way yet: it is as replaceable as a waiting one.
            replaced, self._going = self._going, frame
        if replaced is not None:
            self._drop(replaced, 0, DropReason.REPLACED)

    def pause(self, load: Callable[[], LinkLoad], now: float) -> float:
        """How long not to send: until a frame may begin, 0 if that is now or if one has begun.

        `load` is only asked when a frame is to begin.
        """
        frame = self._going
        if frame is None or self._sent:
            return 0.0
        backlog, rate = load()
        if backlog > self.BACKLOG and sum(map(len, frame.units)) > self.BUSY * self._interval * rate:
            return backlog - self.BACKLOG
        waited = now - self._offered_at
        if self.LATEST * self._interval < waited < self.GRACE * self._interval < math.inf:
            return self.GRACE * self._interval - waited
        return 0.0

    def next_unit(self, now: float) -> bytes | None:
        """The unit to be sent now, which then counts as sent; None when there is nothing to send."""
        self.expire(now)
        frame = self._going
        if frame is None:
            return None
        unit = frame.units[self._sent]
        self._sent += 1
        self.counters.slices_sent += 1
        self.counters.bytes_sent += len(unit)
        if self._sent == len(frame.units):
            self.counters.frames_sent += 1
            self._advance()
        return unit

    def close(self) -> None:
        """Drop everything."""
        while self._going is not None:
            self._drop(self._going, self._sent, DropReason.CLOSED)
            self._advance()

    def take_dropped(self) -> list[Dropped]:
        """The frames dropped since the last call, the oldest first."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def expire(self, now: float) -> None:
        """Drop what is past its deadline."""
        while self._going is not None and now >= self._going.deadline:
            self._drop(self._going, self._sent, DropReason.EXPIRED)
            self._advance()

    def _advance(self) -> None:
        self._going, self._waiting = self._waiting, None
        self._sent = 0

    def _drop(self, frame: OutgoingFrame, slices_sent: int, reason: DropReason) -> None:
        self._dropped.append(Dropped(frame.frame_id, reason, slices_sent))
        self.counters.dropped[reason] += 1


class _Channel(Protocol):
    """What `UnitSender` needs of a data channel; `aiortc.RTCDataChannel` has it."""

    @property
    def bufferedAmount(self) -> int: ...  # noqa: N802
    @property
    def readyState(self) -> str: ...  # noqa: N802
    def send(self, data: bytes) -> None: ...
    def on(self, event: str, f: Callable[[], None], /) -> Any: ...


class UnitSender:
    """Moves units from a `SliceScheduler` into a data channel, in the thread of the event loop.

    `on_dropped` is called for each frame that was dropped, `on_sent` with the time when units were handed over;
    `load` tells what is known of the link. Expiry is noticed when
    something happens (a frame is offered, the channel drains, `expire` is called, the sender is closed): a stalled
    channel costs one frame's memory and no timer.
    """

    def __init__(
        self,
        channel: _Channel,
        clock: Callable[[], float] = time.monotonic,
        on_dropped: Callable[[Dropped], None] | None = None,
        on_sent: Callable[[float], None] | None = None,
        load: Callable[[], LinkLoad] = LinkLoad,
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._on_dropped = on_dropped
        self._on_sent = on_sent
        self._load = load
        self._timer: asyncio.TimerHandle | None = None
        self._scheduler = SliceScheduler()
        self._closed = False
        channel.on("open", self._pump)
        channel.on("bufferedamountlow", self._pump)

    @property
    def counters(self) -> SenderCounters:
        """Counted since the start."""
        return self._scheduler.counters

    def offer(self, frame: OutgoingFrame) -> None:
        """Send a frame as soon as the channel takes it. Before the channel is open it waits."""
        self._scheduler.offer(frame, self._clock())
        if self._closed:
            self._scheduler.close()
        self._pump()

    def expire(self) -> None:
        """Drop, and report, what is past its deadline."""
        self._scheduler.expire(self._clock())
        self._report()

    def close(self) -> None:
        """Drop what was not sent, and whatever is offered from now on. May be called again."""
        self._closed = True
        self._cancel_timer()
        self._scheduler.close()
        self._report()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pump(self) -> None:
        channel = self._channel
        self._cancel_timer()
        if channel.readyState == "open" and not channel.bufferedAmount:
            now = self._clock()
            if (pause := self._scheduler.pause(self._load, now)) > 0:
                self._timer = asyncio.get_running_loop().call_later(max(pause, TIMER), self._pump)
            elif (unit := self._scheduler.next_unit(now)) is not None:
                # One unit at a time costs no time: the event that brings us here comes from within the transport's
                # flush loop, which goes on with what it finds. So a whole frame leaves in one turn of the event loop,
                # as far as the congestion window has room. Larger bursts (measured: up to 4 units) are no faster, and
                # only make control messages wait.
                channel.send(unit)
                if self._on_sent is not None:
                    self._on_sent(now)
        self._report()

    def _report(self) -> None:
        for dropped in self._scheduler.take_dropped():
            if self._on_dropped is not None:
                self._on_dropped(dropped)
