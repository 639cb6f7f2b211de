"""Which lane takes the next frame: one to an edge, or the device's own. Sans-I/O: lanes and times in, choices out.

A session is never silent for longer than it must be, and never changes over to what has not proved to work while
something else does:

- What serves is given every frame. When no result came `GRACE` seconds after one was due, the device's own lane takes
  over, long before the edge counts as lost.
- What else is open is on *trial*: now and then it is given a frame as well, which the serving lane answers. With its
  first result it takes over. So the way back to the edge, and from one edge to another, leaves no gap.
- Without a lane of the device's own, a lane that is silent goes on being given the frames: nothing better is at hand.
  But it is told that nothing comes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["GRACE", "MAX_AWAITED", "MAX_PROOFS", "PROBE_INTERVAL", "STEADY", "Change", "Modes"]

GRACE = 0.5
"""Seconds past the time at which a result was due, after which a lane counts as silent."""
PROBE_INTERVAL = 0.2
"""Seconds between the frames that a lane on trial is given."""
STEADY = 10.0
"""Seconds that a lane must have served for its silence to count as a first one."""
MAX_PROOFS = 16
"""Results that a lane on trial has to give, at most. One will do, twice as many each time that it soon falls silent."""
MAX_AWAITED = 256
"""Frames without a result that are remembered, at most. Only the first one of them decides."""
SMOOTHING = 0.125
"""Share of a new measurement in the usual time to a result (as for the round-trip time in RFC 6298)."""
BACK = "results come again"

L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class Change(Generic[L]):
    """Another lane answers from now on; None: none does, though `Modes.serving` may still be given the frames."""

    lane: L | None
    reason: str
    time: float


class Modes(Generic[L]):
    """Chooses among lanes, which it tells apart by identity. All times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.serving: L | None = None
        """Takes the next frame; None while there is no lane."""
        self.trial: L | None = None
        """Is open, and takes over when it has proved to work."""
        self.probe_wanted = False
        """The lane on trial shall be given the next frame as well."""
        self.changes: list[Change[L]] = []
        """What has happened and was not taken yet by whoever drives this."""
        self._own: L | None = None
        self._trial_reason = ""
        self._silent: str | None = None  # why, when the serving lane is
        self._awaited: deque[tuple[int, float]] = deque()
        self._probes: deque[tuple[int, float]] = deque(maxlen=MAX_AWAITED)
        self._next_probe = 0.0
        self._usual = 0.0
        self._since = 0.0  # when the serving lane began to
        self._proofs = 1  # that a lane which fell silent has to give
        self._missing = 0  # of them, on this trial

    # What there is.

    def own_ready(self, lane: L, reason: str, now: float) -> None:
        """The device's own lane can take frames. It answers each before it takes the next, and stays."""
        self._own = lane
        if self.serving is None:
            self._serve(lane, reason, now)
        elif self._silent is not None:
            self._fall_back(self._silent, now)

    def opened(self, lane: L, reason: str, now: float) -> None:
        """A lane to an edge is open. It serves at once where nothing does, else when it has proved to work."""
        if self.serving is None or self._silent is not None:
            self._serve(lane, reason, now)
        elif lane is not self.serving:
            self._try(lane, reason, now)

    def closed(self, lane: L, reason: str, now: float) -> None:
        """A lane is over: what was given to it will not be answered."""
        if lane is self.trial:
            self._end_trial()
        elif lane is self.serving:
            if self._own is not None:
                self._serve(self._own, reason, now, keep_trial=True)
            else:
                self._serve(self.trial, reason, now)

    def absent(self, reason: str, now: float) -> None:
        """There is no lane yet, and this is why."""
        if self.serving is None:
            self._tell(None, reason, now)

    def promote(self, lane: L, now: float) -> None:
        """Let the lane on trial serve, though nothing has proved that it works; without effect on others."""
        if lane is self.trial:
            self._serve(lane, self._trial_reason, now)

    # What becomes of frames.

    def submitted(self, lane: L, index: int, now: float) -> None:
        """A lane was given the frame of this number, which grows."""
        if lane is self.trial:
            self._probes.append((index, now))
        elif lane is self.serving and lane is not self._own and len(self._awaited) < MAX_AWAITED:
            self._awaited.append((index, now))

    def answered(self, lane: L, index: int, now: float) -> None:
        """A lane gave a result for a frame; so frames before that one will not be answered any more."""
        if lane is self.trial:
            self._missing -= 1
            if self._missing > 0:
                return
            times = dict(self._probes)
            self._serve(lane, self._trial_reason, now)
            self._usual = now - times.get(index, now)
        elif lane is self.serving:
            while self._awaited and self._awaited[0][0] <= index:
                number, given = self._awaited.popleft()
                if number == index:
                    took = now - given
                    self._usual += (took - self._usual) * (SMOOTHING if self._usual else 1.0)
            if self._silent is not None:
                self._silent = None
                self._tell(lane, BACK, now)

    def forget(self) -> None:
        """Nobody waits any more for what the lanes were given; numbers may begin anew."""
        self._awaited.clear()
        self._probes.clear()

    # The course of time.

    def next_event(self) -> float | None:
        """When `tick` has something to do next; None when it has not."""
        times = [] if self.trial is None or self.probe_wanted else [self._next_probe]
        if self._awaited and self._silent is None:
            times.append(self._silent_at())
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self.trial is not None and now >= self._next_probe:
            self.probe_wanted = True
        if self._awaited and self._silent is None and now >= self._silent_at():
            self._fall_back(f"no result for {now - self._awaited[0][1]:.1f} s", now)

    def probed(self, now: float) -> None:
        """The lane on trial is being given a frame."""
        self.probe_wanted = False
        self._next_probe = now + PROBE_INTERVAL

    # The steps.

    def _silent_at(self) -> float:
        return self._awaited[0][1] + self._usual + GRACE

    def _fall_back(self, reason: str, now: float) -> None:
        """The serving lane is silent. What takes its place leaves it on trial, unless another one is there."""
        silent, trial, awaited = self.serving, self.trial, tuple(self._awaited)
        assert silent is not None
        if self._own is not None:
            self._proofs = min(2 * self._proofs, MAX_PROOFS) if now - self._since < STEADY else 1
            self._serve(self._own, reason, now, keep_trial=True)
            if trial is None:
                self._try(silent, BACK, now, self._proofs)
                self._probes.extend(awaited)  # late is not never
        elif trial is not None:
            self._serve(trial, reason, now)
        else:
            self._silent = reason
            self._tell(None, reason, now)

    def _serve(self, lane: L | None, reason: str, now: float, *, keep_trial: bool = False) -> None:
        self.serving = lane
        self._since = now
        self._silent = None
        self._usual = 0.0
        self._awaited.clear()
        if not keep_trial:
            self._end_trial()
        self._tell(lane, reason, now)

    def _try(self, lane: L, reason: str, now: float, proofs: int = 1) -> None:
        self._end_trial()
        self._missing = proofs
        self.trial, self._trial_reason = lane, reason
        self.probe_wanted, self._next_probe = True, now

    def _end_trial(self) -> None:
        self.trial = None
        self.probe_wanted = False
        self._probes.clear()

    def _tell(self, lane: L | None, reason: str, now: float) -> None:
        self.changes.append(Change(lane, reason, now))
