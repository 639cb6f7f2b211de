"""A short look at an edge over HTTP before one goes there: how far it is, and what its manifest says."""

from __future__ import annotations

import time
from pathlib import Path

import aiohttp

from signaling.client import http_url, trusted
from signaling.manifest import MAX_BYTES, Manifest, read_manifest
from splitrtc_errors import ProtocolError, SplitRtcError, Unreachable

__all__ = ["Inquiry"]


class Inquiry:
    """What is found out about one edge. It is there as soon as it is known: `run` may be cancelled at any time."""

    def __init__(
        self, url: str, *, token: str | None = None, ca: str | Path | None = None, fingerprint: str | None = None
    ) -> None:
        """The arguments are those of `signaling.SignalingClient`; BadArgument for what is no edge's URL."""
        self.rtt: float | None = None
        """Seconds of a small request on a connection that is there; None while the edge has not answered."""
        self.manifest: Manifest | None = None
        self._base = http_url(url)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._ssl = trusted(None, ca, fingerprint)

    async def run(self) -> None:
        """Ask. Raises Unreachable, or ProtocolError for a manifest that cannot be read."""
        try:
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
                await self._get(http, "/healthz", MAX_HEALTH)  # opens the connection
                started = time.monotonic()
                await self._get(http, "/healthz", MAX_HEALTH)
                self.rtt = time.monotonic() - started
                self.manifest = read_manifest(await self._get(http, "/manifest", MAX_BYTES))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, SplitRtcError):
                raise
            raise Unreachable(f"no answer from {self._base}: {type(error).__name__}") from error

    async def _get(self, http: aiohttp.ClientSession, path: str, limit: int) -> bytes:
        url = self._base + path
        async with http.get(url, headers=self._headers, ssl=self._ssl, allow_redirects=False) as response:
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > limit:
                    raise ProtocolError(f"{path} is larger than {limit} bytes")
            if response.status != 200:
                raise Unreachable(f"no answer from {url}: HTTP status {response.status}")
            return bytes(data)


MAX_HEALTH = 4_096
"""Bytes."""
