"""One direction of a TCP-like byte stream over a lossy link, driven by an explicit clock. Sans-I/O.

`rtc.relay_streams` runs it, so that what is fetched by HTTP meets the same emulated link as the media. As far as time
is concerned, it behaves as TCP does: slow start from ten segments (RFC 6928), additive increase, multiplicative
decrease (RFC 5681), each segment acknowledged by itself (as with SACK, RFC 2018), a segment taken for lost once three
later ones were acknowledged or its timer ran out (RFC 6298).

A stream is a sequence of bytes; its opening and its end take one number each in that sequence, as SYN and FIN do.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["INITIAL_WINDOW", "MAX_UNACKNOWLEDGED", "SEGMENT", "FlowReceiver", "FlowSender", "Kind", "Segment"]

SEGMENT = 1_424
"""Bytes of a stream in one packet: with all headers, 1 476 of the 1 500 that an Ethernet frame has."""
INITIAL_WINDOW = 10.0
"""Segments under way before the first acknowledgement."""
MAX_UNACKNOWLEDGED = 2**20
"""Bytes that a sender takes before it wants no more, and a receiver keeps that came too early."""
DUPLICATES = 3
"""Later segments that must have been acknowledged before one counts as lost."""
FIRST_TIMEOUT = 1.0
MIN_TIMEOUT = 0.2
MAX_TIMEOUT = 8.0


class Kind(IntEnum):
    """What a segment carries. Those but DATA take one number of the sequence, and no bytes."""

    OPEN = 1
    DATA = 2
    END = 3


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a stream, from the number ``offset`` of the sequence on."""

    offset: int
    kind: Kind
    payload: bytes = b""

    @property
    def end(self) -> int:
        """The number after its last one."""
        return self.offset + (len(self.payload) if self.kind is Kind.DATA else 1)


@dataclass(slots=True)
class _InFlight:
    segment: Segment
    sent_at: float
    order: int
    again: bool
    """Was sent before: its acknowledgement says nothing about the round trip (Karn)."""


class FlowSender:
    """What one side sends: bytes in, segments out, as the window allows. All times are of one monotonic clock."""

    def __init__(self, *, opens: bool) -> None:
        """With ``opens``, the first segment opens the stream, and nothing follows before its acknowledgement."""
        self._waiting = bytearray()
        self._ending = False
        self._ended = False
        self._next = 0
        self._opening = opens
        self._in_flight: dict[int, _InFlight] = {}
        """In the order in which they were sent."""
        self._again: list[tuple[int, Segment]] = []
        """A heap: what is lowest in the sequence is what the receiver waits for, and may be all it has room for."""
        self._sent_bytes = 0
        """Of the segments under way, and of those to be sent again."""
        self._order = 0
        self._acknowledged_order = -1
        self._window = INITIAL_WINDOW
        self._threshold = float("inf")
        self._recovers_until = -1
        """The order of the last segment that was sent when the window was last made smaller."""
        self._round_trip: float | None = None
        self._variation = 0.0
        self._timeout = FIRST_TIMEOUT

    @property
    def unacknowledged(self) -> int:
        """Bytes that were written and have not arrived for sure."""
        return len(self._waiting) + self._sent_bytes

    @property
    def done(self) -> bool:
        """The end was sent and acknowledged, and so was all before it."""
        return self._ended and not self._in_flight and not self._again

    def write(self, data: bytes) -> None:
        """Append bytes to the stream."""
        self._waiting += data

    def finish(self) -> None:
        """Nothing more will be written."""
        self._ending = True

    def take(self, now: float) -> list[Segment]:
        """The segments to send now."""
        segments: list[Segment] = []
        while len(self._in_flight) < int(self._window):
            again = bool(self._again)
            segment = heapq.heappop(self._again)[1] if again else self._cut()
            if segment is None:
                break
            self._in_flight[segment.offset] = _InFlight(segment, now, self._order, again)
            self._order += 1
            segments.append(segment)
        return segments

    def _cut(self) -> Segment | None:
        """The next new segment; None when there is nothing, or nothing that may be sent yet."""
        if self._opening:
            if self._next:
                return None
            segment = Segment(0, Kind.OPEN)
        elif self._waiting:
            segment = Segment(self._next, Kind.DATA, bytes(self._waiting[:SEGMENT]))
            del self._waiting[:SEGMENT]
        elif self._ending and not self._ended:
            self._ended = True
            segment = Segment(self._next, Kind.END)
        else:
            return None
        self._next = segment.end
        self._sent_bytes += len(segment.payload)
        return segment

    def acknowledged(self, offset: int, now: float) -> None:
        """The segment that begins there has arrived."""
        one = self._in_flight.pop(offset, None)
        if one is None:  # taken for lost too early: it will be sent again, and acknowledged again
            return
        self._sent_bytes -= len(one.segment.payload)
        self._opening = False
        self._acknowledged_order = max(self._acknowledged_order, one.order)
        if not one.again:
            self._measure(now - one.sent_at)
        self._window += 1.0 if self._window < self._threshold else 1.0 / self._window
        for other in self._overtaken():
            self._lose(other)
            if other.order > self._recovers_until:
                self._recovers_until = self._order
                self._threshold = self._window = max(self._window / 2, 2.0)

    def _overtaken(self) -> list[_InFlight]:
        """What was sent so long before something acknowledged that it is lost."""
        latest = self._acknowledged_order - DUPLICATES
        return list(itertools.takewhile(lambda one: one.order <= latest, self._in_flight.values()))

    def _lose(self, one: _InFlight) -> None:
        del self._in_flight[one.segment.offset]
        heapq.heappush(self._again, (one.segment.offset, one.segment))

    def _measure(self, round_trip: float) -> None:
        """RFC 6298, section 2."""
        if self._round_trip is None:
            self._round_trip, self._variation = round_trip, round_trip / 2
        else:
            self._variation += (abs(self._round_trip - round_trip) - self._variation) / 4
            self._round_trip += (round_trip - self._round_trip) / 8
        self._timeout = min(max(self._round_trip + 4 * self._variation, MIN_TIMEOUT), MAX_TIMEOUT)

    def next_timeout(self) -> float | None:
        """When `time_out` is due; None while nothing is under way."""
        oldest = next(iter(self._in_flight.values()), None)
        return None if oldest is None else oldest.sent_at + self._timeout

    def time_out(self, now: float) -> None:
        """Take everything under way for lost, if the oldest of it is due."""
        due = self.next_timeout()
        if due is None or now < due:
            return
        for one in list(self._in_flight.values()):
            self._lose(one)
        self._threshold, self._window = max(self._window / 2, 2.0), 1.0
        self._recovers_until = self._order
        self._timeout = min(2 * self._timeout, MAX_TIMEOUT)


class FlowReceiver:
    """What the other side gets: segments in any order in, the stream's pieces in their order out."""

    def __init__(self) -> None:
        self._next = 0
        self._early: dict[int, Segment] = {}
        self._early_bytes = 0

    def receive(self, segment: Segment) -> list[Segment] | None:
        """Take a segment in; returns what can be handed over now, None when it must not be acknowledged."""
        if segment.offset < self._next or segment.offset in self._early:
            return []
        if segment.offset > self._next:
            if self._early_bytes + len(segment.payload) > MAX_UNACKNOWLEDGED:
                return None
            self._early[segment.offset] = segment
            self._early_bytes += len(segment.payload)
            return []
        ready = [segment]
        self._next = segment.end
        while (early := self._early.pop(self._next, None)) is not None:
            self._early_bytes -= len(early.payload)
            ready.append(early)
            self._next = early.end
        return ready
