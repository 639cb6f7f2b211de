"""Pictures on their way into a video track, and what became of them, as values."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OutgoingPicture", "SentPicture", "Totals"]


@dataclass(frozen=True, slots=True)
class OutgoingPicture:
    """A picture to be sent: `i420` is its planes Y, U, V, width and height are even.

    `captured` and `expires` are seconds of the track's clock; from `expires` on it is not worth sending.
    """

    frame_id: int
    width: int
    height: int
    i420: bytes
    captured: float
    expires: float


@dataclass(frozen=True, slots=True)
class SentPicture:
    """A picture that has gone out: under which RTP timestamp (u32), in how many packets and bytes of payload.

    `seconds` is the time from when the encoder was free for it until its last packet was sent.
    """

    frame_id: int
    timestamp: int
    packets: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What an RTP sender has sent so far, and the timestamp of the last packet."""

    timestamp: int
    packets: int
    size: int
