"""What a path can carry, measured by the sender from its acknowledgements. Pure: every time is an argument."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["LinkRate"]


class LinkRate:
    """How fast the narrowest part of the path takes what is sent, from how far apart it lets it through.

    A train is what was sent without a pause by the sender's own choice: a frame at once, or piece by piece as the
    window allowed. The time between its first and its last acknowledgement is what the path took for what lies between.
    Where the window was too small for the path this is less than the path could take, but no less than was sent.
    Times are seconds, sizes bytes.
    """

    PAUSE = 0.005
    """Seconds without sending after which a new train begins."""
    LEAST = 3
    """Chunks after the first acknowledgement of a train without which it says nothing."""
    MOST = 8
    """Chunks after which a train counts, though it may go on."""
    TRAINS = 5
    """Trains of which the second fastest counts: delays that vary make trains longer, and stalls of either machine make
    them longer or shorter."""
    MEMORY = 0.3
    """Seconds for which older trains count, too."""

    def __init__(self) -> None:
        self.rate = math.inf
        """Bytes per second; infinite while that is not known."""
        self._trains: deque[tuple[float, float]] = deque(maxlen=self.TRAINS)  # when its last chunk arrived, its rate
        self._sent_at = 0.0
        self._sending = 0
        self._arriving = 0
        self._chunks = 0
        self._bytes = 0
        self._first = self._last = 0.0

    def sent(self, waited: bool, now: float) -> int:
        """A chunk is sent, which had to wait for the window or not; returns its train's number."""
        if not waited and now - self._sent_at > self.PAUSE:
            self._sending += 1
        self._sent_at = now
        return self._sending

    def acknowledged(self, train: int, chunks: int, size: int, now: float) -> None:
        """So many chunks and bytes arrived, the last of them of this train."""
        if train < self._arriving:
            return  # overtaken
        if train == self._arriving:
            self._chunks, self._bytes, self._last = self._chunks + chunks, self._bytes + size, now
            if self._chunks >= self.MOST:
                self._take()
        else:
            if self._chunks >= self.LEAST:
                self._take()
            self._arriving, self._first = train, now
            self._chunks = self._bytes = 0

    def _take(self) -> None:
        while self._trains and self._trains[0][0] < self._last - self.MEMORY:
            self._trains.popleft()
        self._trains.append((self._last, self._bytes / max(self._last - self._first, 1e-6)))
        self.rate = sorted(rate for _, rate in self._trains)[-2:][0]
        self._first = self._last
        self._chunks = self._bytes = 0
