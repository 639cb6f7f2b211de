"""When to try again, how long to wait before, and what is told of it meanwhile. Pure: values and times in and out."""

from __future__ import annotations

import random
from typing import Any

from splitrtc_errors import NetworkError, NoCommonOperatingPoint, Rejected, Unauthorized

__all__ = ["Backoff", "Outages", "worth_retrying"]

FIRST_DELAY = 0.25
"""Seconds before the second try, at most; each further one may take `GROWTH` times as long, up to `LONGEST_DELAY`."""
GROWTH = 1.5
"""So the next try is never further off than the outage has lasted, after the first two."""
LONGEST_DELAY = 8.0
STEADY = 10.0
"""Seconds that something must have worked for its next failure to count as a first one: what comes up and falls over
at once is not tried again at full speed for ever."""


def worth_retrying(error: Exception) -> bool:
    """Whether time may mend why a session did not come up, or ended.

    The network can, and an edge that is full, shutting down or in trouble. A wrong token, a peer that breaks the
    protocol, models that do not match and arguments that cannot be meant stay what they are.
    """
    if isinstance(error, Rejected):
        return not isinstance(error, (Unauthorized, NoCommonOperatingPoint))
    return isinstance(error, NetworkError)


class Backoff:
    """How long to wait before the next try: longer each time, and never as long as the neighbour's.

    The jitter is for the edge: it comes back, and a hundred devices have noticed its loss in the same second.
    """

    def __init__(
        self, rng: random.Random | None = None, *, first: float = FIRST_DELAY, longest: float = LONGEST_DELAY
    ) -> None:
        self._random = rng or random.Random()
        self._first = first
        self._longest = longest
        self._next = first

    def delay(self, at_least: float | None = None) -> float:
        """Seconds to wait now. Between half of the step and the step; ``at_least`` (what the peer asked for) on top."""
        step, self._next = self._next, min(GROWTH * self._next, self._longest)
        return (at_least or 0.0) + step * self._random.uniform(0.5, 1.0)

    def some_of(self, seconds: float) -> float:
        """A random part of this time, by which not all neighbours do at once what they were told together."""
        return seconds * self._random.random()

    def worked(self, seconds: float) -> None:
        """It worked for so long. Begin anew with the shortest delay, when that was long enough."""
        if seconds >= STEADY:
            self._next = self._first


class Outages:
    """The times without a session, after the first one came up. One thread feeds it, others may read."""

    def __init__(self) -> None:
        self.reconnects = 0
        self.reason: str | None = None
        """Why there is no session now; None while there is one."""
        self._since = 0.0
        self._seconds = 0.0

    def begin(self, reason: str, now: float) -> None:
        """The session was lost; or the next one did not come up, for another reason."""
        if self.reason is None:
            self._since = now
        self.reason = reason

    def end(self, now: float) -> float:
        """A session is up again; returns the seconds without one."""
        lasted = now - self._since
        self._seconds += lasted
        self.reconnects += 1
        self.reason = None
        return lasted

    def to_json(self, now: float) -> dict[str, Any]:
        """How often a session came back, the seconds without one so far, and why there is none now."""
        reason = self.reason
        seconds = self._seconds + (now - self._since if reason is not None else 0.0)
        return {"reconnects": self.reconnects, "disconnected_s": round(seconds, 3), "disconnected": reason}
