"""The UE's session, as a program sees it: ``splitrtc.connect`` returns a `UeSession`.

How one connection to the edge comes up is in `pipeline.connection`, what happens to a stream of frames in
`pipeline.run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipeline.connection import Connection
from pipeline.deciding import GoAlone, Rates
from pipeline.delivery import Show, silently
from pipeline.emulated_link import EmulatedLink
from pipeline.keeper import Keeper
from pipeline.lanes import Lanes
from pipeline.local import StandIn, load_own
from pipeline.parts import DeviceParts
from pipeline.reconnect import Backoff, Outages
from pipeline.run import Run
from pipeline.settings import UeSettings
from pipeline.sinks import open_sink
from pipeline.sources import open_source
from signaling import new_resume_id
from splitrtc_errors import BadArgument, ConnectionLost, SplitRtcError

if TYPE_CHECKING:
    from models import ModelCard, TensorSpec
    from pipeline.events import ModeChanged
    from pipeline.local import LocalLane
    from pipeline.offers import OperatingPoint
    from pipeline.outcome import FrameResult
    from pipeline.sinks import Sink
    from pipeline.sources import Source
    from pipeline.uplink import Uplink
    from rtc import LinkStatistics

__all__ = ["UeSession"]

logger = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds for which a session waits for an edge before it makes itself ready to go without."""


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

    With mode ``auto`` the device answers them itself in between, with a model that it has at hand (`pipeline.local`);
    entering then waits for the edge or for that model, whichever is there first. With mode ``local`` it always does.
    """

    def __init__(self, settings: UeSettings, *, backoff: Backoff | None = None, show: Show = silently) -> None:
        """``backoff`` says how long to wait before trying to connect again; ``show`` shows how a download goes on."""
        self.settings = settings
        self.counters: Counter[str] = Counter()
        """What came and could not be used, by kind."""
        self.outages = Outages()
        """How often, and how long, the connection was away."""
        self.on_mode: Callable[[ModeChanged], object] = lambda _: None
        """Called, in the event loop, when frames begin to be answered another way."""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="head")
        self._chores = ThreadPoolExecutor(1, thread_name_prefix="chores")
        self._parts = DeviceParts(settings, self._chores, show)
        self._parts.on_better = self._use_better_head
        self._resume_id = new_resume_id()
        bind = settings.media_bind  # which a link needs, and the settings have seen to
        is_pinned = settings.fingerprint is not None
        self._link = (
            EmulatedLink(settings.link, bind, is_pinned=is_pinned)
            if settings.link is not None and bind is not None
            else None
        )
        self._rates = Rates()
        self._lanes = Lanes(
            self._worker,
            self._chores,
            settings.budget,
            reconnect=settings.reconnect,
            outages=self.outages,
            on_change=lambda change: self.on_mode(change),
        )
        self._stand_in = StandIn(settings) if settings.mode == "auto" and settings.fallback else None
        self._keeper = Keeper(
            settings,
            self._connection_to,
            self._turn_to_edge,
            self._route,
            self._lanes,
            self.outages,
            backoff or Backoff(),
            self._came_up,
        )
        self._own: LocalLane | None = None
        self._up: asyncio.Future[None]
        self._tasks: list[asyncio.Task[None]] = []
        self._run: Run | None = None
        self._error: Exception | None = None
        self._closing: asyncio.Task[None] | None = None

    # The life of the session.

    async def __aenter__(self) -> Self:
        self._up = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._keep(), name="session")]
        if self._stand_in is not None:
            self._tasks.append(asyncio.create_task(self._stand_by(self._stand_in), name="stand-in"))
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
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            self._fail(ConnectionLost("the session was closed"))
        self._lanes.stop()
        await self._keeper.close()
        if self._link is not None:
            await self._link.close()
        await self._parts.close()
        executors = [self._worker, self._chores]
        executors += [] if self._stand_in is None else [self._stand_in.executor]
        for executor in executors:
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
            open_source(source, fps=self.settings.fps, tensor=_ready_input(self._card)),
            [open_sink(sink) for sink in sinks],
            repeat=repeat,
            every=every,
        )
        return self._run

    @property
    def mode(self) -> str:
        """How frames are answered now: ``local``, ``split``, ``remote``, or ``none`` while nobody does."""
        return self._lanes.mode

    @property
    def point(self) -> OperatingPoint:
        """The operating point agreed on with the edge: model, cut and profile. Without a connection, the last one's."""
        return self._way.device.point

    @property
    def url(self) -> str | None:
        """Of the edge that the session is connected to, or was last; None as long as there was none."""
        return None if self._connection is None else self._connection.url

    @property
    def provider(self) -> str:
        """The execution provider that the device's part of the model really runs on."""
        return str(self.describe()["provider"])

    @property
    def statistics(self) -> LinkStatistics:
        """What the answers so far say about this connection: goodput, network time, loss, age of results."""
        return self._way.statistics

    @property
    def link(self) -> dict[str, Any] | None:
        """What the emulated link has done so far, as plain values; None without one."""
        return None if self._link is None else self._link.to_json()

    def describe(self) -> dict[str, Any]:
        """The session's mode, why it is in that, and the operating point, as plain values.

        While nobody answers frames, the point is the one of before.
        """
        changes = list(self._lanes.changes)
        point = next((change.point for change in reversed(changes) if change.point is not None), None)
        if point is None:
            raise BadArgument("the session is not connected: use it as `async with`")
        return {"mode": self.mode, "reason": changes[-1].reason, **point}

    async def move(self, url: str) -> None:
        """Go over to another edge, make before break: this one answers until the other has given a first result.

        Frames that are under way are still answered by the old one. Returns when that has been left. Raises what
        connecting raises, BadArgument without a connection, and ConnectionLost; the session is then where it was.
        """
        await self._keeper.move(url)

    @property
    def _connection(self) -> Connection | None:
        return self._keeper.connection

    @property
    def _card(self) -> ModelCard:
        """Of the model that frames are for: the edge's, or, as long as there was none, the device's own."""
        return self._own.card if self._own is not None and self._connection is None else self.point.card

    @property
    def _way(self) -> Uplink:
        if self._connection is None:
            raise BadArgument("the session has no connection to an edge")
        return self._connection.lane

    # Edges, and the device alone.

    async def _keep(self) -> None:
        """See to it that frames are answered, until that cannot be."""
        try:
            if self.settings.mode == "local":
                await self._go_alone(None, "as asked for")
                return
            try:
                await self._keeper.run()
            except GoAlone as decision:
                for stand_by in self._tasks[1:]:
                    stand_by.cancel()  # what it prepares for is not to come
                await self._go_alone(decision.card, str(decision))
        except SplitRtcError as error:
            if not (self._up.done() and self._stand_in is not None and await self._stand_in.ready()):
                self._fail(error)
            else:
                logger.error("%s; the device goes on alone", error)
        except Exception as error:
            self._fail(error)

    async def _go_alone(self, card: ModelCard | None, reason: str) -> None:
        """Without an edge, with the model of this card, or with the one that the settings name."""
        if self._own is None:
            lane = await asyncio.get_running_loop().run_in_executor(self._chores, load_own, self.settings, card)
            self._add_own(lane, reason)

    async def _stand_by(self, stand_in: StandIn) -> None:
        """Get ready to go on without an edge.

        Once the session is up, so that it takes nothing from that; at once, when an edge keeps it waiting.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._keeper.tried.wait()
        try:
            lane = await stand_in.load(None if self._connection is None else self.point.card)
            if lane is None:
                await asyncio.shield(self._up)  # by an edge, which may give its model away
                if (card := await self._parts.whole(self.point.card)) is not None:
                    lane = await stand_in.load(card)
        except Exception as error:
            self._fail(error)
        else:
            if lane is not None:
                self._add_own(lane, self._keeper.told or "no edge yet")

    def _add_own(self, lane: LocalLane, reason: str) -> None:
        self._own = lane
        self._lanes.add_own(lane, reason)
        self._came_up()

    def _connection_to(self, url: str) -> Connection:
        last = self._connection
        resume_id = self._resume_id if last is None else last.resume_id
        settings = self.settings
        if last is not None and not last.ended.done():
            resume_id = new_resume_id()  # beside one that lives, another one must not take its place
            settings = replace(settings, fallback=False)  # nor be decided to be none at all
        return Connection(url, settings, self._parts, resume_id, self.counters, self._link, self._rates)

    def _use_better_head(self) -> None:
        """Run the better head that has arrived, by a second connection to the same edge: make before break.

        Where that cannot be, because the edge is full, the next connection has it.
        """
        connection = self._connection
        if self._closing is not None or connection is None or connection.ended.done():
            return
        if self._link is None:  # which is for one connection at a time
            self._tasks.append(asyncio.create_task(self._change_head(connection.url), name="better head"))

    async def _change_head(self, url: str) -> None:
        try:
            await self._keeper.move(url, "a better head has arrived")
        except SplitRtcError as error:
            logger.debug("the better head waits for the next connection: %s", error)

    async def _route(self, url: str) -> str:
        """The URL under which an edge is reached."""
        return url if self._link is None else await self._link.route(url)

    async def _turn_to_edge(self, url: str) -> bool:
        return await self._parts.turn_to_edge(await self._route(url))

    def _came_up(self) -> None:
        if self._parts.has_better:  # since before there was a connection
            self._use_better_head()
        if not self._up.done():
            self._up.set_result(None)

    def _fail(self, error: Exception) -> None:
        """Frames will not be answered any more."""
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
