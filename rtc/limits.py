"""How much a peer may send: a token bucket. Sans-I/O: the time is an argument."""

from __future__ import annotations

__all__ = ["TokenBucket"]


class TokenBucket:
    """Holds ``burst`` tokens at most, begins with as many, and gets ``rate`` new ones per second.

    Over any time t no more than ``burst + rate * t`` tokens are taken. Times are seconds of one clock; one that runs
    backwards brings no tokens and takes none away.
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, tokens: float = 1.0) -> bool:
        """Take so many tokens, or none where there are fewer; whether they were taken."""
        self._fill(now)
        if tokens > self._tokens:
            return False
        self._tokens -= tokens
        return True

    def wait(self, now: float, tokens: float = 1.0) -> float:
        """Seconds until so many tokens, ``burst`` at most, will be there; 0 when they are."""
        self._fill(now)
        return max(0.0, (tokens - self._tokens) / self.rate)

    def is_full(self, now: float) -> bool:
        """Whether the bucket is as a new one would be."""
        self._fill(now)
        return self._tokens >= self.burst

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
