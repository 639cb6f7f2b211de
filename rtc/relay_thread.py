"""The relay of an emulated link in a thread with an event loop of its own.

In the loop of a peer, the link would be late whenever that peer is at work: two milliseconds for the packets of one
frame. And that loop may be uvloop, whose clock and timers know whole milliseconds alone.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from .link_settings import LinkSettings
from .relay import Relay, Side

__all__ = ["RelayThread"]


class RelayThread:
    """A `Relay` that runs in a thread of its own while the asynchronous context lasts."""

    def __init__(self, settings: LinkSettings, bind: str = "127.0.0.1", *, down: LinkSettings | None = None) -> None:
        """Prepare it; the arguments and errors are those of `Relay`."""
        self._relay = Relay(settings, bind, down=down)
        self._opened: Future[asyncio.AbstractEventLoop] = Future()
        self._ended: Future[None] = Future()
        for future in (self._opened, self._ended):
            future.set_running_or_notify_cancel()  # whoever waits may be cancelled; the thread goes its way
        self._stopping = asyncio.Event()
        # A daemon: no interpreter shall wait for a link whose user has vanished.
        self._thread = threading.Thread(target=self._main, name="link", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        try:
            self._loop = await asyncio.wrap_future(self._opened)
        except asyncio.CancelledError:
            self._opened.add_done_callback(self._stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(self._opened)
        try:
            await asyncio.wrap_future(self._ended)
        finally:
            self._thread.join()  # at its end, so this takes no time

    async def rewrite(self, sdp: str, side: Side) -> str:
        """See `Relay.rewrite`."""
        rewriting = asyncio.run_coroutine_threadsafe(self._rewrite(sdp, side), self._loop)
        return await asyncio.wrap_future(rewriting)

    async def forward(self, host: str, port: int) -> tuple[str, int]:
        """See `Relay.forward`."""
        forwarding = asyncio.run_coroutine_threadsafe(self._relay.forward(host, port), self._loop)
        return await asyncio.wrap_future(forwarding)

    def to_json(self) -> dict[str, Any]:
        """See `Relay.to_json`."""
        return self._relay.to_json()

    async def _rewrite(self, sdp: str, side: Side) -> str:
        return self._relay.rewrite(sdp, side)

    def _stop(self, opened: Future[asyncio.AbstractEventLoop]) -> None:
        if opened.exception() is None:
            opened.result().call_soon_threadsafe(self._stopping.set)

    # In the thread

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._serve())
        finally:
            self._ended.set_result(None)

    async def _serve(self) -> None:
        try:
            await self._relay.__aenter__()
        except Exception as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(asyncio.get_running_loop())
        try:
            await self._stopping.wait()
        finally:
            await self._relay.__aexit__(None, None, None)
