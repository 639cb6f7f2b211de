"""When to send a heartbeat, and when the other side counts as lost (docs/protocol.md section 3.3). Sans-I/O."""

from __future__ import annotations

__all__ = ["HEARTBEAT", "TIMEOUT", "Liveness"]

HEARTBEAT = 0.5
"""Seconds without sending after which a heartbeat is due."""

TIMEOUT = 2.0
"""Seconds without hearing anything after which the other side counts as lost."""


class Liveness:
    """The life signs of one connection, from its start at `now` on.

    All times are seconds of one monotonic clock. ICE notices a silent peer only after some 30 s, hence this.
    """

    def __init__(self, now: float, timeout: float = TIMEOUT, heartbeat: float = HEARTBEAT) -> None:
        self._timeout = timeout
        self._heartbeat = heartbeat
        self._heard = now
        self._sent = now

    def heard(self, now: float) -> None:
        """Anything arrived."""
        self._heard = now

    def sent(self, now: float) -> None:
        """Something was sent on the unreliable channel (a reliable one may stall, and then proves nothing)."""
        self._sent = now

    def woke(self, now: float) -> None:
        """To be called when the time of `next_event` has come, before looking what it is: the clock may have jumped."""
        if now > self.next_event() + self._heartbeat:
            # It was us who stood still (suspended, or the loop blocked): what the peer sent meanwhile is still unread.
            self._heard = now
        # And no time of the future may keep us from heartbeats, or from noticing silence.
        self._heard = min(self._heard, now)
        self._sent = min(self._sent, now)

    def heartbeat_due(self, now: float) -> bool:
        """Whether a heartbeat should be sent."""
        return now >= self._sent + self._heartbeat

    def lost(self, now: float) -> bool:
        """Whether the other side has been silent for too long."""
        return now >= self._heard + self._timeout

    def next_event(self) -> float:
        """The earliest time at which `heartbeat_due` or `lost` may become true."""
        return min(self._sent + self._heartbeat, self._heard + self._timeout)
