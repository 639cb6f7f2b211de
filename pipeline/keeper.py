"""Keeps a session connected: to an edge, to one again after it was lost, and from one to another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pipeline.reconnect import Backoff, Outages, worth_retrying
from pipeline.survey import order_of_edges
from splitrtc_errors import BadArgument, ConnectionLost, NoCommonOperatingPoint, Rejected, SplitRtcError

if TYPE_CHECKING:
    from pipeline.connection import Connection
    from pipeline.lanes import Lanes
    from pipeline.settings import UeSettings

__all__ = ["Keeper"]

logger = logging.getLogger(__name__)

MOVE_PATIENCE = 2.0
"""Seconds that the edge moved to gets for a first result; then it serves without one: there may be no frames."""

DEPARTURE = 0.2
"""Share of the time which a draining edge gives that its UEs spread their departures over: to connect takes both ends
some 50 ms of computing, in which the frames of others wait."""


class Keeper:
    """Has one connection after the other, and two while it moves. To be used in the thread of the event loop."""

    def __init__(
        self,
        settings: UeSettings,
        connect: Callable[[str], Connection],
        turn_to_edge: Callable[[str], Awaitable[bool]],
        route: Callable[[str], Awaitable[str]],
        lanes: Lanes,
        outages: Outages,
        backoff: Backoff,
        on_up: Callable[[], None],
    ) -> None:
        """Prepare; `run` does it.

        Args:
            settings: which edges there are, and whether to go on trying.
            connect: makes a connection to a URL, not yet open.
            turn_to_edge: called when the edge there takes nothing of what was offered; true: now more can be.
            route: gives the URL under which an edge is reached, when something stands between.
            lanes: get those of the connections, as they come and go.
            outages: are told how long there was none.
            backoff: how long to wait before trying to connect again.
            on_up: called whenever there is one.
        """
        self.connection: Connection | None = None
        """The last one that was open."""
        self.told: str | None = None
        """Why there is no connection; None while there is one, and before the first try has failed."""
        self.tried = asyncio.Event()
        """The first try has succeeded or failed."""
        self._settings = settings
        self._connect = connect
        self._turn_to_edge = turn_to_edge
        self._route = route
        self._lanes = lanes
        self._outages = outages
        self._backoff = backoff
        self._on_up = on_up
        self._next: Connection | None = None
        self._farewells: set[asyncio.Task[None]] = set()
        self._departures: set[asyncio.Task[None]] = set()
        self._free_at: dict[str, float] = {}
        """When edges that asked to be left alone may be asked again, on the monotonic clock."""

    async def run(self) -> None:
        """Connect, and connect again, until that cannot be.

        Raises what no retry can mend, and whatever it is that went wrong where the settings want no retries.
        """
        while True:
            self.connection = await self._open_one()
            began = self._came_up(self.connection)
            connection, reason = await self._lost()
            if not self._settings.keeps_trying:
                raise ConnectionLost(reason)
            for departure in self._departures:
                departure.cancel()  # it would compete with what follows
            now = time.monotonic()
            self._backoff.worked(now - began)
            self._lanes.remove(connection.lane, reason)
            self._went_down(reason, now)
            self._bid_farewell(connection)

    async def close(self) -> None:
        """Close all connections. `run` must have ended before."""
        for departure in self._departures:
            departure.cancel()
        await asyncio.gather(*self._departures, return_exceptions=True)
        for connection in (self.connection, self._next):
            if connection is not None:
                await connection.close()
        await asyncio.gather(*self._farewells)

    async def move(self, url: str, reason: str | None = None) -> None:
        """Go over to another edge, or to another connection to the same one, as `UeSession.move` says."""
        old = self.connection
        if old is None or old.ended.done() or self._next is not None:
            raise BadArgument("there is no connection to move away from, or it moves already")
        new = await self._open(url)
        if self.connection is not old or self._next is not None:
            await new.close()
            raise ConnectionLost("the session went elsewhere meanwhile")
        try:
            if old.ended.done():
                raise ConnectionLost(f"the old edge was lost first: {old.ended.result()}")
            self._next = new
            self._lanes.add(new.lane, reason or f"moved to {url}")
            await self._change_over(old, new)
        except BaseException:
            self._lanes.remove(new.lane, "the move failed")
            if not old.ended.done():
                self._lanes.add(old.lane, "the move failed")
            await new.close()
            raise
        finally:
            self._next = None
        if self.connection is old:
            self._leave(old, new)

    async def _change_over(self, old: Connection, new: Connection) -> None:
        proof = asyncio.create_task(self._lanes.taken_over(new.lane))
        try:
            outcomes: list[asyncio.Future[Any]] = [proof, new.ended]
            await asyncio.wait(outcomes, timeout=MOVE_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            proof.cancel()
        if not new.ended.done():
            self._lanes.promote(new.lane)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.budget):
                    await self._lanes.up_to_date()
                    await old.lane.settle()
        if new.ended.done():
            raise ConnectionLost(f"the new edge was lost: {new.ended.result()}")

    def _leave(self, old: Connection, new: Connection) -> None:
        self.connection = new
        self._mind(new)
        self._lanes.remove(old.lane, old.ended.result() if old.ended.done() else "moved")
        self._bid_farewell(old)

    async def _lost(self) -> tuple[Connection, str]:
        """The connection in use when it is over, and why; not one that was moved away from."""
        while True:
            connection = self.connection
            assert connection is not None
            await asyncio.wait([connection.ended])
            if connection is self.connection:
                if self._next is None or self._next.ended.done():
                    return connection, connection.ended.result()
                self._leave(connection, self._next)

    async def _open_one(self) -> Connection:
        """A new connection to the best edge that grants one; if that may help, tries until one does.

        Each try looks the edge's name up anew. One that asked to be left alone is, until then.
        """
        lost = None if self.connection is None else self.connection.url
        errors: dict[str, SplitRtcError] = {}
        last: SplitRtcError = ConnectionLost("every edge asked to be left alone for a while")
        while True:
            for url in await self._order(lost):
                if self._settings.keeps_trying and self._wait(url):
                    continue
                try:
                    return await self._open(url)
                except SplitRtcError as error:
                    last = errors[url] = error
                    self._note(url, error)
            # One that asked to be left alone, without a try since, may take the session later.
            tried = errors.keys() >= set(self._settings.urls)
            if not self._settings.keeps_trying or (tried and not any(map(worth_retrying, errors.values()))):
                raise last
            delay = self._backoff.delay(min(map(self._wait, self._settings.urls)))
            self._went_down(str(last), time.monotonic())
            await asyncio.sleep(delay)

    async def _order(self, lost: str | None = None) -> list[str]:
        """All edges, the best first."""
        waits = {url: self._wait(url) for url in self._settings.urls}
        return await order_of_edges(self._settings, waits, lost, self._route)

    def _wait(self, url: str) -> float:
        """Seconds for which an edge asked to be left alone, from now."""
        return max(0.0, self._free_at.get(url, 0.0) - time.monotonic())

    def _note(self, url: str, error: SplitRtcError) -> None:
        """Take note of when an edge that refused wants to be asked again."""
        if isinstance(error, Rejected) and error.retry_after is not None:
            self._free_at[url] = time.monotonic() + error.retry_after

    async def _open(self, url: str) -> Connection:
        """A new connection to this edge."""
        while True:
            connection = self._connect(url)
            try:
                await connection.open()
            except NoCommonOperatingPoint:
                if not await self._turn_to_edge(url):
                    raise
            else:
                return connection

    def _came_up(self, connection: Connection) -> float:
        now = time.monotonic()
        reason = "connected"
        if self._outages.reason is not None:
            reason = f"connected again after {self._outages.end(now):.1f} s"
            logger.info("%s", reason)
        self.told = None
        self.tried.set()
        self._lanes.add(connection.lane, reason)
        self._mind(connection)
        self._on_up()
        return now

    # An edge that is to stop.

    def _mind(self, connection: Connection) -> None:
        """Go elsewhere when the edge asks for that."""
        connection.drained.add_done_callback(lambda _: self._on_drained(connection))

    def _on_drained(self, connection: Connection) -> None:
        if connection is self.connection and not connection.ended.done():
            departure = asyncio.create_task(self._depart(connection), name="departure")
            self._departures.add(departure)
            departure.add_done_callback(self._departures.discard)

    async def _depart(self, old: Connection) -> None:
        """Go over to another edge while the old one still answers. Without one, stay until the end."""
        until: float = old.drained.result()
        logger.warning("the edge stops in %.1f s", until - time.monotonic())
        self._free_at[old.url] = until
        if not set(self._settings.urls) - {old.url}:
            return
        await asyncio.sleep(self._backoff.some_of(DEPARTURE * max(0.0, until - time.monotonic())))
        while True:
            for url in await self._order():
                if old is not self.connection or old.ended.done():
                    return
                if self._wait(url) or url == old.url:
                    continue
                try:
                    await self.move(url)
                except SplitRtcError as error:
                    self._note(url, error)
                    logger.warning("no way to %s: %s", url, error)
            if old is not self.connection or old.ended.done():
                return
            await asyncio.sleep(self._backoff.delay())

    def _went_down(self, reason: str, now: float) -> None:
        # Once for each new reason: an edge may be away for a night.
        is_news = reason != self.told
        logger.log(logging.WARNING if is_news else logging.DEBUG, "%s; trying to connect again", reason)
        self.told = reason
        self.tried.set()
        if is_news:
            self._lanes.absent(reason)
        if self.connection is not None:
            self._outages.begin(reason, now)

    def _bid_farewell(self, connection: Connection) -> None:
        # Not waited for: an edge that is silent confirms no goodbye, and the next one shall not wait for that.
        farewell = asyncio.create_task(connection.close(), name="farewell")
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)
