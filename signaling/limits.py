"""How often one address may come: sans-I/O, the time is an argument."""

from __future__ import annotations

import ipaddress

from rtc.limits import TokenBucket

__all__ = ["CONNECT_BURST", "CONNECT_RATE", "MAX_ADDRESSES", "ConnectLimiter"]

CONNECT_RATE = 20.0
"""WebSockets per second that one address may open in the long run. Many UEs may share an address (NAT, a proxy)."""
CONNECT_BURST = 10.0
"""Seconds of that rate that it may use at once."""
MAX_ADDRESSES = 4_096
"""Addresses that are remembered. One that has been quiet is forgotten first, and nothing is lost by that."""
IPV6_PREFIX = 64
"""Bits: who has one IPv6 address has all of its network."""


class ConnectLimiter:
    """Counts WebSockets by address: ``rate`` per second, after ``CONNECT_BURST`` seconds' worth of them at once."""

    def __init__(self, rate: float = CONNECT_RATE, max_addresses: int = MAX_ADDRESSES) -> None:
        self._rate = rate
        self._max_addresses = max_addresses
        self._buckets: dict[str, TokenBucket] = {}
        """By address, the one that came last at the end."""

    def __len__(self) -> int:
        return len(self._buckets)

    def admit(self, address: str | None, now: float) -> float:
        """Let an address come once more: 0, or the seconds that it has to wait."""
        key = _key(address)
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            self._make_room(now)
            bucket = TokenBucket(self._rate, max(1.0, self._rate * CONNECT_BURST), now)
        self._buckets[key] = bucket
        return 0.0 if bucket.take(now) else bucket.wait(now)

    def _make_room(self, now: float) -> None:
        # From the front, where those are that have not come for longest.
        while self._buckets:
            oldest = next(iter(self._buckets))
            if len(self._buckets) < self._max_addresses and not self._buckets[oldest].is_full(now):
                return
            del self._buckets[oldest]


def _key(address: str | None) -> str:
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
