"""The UE's session, as a program sees it: ``splitrtc.connect`` returns a `UeSession`.

How one connection to the edge comes up is in `pipeline.connection`, what happens to a stream of frames in
`pipeline.run`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipeline.connection import Connection, EmulatedLink
from pipeline.delivery import Show, silently
from pipeline.parts import DeviceParts
from pipeline.reconnect import Backoff, Outages, worth_retrying
from pipeline.run import Lanes, Run
from pipeline.settings import UeSettings
from pipeline.sinks import open_sink
from pipeline.sources import open_source
from signaling import new_resume_id
from splitrtc_errors import BadArgument, ConnectionLost, NoCommonOperatingPoint, Rejected, SplitRtcError

if TYPE_CHECKING:
    from models import ModelCard, TensorSpec
    from pipeline.offers import OperatingPoint
    from pipeline.outcome import FrameResult
    from pipeline.sinks import Sink
    from pipeline.sources import Source
    from pipeline.uplink import Uplink
    from rtc import LinkStatistics

__all__ = ["UeSession"]

logger = logging.getLogger(__name__)


class UeSession:
    """A session with an edge, as an asynchronous context manager.

    ::

        async with UeSession(UeSettings("ws://gpu-box:8787", token="...")) as session:
            async for result in session.run(0):
                print(result.detections)

    Entering connects; it raises Unreachable, NegotiationTimeout, a kind of Rejected, ProtocolError, UnknownModel or
    ModelError. Leaving says goodbye and frees everything: threads, sockets, tasks. One run at a time.

    With ``reconnect`` in the settings, what time may mend is no error: entering waits until the edge is there, and when
    the connection is lost, another one takes its place. A run goes on over that; its frames in between are skipped.
    """

    def __init__(self, settings: UeSettings, *, backoff: Backoff | None = None, show: Show = silently) -> None:
        """``backoff`` says how long to wait before trying to connect again; ``show`` shows how a download goes on."""
        self.settings = settings
        self.counters: Counter[str] = Counter()
        """What came and could not be used, by kind."""
        self.outages = Outages()
        """How often, and how long, the connection was away."""
        self._backoff = backoff or Backoff()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="head")
        self._chores = ThreadPoolExecutor(1, thread_name_prefix="chores")
        self._parts = DeviceParts(settings, self._chores, show)
        self._resume_id = new_resume_id()
        bind = settings.media_bind  # which a link needs, and the settings have seen to
        self._link = EmulatedLink(settings.link, bind) if settings.link is not None and bind is not None else None
        self._lanes = Lanes(
            self._worker, self._chores, settings.budget, reconnect=settings.reconnect, outages=self.outages
        )
        self._connection: Connection | None = None
        self._up: asyncio.Future[None]
        self._keeper: asyncio.Task[None] | None = None
        self._farewells: set[asyncio.Task[None]] = set()
        self._run: Run | None = None
        self._error: Exception | None = None
        self._told: str | None = None
        self._closing: asyncio.Task[None] | None = None

    # The life of the session.

    async def __aenter__(self) -> Self:
        self._up = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(), name="session")
        try:
            await self._up
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Say goodbye and free everything. May be called again, and at any time."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # Shielded, because a close of which half is done could not be resumed.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._run is not None:
            await self._run.aclose()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._fail(ConnectionLost("the session was closed"))
        if self._connection is not None:
            await self._connection.close()
        await asyncio.gather(*self._farewells)
        if self._link is not None:
            await self._link.close()
        await self._parts.close()
        for executor in (self._worker, self._chores):
            # What still runs is waited for without blocking the loop; then its one thread is idle and ends at once.
            await asyncio.get_running_loop().run_in_executor(executor, _nothing)
            executor.shutdown()

    def run(
        self,
        source: str | int | Path | Source | AsyncIterable[Any],
        *,
        sinks: Sequence[str | Path | Sink | Callable[[FrameResult], object]] = (),
        repeat: bool = False,
        every: bool = False,
    ) -> Run:
        """Start on a source; iterate over what this returns.

        Args:
            source: as for `pipeline.sources.open_source`: a camera's index, a path, a URL, an async iterator, ...
            sinks: as for `pipeline.sinks.open_sink`: files, ``"window"``, functions, ...
            repeat: start a file again at its end.
            every: iterate also over the frames that were dropped or lost.

        Raises BadArgument for a source or a sink that cannot be meant, or when another run is not over.
        """
        if self._run is not None and not self._run.over:
            raise BadArgument("a session has one run at a time: close the other one first")
        if self._error is not None:
            raise self._error
        self._run = Run(
            self._lanes,
            open_source(source, fps=self.settings.fps, tensor=_ready_input(self.point.card)),
            [open_sink(sink) for sink in sinks],
            repeat=repeat,
            every=every,
        )
        return self._run

    @property
    def point(self) -> OperatingPoint:
        """The active operating point: model, cut and profile. While there is no connection, the last one's."""
        return self._way.device.point

    @property
    def provider(self) -> str:
        """The execution provider that the head really runs on."""
        return self._way.device.provider

    @property
    def statistics(self) -> LinkStatistics:
        """What the answers so far say about this connection: goodput, network time, loss, age of results."""
        return self._way.statistics

    @property
    def link(self) -> dict[str, Any] | None:
        """What the emulated link has done so far, as plain values; None without one."""
        return None if self._link is None else self._link.to_json()

    def describe(self) -> dict[str, Any]:
        """The session's mode and operating point, as plain values."""
        point = self.point
        return {
            "mode": "split",
            "model": point.card.name,
            "partition": point.cut.name,
            "profile": point.profile,
            "provider": self.provider,
        }

    @property
    def _way(self) -> Uplink:
        if self._connection is None:
            raise BadArgument("the session is not connected: use it as `async with`")
        return self._connection.lane

    # Connecting, and connecting again.

    async def _keep(self) -> None:
        """See to it that there is a connection, until that cannot be."""
        try:
            while True:
                self._connection = connection = await self._connect()
                began = self._came_up(connection)
                await asyncio.wait([connection.ended])
                reason = connection.ended.result()
                self._lanes.current = None
                if not self.settings.reconnect:
                    raise ConnectionLost(reason)
                now = time.monotonic()
                self._backoff.worked(now - began)
                self._went_down(reason, now)
                # Not waited for: an edge that is silent confirms no goodbye, and the next one shall not wait for that.
                farewell = asyncio.create_task(connection.close(), name="farewell")
                self._farewells.add(farewell)
                farewell.add_done_callback(self._farewells.discard)
        except Exception as error:
            self._fail(error)

    async def _connect(self) -> Connection:
        """A new connection; with ``reconnect`` tries until there is one. Each try looks the edge's name up anew."""
        while True:
            connection = Connection(self.settings, self._parts, self._resume_id, self.counters, self._link)
            try:
                await connection.open()
            except SplitRtcError as error:
                if isinstance(error, NoCommonOperatingPoint) and await self._parts.turn_to_edge():
                    continue
                if not self.settings.reconnect or not worth_retrying(error):
                    raise
                delay = self._backoff.delay(error.retry_after if isinstance(error, Rejected) else None)
                self._went_down(str(error), time.monotonic())
            else:
                return connection
            await asyncio.sleep(delay)

    def _came_up(self, connection: Connection) -> float:
        now = time.monotonic()
        self._lanes.current = connection.lane
        self._told = None
        if self._up.done():
            logger.info("connected again after %.1f s", self.outages.end(now))
        else:
            self._up.set_result(None)
        return now

    def _went_down(self, reason: str, now: float) -> None:
        # Once for each new reason: an edge may be away for a night.
        level = logging.DEBUG if reason == self._told else logging.WARNING
        self._told = reason
        logger.log(level, "%s; trying to connect again", reason)
        if self._up.done():
            self.outages.begin(reason, now)

    def _fail(self, error: Exception) -> None:
        """There will be no connection any more."""
        self._lanes.current = None
        self._error = self._error or error
        if not self._up.done():
            self._up.set_exception(error)
        elif self._run is not None:
            self._run.interrupt(error)


def _ready_input(card: ModelCard) -> TensorSpec | None:
    """What a model takes that takes no pictures."""
    return card.image if card.preprocessing is None else None


def _nothing() -> None:
    """What a thread does that shall only be waited for."""
