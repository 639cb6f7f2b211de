"""An edge that is to stop: its UEs go to another one before, and lose nothing by it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from pipeline.edge import RETRY_AFTER, Edge, _Place
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from signaling import Drain
from splitrtc_errors import ConnectionLost, EdgeFull
from tests.pipeline.test_ue_modes import WAIT, Stream, Watched, streaming

pytestmark = pytest.mark.usefixtures("patient_edges")

UNLOST = {("ok", None), ("skipped", "slot"), ("skipped", "sender"), ("superseded", "edge")}
"""What may become of frames that nobody has lost: a device or an edge that is busy takes the newest."""


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.keeper.DEPARTURE", 0.005)
    monkeypatch.setattr(Stream, "period", 0.1)  # two devices and two edges in one event loop


@pytest.fixture
async def edges() -> AsyncIterator[tuple[Edge, Edge]]:
    settings = EdgeSettings("127.0.0.1:0", workers=1)
    async with Edge(settings) as first, Edge(settings) as second:
        yield first, second


def url_of(session: UeSession) -> str | None:
    assert session._connection is not None
    return session._connection.url


def outcomes(stream: Stream) -> set[tuple[str, str | None]]:
    return {(result.status, result.dropped_at) for result in stream.results}


def at_both(session: UeSession, first: Edge, second: Edge) -> tuple[Edge, Edge]:
    """The edge where a session is, and the other one."""
    return (first, second) if url_of(session) == first.url else (second, first)


async def test_ues_go_to_the_other_edge_and_lose_no_frame(
    edges: tuple[Edge, Edge], make_feed: Any, pictures: list[np.ndarray]
) -> None:
    first, second = edges
    async with contextlib.AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(Watched(first.url, edges=(second.url,), mode="split")) for _ in range(2)
        ]
        streams = [
            await stack.enter_async_context(streaming(session, make_feed(), pictures[0])) for session in sessions
        ]
        for session, stream in zip(sessions, streams, strict=True):
            if url_of(session) == second.url:  # the machine was busy with something else when it looked
                await session.move(first.url)
            await stream.until("split")
        async with asyncio.timeout(WAIT):
            await first.drain(WAIT)  # ends when all have left
        assert first.sessions == 0
        for session, stream in zip(sessions, streams, strict=True):
            await stream.until("split")
            assert url_of(session) == second.url
            assert outcomes(stream) <= UNLOST
            assert set(session.modes) == {"split"}
            assert session.outages.reconnects == 0
        assert second.sessions == 2
    assert not [reason for reason in first.outcomes if reason.startswith("sessions_r")]


async def test_an_edge_that_drains_says_so(
    edges: tuple[Edge, Edge], make_feed: Any, pictures: list[np.ndarray]
) -> None:
    first, _ = edges
    async with Watched(first.url, mode="split") as session:
        draining = asyncio.create_task(first.drain(WAIT))
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("split")  # it has nowhere to go, and is served
            assert session._connection is not None
            async with asyncio.timeout(WAIT):
                until = await session._connection.drained
            assert 0 < until - time.monotonic() <= WAIT
            assert first._ready()[1]["status"] == "draining"
            assert (await first._describe()).state == "draining"
            with pytest.raises(EdgeFull, match="takes no new sessions") as refused:
                async with UeSession(UeSettings(first.url)):
                    pass
            assert refused.value.retry_after == RETRY_AFTER
            assert not draining.done()
    async with asyncio.timeout(WAIT):
        await draining  # its only session has said goodbye


async def test_who_has_nowhere_to_go_stays_until_the_end(
    edge: Edge, make_feed: Any, pictures: list[np.ndarray]
) -> None:
    async with Watched(edge.url, mode="split") as session, streaming(session, make_feed(), pictures[0]) as stream:
        await stream.until("split")
        await edge.drain(0.1)
        assert edge.sessions == 1
        await edge.close()
        with pytest.raises(ConnectionLost, match="the edge closes"):
            await stream.run.wait()


async def test_an_edge_that_is_full_is_asked_again_when_it_said(
    edges: tuple[Edge, Edge], make_feed: Any, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.edge.RETRY_AFTER", 1.0)
    first, second = edges
    async with Watched(first.url, edges=(second.url,), mode="split") as session:
        here, there = at_both(session, first, second)
        places = {_Place(None) for _ in range(there.settings.max_sessions)}
        there._places.update(places)
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("split")
            draining = asyncio.create_task(here.drain(WAIT))
            async with asyncio.timeout(WAIT):
                while not there.outcomes["sessions_refused"]:  # noqa: ASYNC110 - an edge tells nobody
                    await asyncio.sleep(0.002)
            asked = time.monotonic()
            there._places.difference_update(places)
            async with asyncio.timeout(WAIT):
                await draining
            assert time.monotonic() - asked >= 0.9
            assert there.outcomes["sessions_refused"] == 1
            await stream.until("split")
            assert outcomes(stream) <= UNLOST


async def test_a_drain_is_heeded_once(
    stub_edge: Any, edge: Edge, make_feed: Any, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def first_come(settings: UeSettings, *_: object) -> list[str]:
        return list(settings.urls)

    monkeypatch.setattr("pipeline.keeper.order_of_edges", first_come)
    monkeypatch.setattr("pipeline.keeper.MOVE_PATIENCE", 0.01)
    async with Watched(stub_edge.url, edges=(edge.url,), mode="split", reconnect=True) as session:
        for within in (60_000, 0, 3_600_000):  # and the same again, contradicting
            stub_edge.say(Drain(within))
        async with asyncio.timeout(WAIT):
            while edge.outcomes["sessions_served"] == 0 or len(session.told) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("split")
        assert session.modes == ["split", "split"]
        assert (edge.outcomes["sessions_served"], session.outages.reconnects) == (1, 0)
        assert session.counters["ignored_control_messages"] == 2


async def test_a_drain_from_a_ue_is_ignored(edge: Edge, make_feed: Any, pictures: list[np.ndarray], until: Any) -> None:
    async with Watched(edge.url, mode="split") as session:
        assert session._connection is not None
        session._connection._say(Drain(0))
        await until(lambda: edge.outcomes["ignored_control_messages"] == 1)
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("split")


async def test_a_session_that_ends_while_it_departs(edges: tuple[Edge, Edge], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = edges
    async with Watched(first.url, edges=(second.url,), mode="split", reconnect=True) as session:
        here, there = at_both(session, first, second)
        assert session._connection is not None
        drained = session._connection.drained
        draining = asyncio.create_task(here.drain(WAIT))
        async with asyncio.timeout(WAIT):
            await drained
        await here.close()  # at once after that
        await draining
        async with asyncio.timeout(WAIT):
            while url_of(session) != there.url:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
    async with asyncio.timeout(WAIT):
        while there.sessions:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
