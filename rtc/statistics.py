"""Figures of one link, kept in bounded memory. Sans-I/O: times are arguments, seconds of one monotonic clock."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass

__all__ = ["MAX_RECENT", "MAX_UNANSWERED", "RECENT_SECONDS", "WINDOW", "LinkStatistics", "Window"]

WINDOW = 300
"""Values over which percentiles are taken: ten seconds at 30 frames per second."""

RECENT_SECONDS = 1.0
"""Span over which goodput and loss are measured."""

MAX_RECENT = 1_024
"""Answers kept for that span: above 1 000 frames per second, the fastest that can be negotiated."""

MAX_UNANSWERED = 256
"""Frames remembered while they wait for an answer."""


class Window:
    """The last `size` values, and their percentiles (nearest rank: always one of the values)."""

    def __init__(self, size: int = WINDOW) -> None:
        self._values: deque[float] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        """Take a value; the oldest one leaves when the window is full."""
        self._values.append(value)

    def percentile(self, percent: float) -> float | None:
        """The smallest value that `percent` (0 to 100) of the values do not exceed; None while there is none."""
        if not self._values:
            return None
        rank = max(1, math.ceil(len(self._values) * percent / 100))
        return sorted(self._values)[rank - 1]

    @property
    def p50(self) -> float | None:
        """The median."""
        return self.percentile(50)

    @property
    def p95(self) -> float | None:
        """What 95 % of the values do not exceed."""
        return self.percentile(95)

    @property
    def p99(self) -> float | None:
        """What 99 % of the values do not exceed."""
        return self.percentile(99)


@dataclass(frozen=True, slots=True)
class _Sent:
    at: float
    bytes_sent: int
    slices: int


@dataclass(frozen=True, slots=True)
class _Answer:
    at: float
    bytes_received: float
    slices_received: int
    slices: int


class LinkStatistics:
    """What the sending side learns about the link from the answers to its frames. One thread feeds it, others may read.

    Clocks of two machines are never subtracted: the network's share of a frame is what remains of the time from
    sending to answer, both on our clock, after taking away the durations that the other side measured on its own.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self.frames_sent = 0
        self.frames_dropped = 0
        """By the sender, in whole or in part."""
        self.frames_answered = 0
        self.frames_unanswered = 0
        """Given up because so many newer ones were sent since."""
        self.answers_unknown = 0
        """Answers to frames that were not sent, or were answered or given up before."""
        self.network = Window(window)
        """Seconds in the network, there and back, of frames that arrived complete. (An incomplete one also waited for
        what did not come, which says nothing about the network's delay.)"""
        self.age = Window(window)
        """Seconds from capture to answer, of all frames answered."""
        self._unanswered: OrderedDict[int, _Sent] = OrderedDict()
        self._recent: deque[_Answer] = deque(maxlen=MAX_RECENT)

    def sent(self, frame_id: int, bytes_sent: int, slices: int, now: float) -> None:
        """A frame of `slices` units (at least one) with `bytes_sent` bytes in all went to the sender."""
        self.frames_sent += 1
        self._unanswered[frame_id] = _Sent(now, bytes_sent, slices)
        if len(self._unanswered) > MAX_UNANSWERED:
            self._unanswered.popitem(last=False)
            self.frames_unanswered += 1

    def dropped(self, frame_id: int, slices_sent: int) -> None:
        """The sender dropped a frame after some slices; if there were none, no answer is expected."""
        self.frames_dropped += 1
        if not slices_sent:
            self._unanswered.pop(frame_id, None)

    def answered(
        self, frame_id: int, captured: float, remote_seconds: float, slices_received: int, now: float
    ) -> float | None:
        """The answer to a frame came. Returns the seconds in the network, there and back; None where that is unknown.

        `captured` is the frame's capture time on our clock, `remote_seconds` the sum of the durations in the answer.
        """
        sent = self._unanswered.pop(frame_id, None)
        if sent is None:
            self.answers_unknown += 1
            return None
        self.frames_answered += 1
        self.age.add(now - captured)
        slices_received = min(slices_received, sent.slices)
        share = slices_received / sent.slices
        self._recent.append(_Answer(now, sent.bytes_sent * share, slices_received, sent.slices))
        if slices_received < sent.slices:
            return None
        # The durations are the other side's word: they must not make the network faster than light.
        network = max(0.0, now - sent.at - remote_seconds)
        self.network.add(network)
        return network

    def goodput(self, now: float) -> float:
        """Bits per second of units that arrived, as answered during the last second."""
        return 8 * sum(answer.bytes_received for answer in self._last_second(now)) / RECENT_SECONDS

    def slice_loss(self, now: float) -> float | None:
        """Share (0 to 1) of the slices that did not arrive, among the frames answered during the last second."""
        recent = self._last_second(now)
        slices = sum(answer.slices for answer in recent)
        return 1 - sum(answer.slices_received for answer in recent) / slices if slices else None

    def snapshot(self, now: float) -> dict[str, float]:
        """All figures by name, in seconds, bits per second and shares; those that are not known yet are left out."""
        figures: dict[str, float | None] = {
            "frames_sent": self.frames_sent,
            "frames_dropped": self.frames_dropped,
            "frames_answered": self.frames_answered,
            "frames_unanswered": self.frames_unanswered,
            "answers_unknown": self.answers_unknown,
            "goodput": self.goodput(now),
            "slice_loss": self.slice_loss(now),
        }
        for name, window in (("network", self.network), ("age", self.age)):
            figures |= {f"{name}_p50": window.p50, f"{name}_p95": window.p95, f"{name}_p99": window.p99}
        return {name: value for name, value in figures.items() if value is not None}

    def _last_second(self, now: float) -> list[_Answer]:
        # A copy first: another thread may read while answers come.
        return [answer for answer in tuple(self._recent) if answer.at > now - RECENT_SECONDS]
