"""Units back into frames: sans-I/O, bounded in memory, every frame handed out at most once.

A frame is handed out ("dispatched")

* complete, as soon as its last missing slice has arrived;
* incomplete, when a newer frame is complete, because nobody waits for an older picture then;
* incomplete, when no more of it is to be expected (`rtc.patience`);
* incomplete, when its time after the first slice is over;
* incomplete, when it is the oldest and too many frames are open.

So every frame of which a slice arrived is dispatched, and can be answered, exactly once, whatever the network
loses, repeats or reorders (docs/protocol.md sections 3.1 and 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .patience import Patience
from .results import HISTORY_FRAMES
from .units import Unit

__all__ = ["MAX_FRAMES", "MAX_FRAME_BYTES", "Reassembler", "ReassemblyCounters", "ReceivedFrame"]

MAX_FRAMES = 4
"""Frames that may be open at a time."""

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""Bytes kept of one frame: more than the 4 096 slices of a frame hold in units of the default size."""

_UNIT_OVERHEAD = 20 + 255
"""What a kept payload may hold alive besides itself: the header and the optional fields of its message."""

_MAX_JUMP = 2**31
"""A frame id further ahead than this is damage or wrap-around, not progress."""

_WINDOW = 8 * HISTORY_FRAMES
"""Frame ids for which we remember what became of them; older ones count as dispatched. Much longer than the
history in a result, because a result is written some frames after its frame was dispatched."""

_WINDOW_MASK = (1 << _WINDOW) - 1


@dataclass(frozen=True, slots=True)
class ReceivedFrame:
    """One frame as far as it arrived.

    `slices` has `count` entries, None where a slice is missing; the views keep the received messages alive.
    `capture_us` is on the sender's clock; `first_at` and `ready_at` are seconds of the clock given to the
    `Reassembler`: arrival of the first slice, and dispatch.
    """

    aips_id: int
    frame_id: int
    capture_us: int
    count: int
    intra: bool
    reference: int | None
    slices: list[memoryview | bytes | None]
    first_at: float
    ready_at: float
    complete: bool


@dataclass(slots=True)
class ReassemblyCounters:
    """What became of the units (each is counted once) and, below, of the frames."""

    accepted: int = 0
    heartbeats: int = 0
    parity: int = 0
    """Of a kind reserved for a later version."""
    unknown_set: int = 0
    """Under a parameter set that is not in use."""
    stale: int = 0
    """Of a frame already dispatched, or much older."""
    too_far: int = 0
    """Of a frame more than 2^31 ahead."""
    duplicate: int = 0
    conflicting: int = 0
    """At odds with the frame's other slices in parameter set, count, capture time, intra flag or reference."""
    oversized: int = 0
    """Beyond the bytes that one frame may have."""

    complete: int = 0
    overtaken: int = 0
    given_up: int = 0
    """No more slices were to be expected."""
    expired: int = 0
    evicted: int = 0


@dataclass(slots=True)
class _OpenFrame:
    """A frame of which slices are still missing; `first` is the unit that opened it and speaks for all."""

    first: Unit
    first_at: float
    expires: float
    slices: list[memoryview | bytes | None]
    missing: int
    bytes_held: int = 0
    last_at: float = 0.0
    """When the slice with the highest index came."""
    highest: int = -1
    pause: float | None = None
    """The longest between two slices, lost ones in between taken into account."""
    gives_up: float | None = None
    """When no more slices are to be expected."""

    @property
    def due(self) -> float:
        """When the frame is to be dispatched."""
        return self.expires if self.gives_up is None else min(self.expires, self.gives_up)

    @property
    def left(self) -> int:
        """How many slices come after the highest that is there."""
        return len(self.slices) - 1 - self.highest

    def agrees(self, unit: Unit) -> bool:
        """Whether the unit says of the frame what the first one said."""
        first = self.first
        return (
            unit.aips_id == first.aips_id
            and unit.count == first.count
            and unit.capture_us == first.capture_us
            and unit.intra == first.intra
            and unit.reference == first.reference
        )


@dataclass(frozen=True, slots=True)
class _GivenUp:
    """What is remembered of a frame that was given up, to learn if that was too early."""

    last_at: float
    expires: float
    highest: int
    missing: set[int]


@dataclass(slots=True)
class _Window:
    """A set of frame ids that forgets: bit i of `bits` stands for the id `top - i`."""

    top: int = 0
    bits: int = field(default=0, repr=False)

    def add(self, frame_id: int) -> None:
        """Remember an id, unless it is older than the window."""
        if frame_id > self.top:
            # A jump may be 2^31 wide: never shift by more than what survives it.
            shift = frame_id - self.top
            self.bits = (self.bits << shift) & _WINDOW_MASK if shift < _WINDOW else 0
            self.top = frame_id
        if self.covers(frame_id):
            self.bits |= 1 << (self.top - frame_id)

    def covers(self, frame_id: int) -> bool:
        """Whether the id is not older than the window."""
        return self.top - frame_id < _WINDOW

    def __contains__(self, frame_id: int) -> bool:
        return frame_id <= self.top and self.covers(frame_id) and bool(self.bits >> (self.top - frame_id) & 1)


class Reassembler:
    """Collects the units of one stream of frames.

    Time is an argument: seconds of one monotonic clock, which never runs backwards. Units must come from
    `rtc.units.parse_unit`, which has checked each by itself; here they are checked against each other.

    A set of parameters must be made known with `set_deadline` before its units are accepted, so that nothing is
    stored on behalf of a set that was never agreed on.
    """

    def __init__(self, max_frames: int = MAX_FRAMES, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.counters = ReassemblyCounters()
        self._max_frames = max_frames
        self._max_frame_bytes = max_frame_bytes
        self._deadlines: dict[int, float] = {}
        self._open: dict[int, _OpenFrame] = {}
        self._given_up: dict[int, _GivenUp] = {}
        self._patience = Patience()
        self._newest_complete = 0
        self._dispatched = _Window()
        self._complete = _Window()

    def set_deadline(self, aips_id: int, seconds: float) -> None:
        """Accept units of a parameter set; an incomplete frame of it waits so long after its first slice at most."""
        self._deadlines[aips_id] = seconds

    def remove_set(self, aips_id: int, now: float) -> list[ReceivedFrame]:
        """Accept no more units of a parameter set; return its open frames, whose time is over with it.

        They must not wait: as soon as the release is acknowledged, the id may come to mean something else.
        """
        self._deadlines.pop(aips_id, None)
        return self._expire([i for i, frame in self._open.items() if frame.first.aips_id == aips_id], now)

    def receive(self, unit: Unit, now: float) -> list[ReceivedFrame]:
        """Take one unit; return the frames that are ready because of it, the oldest first."""
        counters = self.counters
        if unit.heartbeat:
            counters.heartbeats += 1
            return []
        if unit.parity:
            counters.parity += 1
            return []
        frame = self._open.get(unit.frame_id)
        if frame is None:
            frame = self._open_frame(unit, now)
            if frame is None:
                return []
        elif not frame.agrees(unit):
            counters.conflicting += 1
            return []
        if frame.slices[unit.index] is not None:
            counters.duplicate += 1
            return []
        bytes_held = frame.bytes_held + len(unit.payload) + _UNIT_OVERHEAD
        if bytes_held > self._max_frame_bytes:
            counters.oversized += 1
            return []
        counters.accepted += 1
        frame.bytes_held = bytes_held
        frame.slices[unit.index] = unit.payload
        frame.missing -= 1
        self._open[unit.frame_id] = frame
        self._learn(frame, unit.index, now)
        return self._ready(unit.frame_id, frame, now)

    def poll(self, now: float) -> list[ReceivedFrame]:
        """Return the frames whose time is over, the oldest first. To be called at `next_deadline`."""
        return self._expire([i for i, frame in self._open.items() if frame.due <= now], now)

    def _learn(self, frame: _OpenFrame, index: int, now: float) -> None:
        """Take note of when a slice came, and decide how long the frame waits for more."""
        steps = index - frame.highest
        if steps < 0:
            self._patience.late(now - frame.last_at, overtaken=True)
        else:
            if frame.highest >= 0:
                frame.pause = max(frame.pause or 0.0, (now - frame.last_at) / steps)
            frame.highest, frame.last_at = index, now
        patience = self._patience.after(frame.left)
        frame.gives_up = None if patience is None else now + patience

    def _stale(self, unit: Unit, now: float) -> None:
        """A slice of a frame that was dispatched: did we give up too early?"""
        self.counters.stale += 1
        frame = self._given_up.get(unit.frame_id)
        if frame is not None and unit.index in frame.missing and now <= frame.expires:
            frame.missing.remove(unit.index)
            steps = unit.index - frame.highest
            self._patience.late((now - frame.last_at) / max(steps, 1), overtaken=steps < 0)

    def next_deadline(self) -> float | None:
        """The time at which `poll` has something to do; None while no frame is open."""
        return min((frame.due for frame in self._open.values()), default=None)

    def history(self, frame_id: int) -> int:
        """Which of the 32 frames before `frame_id` arrived complete: bit i stands for frame `frame_id - 1 - i`."""
        return sum(1 << i for i in range(HISTORY_FRAMES) if frame_id - 1 - i in self._complete)

    def _open_frame(self, unit: Unit, now: float) -> _OpenFrame | None:
        """A new frame for its first slice, not kept yet; None (and counted) if there must be none."""
        deadline = self._deadlines.get(unit.aips_id)
        if deadline is None:
            self.counters.unknown_set += 1
            return None
        if unit.frame_id in self._dispatched or not self._dispatched.covers(unit.frame_id):
            self._stale(unit, now)
            return None
        if unit.frame_id - self._dispatched.top > _MAX_JUMP:
            self.counters.too_far += 1
            return None
        return _OpenFrame(unit, now, now + deadline, [None] * unit.count, unit.count)

    def _ready(self, frame_id: int, frame: _OpenFrame, now: float) -> list[ReceivedFrame]:
        """What can be dispatched after a slice was added to this frame."""
        if not frame.missing:
            self._newest_complete = max(self._newest_complete, frame_id)
            self.counters.complete += 1
            ready = sorted(other for other in self._open if other <= frame_id)
            self.counters.overtaken += len(ready) - 1
        elif frame_id < self._newest_complete:
            # All its earlier slices were lost or late: it has been overtaken already.
            self.counters.overtaken += 1
            ready = [frame_id]
        elif len(self._open) > self._max_frames:
            self.counters.evicted += 1
            ready = [min(self._open)]
        elif frame.due <= now:
            return self._expire([frame_id], now)
        else:
            return []
        return [self._dispatch(other, now) for other in ready]

    def _expire(self, frame_ids: list[int], now: float) -> list[ReceivedFrame]:
        for frame_id in frame_ids:
            frame = self._open[frame_id]
            if frame.gives_up is not None and frame.gives_up < frame.expires:
                self._give_up(frame_id, frame)
            else:
                self.counters.expired += 1
        return [self._dispatch(frame_id, now) for frame_id in sorted(frame_ids)]

    def _give_up(self, frame_id: int, frame: _OpenFrame) -> None:
        self.counters.given_up += 1
        missing = {index for index, slice_ in enumerate(frame.slices) if slice_ is None}
        if len(self._given_up) >= self._max_frames:
            self._given_up.pop(next(iter(self._given_up)))
        self._given_up[frame_id] = _GivenUp(frame.last_at, frame.expires, frame.highest, missing)

    def _dispatch(self, frame_id: int, now: float) -> ReceivedFrame:
        frame = self._open.pop(frame_id)
        self._patience.frame(frame.pause)
        self._dispatched.add(frame_id)
        if not frame.missing:
            self._complete.add(frame_id)
        first = frame.first
        return ReceivedFrame(
            aips_id=first.aips_id,
            frame_id=frame_id,
            capture_us=first.capture_us,
            count=first.count,
            intra=first.intra,
            reference=first.reference,
            slices=frame.slices,
            first_at=frame.first_at,
            ready_at=now,
            complete=not frame.missing,
        )
