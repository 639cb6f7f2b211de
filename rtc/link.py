"""A model of one direction of a network link, driven by an explicit clock. Sans-I/O; `rtc.relay` runs it.

A packet's way, after a copy of it was made perhaps (`duplicate`):

1. It waits in the queue until all earlier ones have been sent at the link's rate, or is dropped if the queue is full.
2. When its last bit has been sent, it is lost if the link is down just then (`outages`) or by chance (`loss`,
   `burst`): what is lost has used the link as well, as on a radio link.
3. It arrives, perhaps damaged (`corrupt`), after `delay` and up to `jitter`, but not before one that was sent earlier.
   Only one that is picked to be overtaken (`reorder`) arrives `REORDER_HOLD` later than that, and others need not wait.

The rate is that in force while a packet is sent; all else is as it was when the packet was offered. Each kind of chance
has a random generator of its own, and each packet (a copy is one, too) draws from them when it is offered: so the nth
packet's loss depends on the seed, n, `loss` and `burst`, but not on when it comes or what else befalls the packets.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from random import Random

from .link_settings import LinkSettings

__all__ = ["MAX_BYTES", "MAX_PACKETS", "PACKET_OVERHEAD", "REORDER_HOLD", "Link", "LinkCounters"]

MAX_PACKETS = 16_384
"""Packets under way on a link, and packets in its queue; further ones are dropped and counted as overflow."""

MAX_BYTES = 32 * 1024 * 1024
"""Bytes under way on a link."""

PACKET_OVERHEAD = 28
"""Bytes that each packet takes besides its content when it is sent at a rate: the headers of IPv4 and UDP."""

REORDER_HOLD = 0.010
"""Seconds for which a packet is held back so that others overtake it."""


@dataclass(slots=True)
class LinkCounters:
    """What became of the packets: `offered + duplicated == delivered + lost + outage + dropped + overflow + held`."""

    offered: int = 0
    offered_bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    lost: int = 0
    """Lost by chance."""
    outage: int = 0
    """Lost while the link was down."""
    dropped: int = 0
    """Found the queue full."""
    overflow: int = 0
    """Were more than the model itself holds."""
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    queue_peak: int = 0
    """Most packets in the queue at once."""
    queue_peak_bytes: int = 0


class Link:
    """One direction of a link. All times are seconds of one monotonic clock.

    Two links with equal settings and seed do the same to the same packets offered at the same times since their start.
    """

    def __init__(self, settings: LinkSettings, seed: int | str = 0, start: float = 0.0) -> None:
        self.counters = LinkCounters()
        self._start = start
        self._set(settings)
        # A generator each, so that turning one kind on or off does not change what another does.
        self._loss, self._jitter, self._reorder, self._duplicate, self._corrupt = (
            Random(f"{seed}/{kind}") for kind in ("loss", "jitter", "reorder", "duplicate", "corrupt")
        )
        # As if packets had passed before: the state of the Gilbert-Elliott model is drawn from its long-term shares.
        self._lost_before = self._loss.random() < settings.loss
        self._queue: deque[tuple[float, int]] = deque()  # when sent, bytes
        self._queue_bytes = 0
        self._free_at = -math.inf  # when all of the queue has been sent
        self._flight: list[tuple[float, int, bytes]] = []  # a heap: when due, number, packet
        self._flight_bytes = 0
        self._numbered = 0
        self._last_due = -math.inf

    @property
    def held(self) -> int:
        """Packets that will be delivered but are not yet."""
        return len(self._flight)

    def change(self, settings: LinkSettings) -> None:
        """Use other settings for the packets offered from now on; the seed and the start stay."""
        self._set(settings)

    def push(self, packet: bytes, now: float) -> None:
        """Offer a packet to the link."""
        settings = self._steps[self._step(now)]
        self.counters.offered += 1
        self.counters.offered_bytes += len(packet)
        if self._duplicate.random() < settings.duplicate:
            self.counters.duplicated += 1
            self._carry(packet, now, settings)
        self._carry(packet, now, settings)

    def pop(self, now: float) -> list[bytes]:
        """Take the packets that have arrived, in the order of their arrival."""
        arrived = []
        while self._flight and self._flight[0][0] <= now:
            packet = heapq.heappop(self._flight)[2]
            arrived.append(packet)
            self.counters.delivered += 1
            self.counters.delivered_bytes += len(packet)
            self._flight_bytes -= len(packet)
        return arrived

    def next_event(self) -> float | None:
        """When the next packet arrives; None when none is under way."""
        return self._flight[0][0] if self._flight else None

    def _set(self, settings: LinkSettings) -> None:
        steps = settings.steps()
        self._times = [self._start + at for at, _ in steps]
        self._steps = [step for _, step in steps]
        self._outages = [(self._start + start, self._start + end) for start, end in settings.outages]

    def _step(self, now: float) -> int:
        # The first settings hold before the start, too.
        return max(0, bisect_right(self._times, now) - 1)

    def _carry(self, packet: bytes, now: float, settings: LinkSettings) -> None:
        self._lost_before = lost = self._loss.random() < settings.chance_of_loss(self._lost_before)
        late = self._jitter.random() * settings.jitter
        overtaken = self._reorder.random() < settings.reorder
        if corrupt := bool(packet) and self._corrupt.random() < settings.corrupt:
            packet = _damaged(packet, self._corrupt)

        if not self._room(packet, now, settings):
            return
        sent = self._send(len(packet), now)
        if any(start <= sent < end for start, end in self._outages):
            self.counters.outage += 1
            return
        if lost:
            self.counters.lost += 1
            return
        due = max(sent + settings.delay + late, self._last_due)
        if overtaken:
            due += REORDER_HOLD
        else:
            self._last_due = due
        self.counters.reordered += overtaken
        self.counters.corrupted += corrupt
        self._numbered += 1
        heapq.heappush(self._flight, (due, self._numbered, packet))
        self._flight_bytes += len(packet)

    def _room(self, packet: bytes, now: float, settings: LinkSettings) -> bool:
        """Whether a packet can be taken; counted if not."""
        while self._queue and self._queue[0][0] <= now:
            self._queue_bytes -= self._queue.popleft()[1]
        match settings.queue.unit:
            case "ms":
                full = self._free_at - now > settings.queue.amount / 1_000
            case "packets":
                full = len(self._queue) >= settings.queue.amount
            case _:
                # A packet larger than the whole queue passes when nothing waits.
                full = bool(self._queue) and self._queue_bytes + len(packet) > settings.queue.amount
        if full:
            self.counters.dropped += 1
            return False
        if max(len(self._queue), self.held) >= MAX_PACKETS or self._flight_bytes + len(packet) > MAX_BYTES:
            self.counters.overflow += 1
            return False
        return True

    def _send(self, size: int, now: float) -> float:
        """Put a packet at the queue's end; when will its last bit have been sent?"""
        self._free_at = sent = self._sent(max(now, self._free_at), (size + PACKET_OVERHEAD) * 8)
        if sent > now:
            self._queue.append((sent, size))
            self._queue_bytes += size
            self.counters.queue_peak = max(self.counters.queue_peak, len(self._queue))
            self.counters.queue_peak_bytes = max(self.counters.queue_peak_bytes, self._queue_bytes)
        return sent

    def _sent(self, begin: float, bits: float) -> float:
        """When these bits have been sent, if the first is sent at `begin`, at the rates then in force."""
        index = self._step(begin)
        while True:
            rate = self._steps[index].rate
            if rate is None:
                return begin
            index += 1
            end = self._times[index] if index < len(self._times) else math.inf
            if begin + bits / rate <= end:
                return begin + bits / rate
            bits -= (end - begin) * rate
            begin = end


def _damaged(packet: bytes, random: Random) -> bytes:
    """The packet with one bit turned over."""
    bit = random.randrange(len(packet) * 8)
    damaged = bytearray(packet)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)
