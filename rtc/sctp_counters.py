"""What the SCTP transport dropped, and why."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SctpCounters"]


@dataclass(slots=True)
class SctpCounters:
    """What came from the peer and was dropped, and what was given up."""

    malformed: int = 0
    """Packets that break the format, or ask for too much."""
    foreign: int = 0
    """Packets for another association, or of another time of this one."""
    bad_acknowledgements: int = 0
    """SACKs of what was never sent."""
    far_ahead: int = 0
    """DATA chunks too far after the first missing one."""
    no_room: int = 0
    """DATA chunks that would have exceeded what may be held."""
    unknown_stream: int = 0
    """DATA chunks on a stream without a channel."""
    oversized: int = 0
    """Messages longer than what we announce."""
    bad_open: int = 0
    """Requests to open a channel, and answers to such, that make no sense."""
    channels_refused: int = 0
    """Requests to open one channel too many."""
    invalid_text: int = 0
    """Text messages that are not UTF-8."""
    unknown_protocol: int = 0
    """Messages that are neither text nor binary nor about channels."""
    failures: int = 0
    """Exceptions while a chunk was handled, which would have ended the connection."""
    abandoned: int = 0
    """Unreliable chunks given up as lost, by missing acknowledgements or by time."""
    acknowledgements: int = 0
    """SACKs sent."""
