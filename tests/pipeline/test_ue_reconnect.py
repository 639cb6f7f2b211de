"""A session that outlives its connections, with real edges that go and come."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from models import Zoo
from pipeline.edge import Edge
from pipeline.frames import Frame
from pipeline.outcome import FrameResult
from pipeline.reconnect import Backoff
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from rtc import intermediate_attributes
from signaling import (
    DRAINING,
    EDGE_FULL,
    NO_COMMON_OPERATING_POINT,
    UNAUTHORIZED,
    Bye,
    make_problem,
    rejection,
    resume_id_of,
)
from splitrtc_errors import ConnectionLost, NoCommonOperatingPoint, SourceError, Unauthorized, UnknownModel

WAIT = 20.0

Until = Any

pytestmark = pytest.mark.usefixtures("patient_edges")


def ue(url: str, **settings: Any) -> UeSession:
    """A session that comes back, and quickly."""
    backoff = Backoff(random.Random(1), first=0.02, longest=0.02)
    return UeSession(
        UeSettings(url, **{"budget": 10.0, "timeout": WAIT, "reconnect": True, **settings}), backoff=backoff
    )


def edge_at(port: int, host: str = "127.0.0.1", **settings: Any) -> Edge:
    return Edge(EdgeSettings(f"{host}:{port}", workers=1, **settings))


async def take(run: Any, count: int = 1) -> list[FrameResult]:
    async with asyncio.timeout(WAIT):
        return [await anext(run) for _ in range(count)]


async def until_answered(run: Any, feed: Any, picture: np.ndarray) -> list[FrameResult]:
    """Give one picture after the other until one is answered; returns how they all ended."""
    ended = []
    while True:
        feed.give(picture)
        ended += await take(run)
        if ended[-1].answered:
            return ended
        await asyncio.sleep(0.005)  # a camera's pictures do not come faster, either


# The edge goes and comes.


async def test_a_run_goes_on_over_an_edge_that_is_restarted(
    unused_tcp_port: int, make_feed: Any, pictures: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    feed, heard = make_feed(), list[FrameResult]()
    async with contextlib.AsyncExitStack() as edges:
        first = await edges.enter_async_context(edge_at(unused_tcp_port))
        async with ue(first.url) as session:
            run = session.run(feed, every=True, sinks=[heard.append])
            results = await until_answered(run, feed, pictures[0])
            before = session.point
            await first.close()
            feed.give(pictures[0])
            (between,) = await take(run)
            assert (between.status, between.dropped_at) == ("skipped", "link")
            assert run.to_json()["disconnected"]
            assert session.point is before
            await edges.enter_async_context(edge_at(unused_tcp_port))
            results += [between, *await until_answered(run, feed, pictures[1])]
            assert results[-1].frame_id == 1  # a session of its own
            assert [result.frame.index for result in results] == list(range(len(results)))
            assert {result.dropped_at for result in results if not result.answered} == {"link"}
            told = run.to_json()
            assert (told["reconnects"], told["disconnected"]) == (1, None)
            assert 0 < told["disconnected_s"] < WAIT
            feed.give(None)
            assert (await run.wait()).produced == len(results) == len(heard)
    messages = [record.getMessage() for record in caplog.records if record.name == "pipeline.keeper"]
    assert messages[0] == "the edge said goodbye: the edge closes; trying to connect again"
    assert "connected again after" in messages[-1]
    # Once for each new reason, not for each try.
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(set(warnings))


async def test_entering_waits_for_an_edge_that_is_not_there_yet(unused_tcp_port: int, until: Until) -> None:
    session = ue(f"ws://127.0.0.1:{unused_tcp_port}")
    entering = asyncio.create_task(session.__aenter__())
    await until(lambda: session._keeper.told is not None)
    async with edge_at(unused_tcp_port):
        async with asyncio.timeout(WAIT):
            await entering
        # That was no outage: there was nothing to lose.
        assert session.outages.to_json(time.monotonic())["reconnects"] == 0
        await session.close()


async def test_the_edges_name_is_looked_up_anew(
    unused_tcp_port: int, make_feed: Any, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ["127.0.0.1"]
    whole = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        return whole(address[0] if host == "edge.test" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    feed = make_feed()
    async with edge_at(unused_tcp_port) as first, edge_at(unused_tcp_port, "127.0.0.2", bind="127.0.0.1") as second:
        async with ue(f"ws://edge.test:{unused_tcp_port}", bind="127.0.0.1") as session:
            run = session.run(feed, every=True)
            await until_answered(run, feed, pictures[0])
            address[0] = "127.0.0.2"
            await first.close()
            await until_answered(run, feed, pictures[0])
            assert (first.sessions, second.sessions) == (0, 1)


async def test_another_operating_point_after_it(
    unused_tcp_port: int, make_feed: Any, pictures: list[np.ndarray]
) -> None:
    feed = make_feed()
    async with contextlib.AsyncExitStack() as edges:
        first = await edges.enter_async_context(edge_at(unused_tcp_port))
        async with ue(first.url) as session:
            run = session.run(feed, every=True)
            await until_answered(run, feed, pictures[0])
            assert session.point.profile == Zoo().get().default_profile
            await first.close()
            await edges.enter_async_context(edge_at(unused_tcp_port, accept=("q8",)))
            await until_answered(run, feed, pictures[0])
            assert session.point.profile == "q8"


async def test_a_session_between_two_connections_takes_runs_and_ends(
    unused_tcp_port: int, make_feed: Any, pictures: list[np.ndarray]
) -> None:
    feed = make_feed()
    async with edge_at(unused_tcp_port) as edge, ue(edge.url) as session:
        await edge.close()
        run = session.run(feed, every=True)
        feed.give(pictures[0], None)
        # No time in which that may have been noticed is promised.
        async with asyncio.timeout(WAIT):
            results = [result async for result in run]
        assert [result.answered for result in results] == [False]


async def test_nothing_is_left_behind_by_connections_that_went(
    make_feed: Any, pictures: list[np.ndarray], resources: Callable[[], Any], back_to: Any, until: Until
) -> None:
    async with edge_at(0) as edge:

        async def four_connections(session: UeSession) -> None:
            feed = make_feed()
            async with session, session.run(feed, every=True) as run:
                for _ in range(4):
                    await until_answered(run, feed, pictures[0])
                    for serving in list(edge._sessions.values()):
                        serving.end("a test")
                    reconnects = session.outages.reconnects
                    await until(lambda known=reconnects: session.outages.reconnects > known)

        await four_connections(ue(edge.url))
        await until(lambda: not edge._sessions and not edge._server._sessions)
        before = resources()
        await four_connections(ue(edge.url))
        await until(lambda: edge.sessions == 0 and not edge._sessions and not edge._server._sessions)
        await back_to(before)


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 20, 40, 80])
async def test_it_can_be_closed_at_any_moment_of_reconnecting(
    edge: Edge, turns: int, resources: Callable[[], Any], back_to: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ue(edge.url):
        pass
    await until(lambda: not edge._sessions and not edge._server._sessions)
    before = resources()
    async with ue(edge.url):
        monkeypatch.setattr("pipeline.edge_session.OPEN_TIMEOUT", 1.0)  # for one that goes before its channels open
        for serving in list(edge._sessions.values()):
            serving.end("a test")
        for _ in range(turns):
            await asyncio.sleep(0.001)  # any moment will do
    await until(lambda: edge.sessions == 0 and not edge._sessions and not edge._server._sessions)
    await back_to(before)


async def test_a_lane_that_is_over_says_so_of_each_frame(edge: Edge, pictures: list[np.ndarray]) -> None:
    async with ue(edge.url) as session:
        assert session._connection is not None
        lane, frame, ended = session._connection.lane, Frame(pictures[0], 0, time.monotonic()), list[FrameResult]()
        coded = await asyncio.to_thread(lane.process, frame)
        lane.end()
        lane.submit(frame, coded, ended.append)
        assert [(result.status, result.dropped_at, result.bytes_sent) for result in ended] == [("skipped", "link", 0)]
        await lane.settle()


# What ends it.


@pytest.mark.parametrize(
    ("problem", "expected"),
    [(UNAUTHORIZED, Unauthorized), (NO_COMMON_OPERATING_POINT, NoCommonOperatingPoint)],
)
async def test_what_no_retry_can_mend_ends_it(
    stub_edge: Any, make_feed: Any, problem: str, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> str:
        raise rejection(make_problem(problem))

    async with ue(stub_edge.url) as session:
        run = session.run(make_feed())
        monkeypatch.setattr(type(stub_edge), "connect", refuse)
        stub_edge.say(Bye("enough"))
        with pytest.raises(expected):
            await take(run)
        with pytest.raises(expected):
            session.run(make_feed())


async def test_a_first_connection_that_cannot_be_is_an_error_at_once(edge: Edge) -> None:
    with pytest.raises(UnknownModel):
        async with ue(edge.url, model="no such"):
            pass


async def test_an_error_that_nobody_foresaw_ends_the_run_with_it(
    stub_edge: Any, make_feed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise ZeroDivisionError("oops")

    async with ue(stub_edge.url) as session:
        run = session.run(make_feed())
        monkeypatch.setattr("pipeline.connection.Connection.open", fail)
        stub_edge.say(Bye("enough"))
        with pytest.raises(ZeroDivisionError):
            await take(run)


@pytest.mark.parametrize("problem", [EDGE_FULL, DRAINING])
async def test_an_edge_that_asks_for_time_gets_it(
    stub_edge: Any, problem: str, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    whole, times = type(stub_edge).connect, list[float]()

    async def refuse_once(self: Any, request: Any) -> str:
        times.append(time.monotonic())
        if len(times) == 2:
            raise rejection(make_problem(problem, retry_after=0.3))
        answer: str = await whole(self, request)
        return answer

    monkeypatch.setattr(type(stub_edge), "connect", refuse_once)
    async with ue(stub_edge.url) as session:
        first = stub_edge.peer
        stub_edge.say(Bye("enough"))
        await until(lambda: session.outages.reconnects == 1)
        await first.close()
    assert len(times) == 3
    assert times[2] - times[1] >= 0.3


# Who comes back takes the place of who he was.


async def test_a_ue_that_comes_back_takes_its_old_place(
    make_feed: Any, pictures: list[np.ndarray], until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, network = make_feed(), asyncio.Event()

    async def say_goodbye_when_there_is_a_network() -> None:
        await network.wait()
        await close()

    async with edge_at(0, max_sessions=1) as edge, ue(edge.url) as session:
        run = session.run(feed, every=True)
        await until_answered(run, feed, pictures[0])
        (old,) = edge._sessions.values()
        # The UE has lost it, and the edge has not noticed: nothing tells it so.
        assert session._connection is not None
        connection = session._connection
        close = connection.close
        monkeypatch.setattr(connection, "close", say_goodbye_when_there_is_a_network)
        connection._end("as if by silence")
        await until(lambda: session.outages.reconnects == 1)
        assert old._over.done()
        assert edge.sessions == 1
        assert edge.outcomes["sessions_replaced"] == 1
        assert edge.outcomes["sessions_refused"] == 0
        await until_answered(run, feed, pictures[0])
        network.set()  # what the old one says now changes nothing
        await until_answered(run, feed, pictures[0])
        assert edge.sessions == session.outages.reconnects == 1


async def test_the_id_is_the_same_over_all_connections_and_another_one_for_another_session(
    stub_edge: Any, until: Until
) -> None:
    def current() -> str | None:
        return resume_id_of(intermediate_attributes(stub_edge.request.offer))

    async with ue(stub_edge.url) as session:
        first, peer = current(), stub_edge.peer
        stub_edge.say(Bye("enough"))
        await until(lambda: session.outages.reconnects == 1)
        assert current() == first is not None
        await peer.close()
    peer = stub_edge.peer
    async with ue(stub_edge.url):
        assert current() != first
        await peer.close()


async def test_the_id_is_in_no_log(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)  # at which libraries show the descriptions that they get
    async with ue(edge.url) as session:
        assert "v=0" in caplog.text
    assert session._resume_id not in caplog.text


# The camera goes and comes.


class Camera:
    """Fails where it is told to; iterating again goes on."""

    def __init__(self, feed: Any) -> None:
        self._feed = feed

    def __aiter__(self) -> AsyncIterator[Any]:
        iterator: AsyncIterator[Any] = self._feed
        return iterator


async def test_a_run_goes_on_over_a_camera_that_fails(edge: Edge, make_feed: Any, pictures: list[np.ndarray]) -> None:
    feed = make_feed()
    async with ue(edge.url) as session:
        run = session.run(Camera(feed), every=True)
        feed.give(pictures[0])
        assert (await take(run))[0].status == "ok"
        feed.give(OSError("unplugged"), pictures[1])
        (result,) = await take(run)
        assert (result.status, result.frame.index) == ("ok", 1)
        assert run.to_json()["source_reopened"] == 1
        feed.give(None)
        await run.wait()


async def test_without_reconnect_either_failure_is_an_error(
    stub_edge: Any, make_feed: Any, pictures: list[np.ndarray]
) -> None:
    feed = make_feed()
    async with ue(stub_edge.url, reconnect=False) as session:
        run = session.run(feed)
        feed.give(pictures[0])
        async with asyncio.timeout(WAIT):
            stub_edge.answer(await stub_edge.frames.get())
        await take(run)
        feed.give(OSError("unplugged"))
        with pytest.raises(SourceError, match="unplugged"):
            await take(run)
        stub_edge.say(Bye("enough"))
        run = session.run(make_feed())
        with pytest.raises(ConnectionLost, match="enough"):
            await take(run)
        assert session.outages.reconnects == 0
