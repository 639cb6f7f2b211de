"""The emulated link of a UE's session: media, signalling and HTTP through one relay (`rtc.relay`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from rtc import RelayThread, parse_link
from signaling import normalise_url

if TYPE_CHECKING:
    from rtc.relay import Side

__all__ = ["EmulatedLink"]

logger = logging.getLogger(__name__)

DEFAULT_PORTS = {"ws": 80, "wss": 443}


class EmulatedLink:
    """Opened when it is first used, it goes on over all connections of the session."""

    def __init__(self, settings: str, bind: str, *, is_pinned: bool = False) -> None:
        """``settings`` are a text for `rtc.parse_link`; ``bind`` is an address that both sides reach.

        ``is_pinned``: certificates are known by their fingerprint, not by the server's name.
        """
        self._settings = settings
        self._bind = bind
        self._is_pinned = is_pinned
        self._relay: RelayThread | None = None
        self._routes: dict[tuple[str, int], tuple[str, int]] = {}
        self._opening = asyncio.Lock()
        self._stack = contextlib.AsyncExitStack()

    async def route(self, url: str) -> str:
        """The URL under which an edge is reached through the link, for signalling and HTTP.

        A certificate that is checked by the server's name would not fit the relay's address: then it is the edge's own
        URL, and only the media go through the link. Raises BadArgument for what is no edge's URL.
        """
        parts = urlsplit(normalise_url(url))
        if parts.scheme == "wss" and not self._is_pinned:
            logger.warning("only the media go through the emulated link: a certificate is checked by name, not pinned")
            return url
        assert parts.hostname is not None
        target = parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]
        async with self._opening:
            if target not in self._routes:
                self._routes[target] = await (await self._open()).forward(*target)
        host, port = self._routes[target]
        return urlunsplit(parts._replace(netloc=f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))

    async def rewrite(self, sdp: str, side: Side) -> str:
        """The description that one side made, with the link in place of all of its addresses."""
        async with self._opening:
            relay = await self._open()
        return await relay.rewrite(sdp, side)

    async def _open(self) -> RelayThread:
        if self._relay is None:
            relay = RelayThread(parse_link(self._settings), self._bind)
            self._relay = await self._stack.enter_async_context(relay)
        return self._relay

    def to_json(self) -> dict[str, Any] | None:
        """What it has done so far, as plain values; None before it was opened."""
        return None if self._relay is None else {"settings": self._settings, **self._relay.to_json()}

    async def close(self) -> None:
        """End it, and what is under way."""
        await self._stack.aclose()
