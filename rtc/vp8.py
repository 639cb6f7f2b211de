"""VP8 frames out of RTP packets (RFC 7741): sans-I/O, bounded in memory.

A frame is handed out when its last packet is there, in the order in which it was sent, and only if all frames that it
is predicted from were handed out: after a gap that nobody fills, nothing comes until the next key frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

__all__ = ["VideoCounters", "VideoFrame", "Vp8Assembler", "key_size"]

CAPACITY = 512
"""Packets between the next one that is due and the last one kept: some 650 KB, much more than a key frame."""
MAX_PACKET = 1_500
"""Bytes of a packet's payload: what an Ethernet frame holds."""
PATIENCE = 0.3
"""Seconds for which a missing packet is waited for: several round trips, within which it is sent again."""
KEY_INTERVAL = 0.3
"""Seconds between two requests for a key frame."""

_START_CODE = b"\x9d\x01\x2a"


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One encoded frame. `first_at` and `ready_at` are the times at which its first packet came, and its last."""

    timestamp: int
    """Of its RTP packets: u32, in 1/90000 s, from a random origin."""
    number: int
    """Counts the frames handed out, from 1. A frame that is no key frame is predicted from the one before."""
    key: bool
    data: bytes
    first_at: float
    ready_at: float


@dataclass(slots=True)
class VideoCounters:
    """What became of packets and frames that were not used."""

    oversized: int = 0
    stale: int = 0
    """Packets that came again, or after they were given up."""
    gaps: int = 0
    """Packets that were missing when a later one came; most come after all."""
    given_up: int = 0
    """Gaps that nobody filled."""
    malformed: int = 0
    """Frames whose packets contradict each other."""
    without_key: int = 0
    """Frames that are predicted from what was never there."""


@dataclass(frozen=True, slots=True)
class _Packet:
    timestamp: int
    starts: bool
    ends: bool
    data: bytes
    at: float


def key_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a key frame (RFC 6386, section 9.1); None when the frame is none."""
    if len(data) < 10 or data[0] & 1 or data[3:6] != _START_CODE:
        return None
    return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF


class Vp8Assembler:
    """Takes the packets of one stream as they come; `add` returns the frames that are whole by that."""

    def __init__(self) -> None:
        self.counters = VideoCounters()
        self._packets: dict[int, _Packet] = {}
        """By sequence number, counted on where that wraps."""
        self._due = 0
        """The packet with which the next frame begins."""
        self._highest: int | None = None
        self._missing_since: float | None = None
        self._needs_key = True
        self._to_ask = False
        """Whether something was refused for want of a key frame since one was asked for."""
        self._asked_at: float | None = None
        self._frames = 0

    def need_key(self) -> None:
        """Hand out nothing before the next key frame: what came last cannot be decoded."""
        self._needs_key = self._to_ask = True

    def add(
        self, sequence: int, timestamp: int, starts: bool, ends: bool, data: bytes, now: float
    ) -> tuple[list[VideoFrame], bool]:
        """Take a packet; returns the frames that are whole now, and whether to ask the sender for a key frame.

        Args:
            sequence: RTP sequence number, u16.
            timestamp: RTP timestamp, u32.
            starts: whether a frame starts with this packet (RFC 7741: S is 1, PID is 0).
            ends: whether one ends with it (the marker).
            data: what follows the payload descriptor.
            now: seconds of a monotonic clock.
        """
        if len(data) > MAX_PACKET:
            self.counters.oversized += 1
            return [], False
        place = self._place(sequence)
        if place >= self._due + CAPACITY:
            self._skip(place)
        if place < self._due or place in self._packets:
            self.counters.stale += 1
        else:
            self._packets[place] = _Packet(timestamp, starts, ends, data, now)
        return self._whole(now), self._asks(now)

    def _place(self, sequence: int) -> int:
        """The packet's place in the stream: its sequence number, counted on where that wraps."""
        if self._highest is None:
            self._highest = self._due = sequence
        ahead = (sequence - self._highest + 0x8000) % 0x10000 - 0x8000
        place = self._highest + ahead
        self._highest = max(self._highest, place)
        return place

    def _skip(self, place: int) -> None:
        """Go on at a place, without what should have come before it."""
        self.counters.given_up += 1
        self._packets = {kept: packet for kept, packet in self._packets.items() if kept >= place}
        self._due = place
        self._missing_since = None
        self.need_key()

    def _whole(self, now: float) -> list[VideoFrame]:
        frames = []
        while True:
            run = self._run()
            if run and run[-1].ends:
                for place in range(self._due, self._due + len(run)):
                    del self._packets[place]
                self._due += len(run)
                self._missing_since = None
                if (frame := self._frame(run, now)) is not None:
                    frames.append(frame)
            elif len(run) == len(self._packets):  # the rest of a frame is still to come, or nothing is there
                self._missing_since = None
                return frames
            elif self._missing_since is None or now - self._missing_since <= PATIENCE:
                if self._missing_since is None:
                    self._missing_since = now
                    self.counters.gaps += 1
                return frames
            else:
                end = self._due + len(run)
                later = [place for place, packet in self._packets.items() if place > end and packet.starts]
                assert self._highest is not None
                self._skip(min(later, default=self._highest + 1))

    def _run(self) -> list[_Packet]:
        """The packets from the one that is due on, up to the first that is missing, or with which a frame ends."""
        run = []
        for place in range(self._due, self._due + CAPACITY):
            if (packet := self._packets.get(place)) is None:
                break
            run.append(packet)
            if packet.ends:
                break
        return run

    def _frame(self, run: list[_Packet], now: float) -> VideoFrame | None:
        first = run[0]
        same = sum(1 for _ in takewhile(lambda packet: packet.timestamp == first.timestamp, run))
        if not first.starts or same != len(run):
            # The first packets of a stream may be lost: of its first frame nobody knows what is missing.
            self.counters.malformed += 1
            self.need_key()
            return None
        data = b"".join(packet.data for packet in run)
        key = key_size(data) is not None
        if self._needs_key and not key:
            self.counters.without_key += 1
            self._to_ask = True
            return None
        self._needs_key = self._to_ask = False
        self._frames += 1
        return VideoFrame(first.timestamp, self._frames, key, data, min(packet.at for packet in run), now)

    def _asks(self, now: float) -> bool:
        if not self._to_ask or (self._asked_at is not None and now - self._asked_at < KEY_INTERVAL):
            return False
        self._to_ask, self._asked_at = False, now
        return True
