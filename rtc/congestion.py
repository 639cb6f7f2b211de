"""When SCTP may send how much, for small frames in real time. Pure: every time is an argument, in monotonic seconds.

`docs/transport.md` says which rules of RFC 9260 this bends, and why that is safe.
"""

from __future__ import annotations

import math
from collections import deque

__all__ = ["AckPolicy", "CongestionWindow", "RoundTrip"]


class RoundTrip:
    """Round-trip time and the timeouts made from it (RFC 9260, section 6.3)."""

    RTO_INITIAL = 1.0
    RTO_MIN = 0.25
    RTO_MAX = 60.0
    TAIL_MAX = 1.0
    """Most seconds until an unreliable chunk is given up: so the window is free again soon after an outage."""
    MARGIN = 0.015
    """Least seconds beyond the smoothed round-trip time after which an unreliable chunk is given up."""

    def __init__(self) -> None:
        self.smoothed: float | None = None
        self._variation = 0.0
        self._peak = 0.0
        self._backoff = 0

    def sample(self, seconds: float) -> None:
        """Take the round-trip time of a chunk that was sent once."""
        if self.smoothed is None:
            self.smoothed, self._variation = seconds, seconds / 2
        else:
            self._variation += (abs(self.smoothed - seconds) - self._variation) / 4
            self.smoothed += (seconds - self.smoothed) / 8
        self._peak = max(seconds, self._peak + (self.smoothed - self._peak) / 8)
        self._backoff = 0

    def expired(self) -> None:
        """A timeout came. Until the next sample they are longer: else a path that got longer is given up for ever."""
        self._backoff = min(self._backoff + 1, 8)

    @property
    def is_silent(self) -> bool:
        """Whether several timeouts passed without a sample."""
        return self._backoff >= 3

    @property
    def rto(self) -> float:
        """Seconds until a reliable chunk is sent again."""
        first = self.RTO_INITIAL if self.smoothed is None else self.smoothed + 4 * self._variation
        return min(max(first, self.RTO_MIN) * float(2**self._backoff), self.RTO_MAX)

    @property
    def chunk_timeout(self) -> float:
        """Seconds until a chunk that will not be sent again is given up."""
        if self.smoothed is None:
            return min(self.rto, self.TAIL_MAX)
        # The average knows of a path that got longer, or a queue that filled, only when it is too late.
        after = max(self.smoothed + 4 * self._variation, self._peak + self.MARGIN)
        return min(after * float(2**self._backoff), self.TAIL_MAX)

    @property
    def pause(self) -> float:
        """Seconds between two notices of the same kind: a round trip, when that is known."""
        return 0.0 if self.smoothed is None else self.smoothed


class CongestionWindow:
    """How much may be in flight, by the delay that it causes. In chunks; times in seconds.

    The standing queue is what the shortest round trip of the last moment has above the shortest one known: a burst that
    drains between two frames is no queue. While there is none the window grows if it is used; when there is one it
    shrinks, once per round trip. Loss alone says little on a radio link: only much of it counts.

    If the queue stays though the window is at its floor, somebody else fills it. To yield to one who does not yield
    would be to starve: then Reno's window is used, which shares with others of its kind, and the own one is tried again
    now and then.
    """

    START = 10.0
    ROOM = 0.050
    """Seconds for which what is in flight may stand in a queue, whatever the window: a burst on a slow link."""
    FLOOR = 4.0
    CEILING = 512.0
    LOW = 0.010
    """Standing queue below which the window grows."""
    HIGH = 0.020
    """Standing queue above which it shrinks."""
    NOISE = 2.0
    """How much more it may be for each second by which one round trip differs from the one before, on average: so much
    may be chance."""
    NOISE_SPAN = 32
    """Round trips over which that average is taken."""
    SHRINK = 0.7
    RECENT = 0.5
    """Span of the last moment: long enough that delays which vary by some 40 ms come near their least."""
    MEMORY = 10.0
    """For how long the shortest round trip is believed, at least; at most twice as long."""
    BLAME = 0.050
    """Standing queue above which somebody else is to blame, if the window is at its floor: less may be our own, where
    four chunks take long."""
    PROBE = 5.0
    """How long Reno's window is used before the own one is tried again."""
    PATIENCE = 4
    """Shrinkings at the floor that do not help before somebody else is blamed."""
    HOLD_LOSS = 0.05
    """Share of chunks lost from which the window does not grow."""
    SHRINK_LOSS = 0.10
    """Share from which it shrinks."""
    LOSS_SPAN = 1_000
    """Chunks over which that share is taken (an exponential average)."""
    LOSSY = 0.6
    """Share of round trips with a loss below which loss does not count: a link that is too slow loses in each, and
    noise comes in bursts."""
    LOSSY_SPAN = 16
    """Round trips over which that share is taken."""

    def __init__(self) -> None:
        self._window = self.START
        self._variation = 0.0
        self._previous = 0.0
        self._reno = 1.0
        self._slow_start = True
        self._loss = 0.0
        self._lossy = 0.0
        self._lost_in_round = False
        self._round_until = 0.0
        self._recent: deque[tuple[float, float]] = deque()  # increasing, so the first is the least
        self._base: float | None = None
        self._base_next: float | None = None
        self._base_until = 0.0
        self._shrink_after = 0.0
        self._fruitless = 0
        self._reno_until: float | None = None

    @property
    def uses_reno(self) -> bool:
        """Whether somebody else fills the queue."""
        return self._reno_until is not None

    @property
    def shortest(self) -> float:
        """The round trip without a queue, in seconds; 0 as long as none is known."""
        return self._base or 0.0

    @property
    def loss(self) -> float:
        """Share (0 to 1) of the last chunks that were lost."""
        return self._loss

    def window(self, reno: float, rate: float = math.inf) -> float:
        """Chunks that may be in flight.

        Args:
            reno: what the standard's algorithm would allow.
            rate: chunks per second that the path takes; infinite while that is not known.
        """
        self._reno = max(reno, 1.0)
        if self._reno_until is not None:
            return self._reno
        return min(self._window, max((self.shortest + self.ROOM) * rate, self.FLOOR))

    def lost(self, chunks: int = 1) -> None:
        """So many chunks were given up or must be sent again."""
        self._lost_in_round = True
        for _ in range(chunks):
            self._loss += (1 - self._loss) / self.LOSS_SPAN

    def timed_out(self) -> None:
        """Nothing came back for a whole retransmission timeout: start again, carefully."""
        self._window = 1.0
        self._slow_start = True
        self._fruitless = 0

    def acknowledged(self, chunks: int, round_trip: float | None, limited: bool, smoothed: float, now: float) -> None:
        """So many chunks arrived.

        Args:
            chunks: newly acknowledged.
            round_trip: of the last of them; None if it was sent more than once.
            limited: whether more would have been sent if the window had been larger.
            smoothed: the smoothed round-trip time.
            now: the time.
        """
        self._loss *= (1 - 1 / self.LOSS_SPAN) ** chunks
        if now >= self._round_until:
            self._lossy += (self._lost_in_round - self._lossy) / self.LOSSY_SPAN
            self._lost_in_round = False
            self._round_until = now + smoothed
        loss = self._loss if self._lossy > self.LOSSY else 0.0
        if round_trip is not None:
            self._variation += (abs(round_trip - self._previous) - self._variation) / self.NOISE_SPAN
            self._previous = round_trip
            self._sample(round_trip, now)
        queue = self._queue()
        if self._reno_until is not None:
            if now < self._reno_until and queue >= self.LOW:
                return
            self._reno_until = None
            self._fruitless = self.PATIENCE - 2
            self._window = self.FLOOR if queue >= self.LOW else self._reno
        self._window = max(self._window, self.FLOOR)
        if queue > self.HIGH + self.NOISE * self._variation or loss > self.SHRINK_LOSS:
            self._shrink(queue, smoothed, now)
        elif queue < self.LOW:
            self._fruitless = 0
            if limited and loss < self.HOLD_LOSS and (round_trip or 0.0) < self.shortest + self.ROOM:
                growth = chunks if self._slow_start else chunks / self._window
                self._window = min(self._window + growth, self.CEILING)

    def _shrink(self, queue: float, smoothed: float, now: float) -> None:
        self._slow_start = False
        if now < self._shrink_after:
            return
        self._shrink_after = now + smoothed
        if self._window > self.FLOOR:
            self._window = max(self._window * self.SHRINK, self.FLOOR)
        elif queue > self.BLAME:
            self._fruitless += 1
            if self._fruitless >= self.PATIENCE:
                self._reno_until = now + self.PROBE

    def _sample(self, round_trip: float, now: float) -> None:
        while self._recent and self._recent[-1][1] >= round_trip:
            self._recent.pop()
        self._recent.append((now, round_trip))
        while self._recent[0][0] < now - self.RECENT:
            self._recent.popleft()
        # Two spans of memory, each with its least, so that a path that got longer is believed in the end.
        if self._base is None:
            self._base_until = now + self.MEMORY
        elif now >= self._base_until:
            self._base, self._base_next = self._base_next, None
            self._base_until = now + self.MEMORY
        self._base = round_trip if self._base is None else min(self._base, round_trip)
        self._base_next = round_trip if self._base_next is None else min(self._base_next, round_trip)

    def _queue(self) -> float:
        if self._base is None:
            return 0.0
        return self._recent[0][1] - self._base


class AckPolicy:
    """When a receiver acknowledges: at once what the sender must know now, else several packets together.

    A sender learns the path's round-trip time and grows its window from the first packets, so those are acknowledged
    one by one. Afterwards there is one acknowledgement for `EVERY` packets, or `DELAY` seconds after the first of them:
    that saves work on both sides.
    """

    FIRST = 64
    EVERY = 4
    DELAY = 0.002

    def __init__(self) -> None:
        self._packets = 0
        self._waiting = 0

    def received(self, urgent: bool) -> bool:
        """Whether to acknowledge a packet now; `urgent` if its sender asks for it or something is amiss."""
        self._packets += 1
        self._waiting += 1
        return urgent or self._packets <= self.FIRST or self._waiting >= self.EVERY

    def acknowledged(self) -> None:
        """An acknowledgement was sent."""
        self._waiting = 0
