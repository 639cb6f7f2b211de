"""A session whose edge falls silent, dies, is away, or gives way to another one: the boxes keep coming."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from pipeline.edge import Edge
from pipeline.events import ModeChanged
from pipeline.outcome import FrameResult
from pipeline.reconnect import Backoff
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from signaling import UNAUTHORIZED, Bye, make_problem, rejection
from splitrtc_errors import BadArgument, ConnectionLost, Unauthorized, UnknownModel, Unreachable

WAIT = 20.0
NOBODY = "127.0.0.1:1"

pytestmark = pytest.mark.usefixtures("patient_edges")


class Watched(UeSession):
    """A session that keeps what it tells of its modes."""

    def __init__(self, url: str, **settings: Any) -> None:
        backoff = Backoff(random.Random(1), first=0.02, longest=0.02)
        super().__init__(
            UeSettings(url, **{"mode": "auto", "budget": 10.0, "timeout": WAIT, **settings}), backoff=backoff
        )
        self.told: list[ModeChanged] = []
        self.on_mode = self.told.append

    @property
    def modes(self) -> list[str]:
        return [change.mode for change in self.told]


class Stream:
    """A camera: gives a picture every few milliseconds for as long as it lasts."""

    period = 0.03

    def __init__(self, session: UeSession, feed: Any, picture: np.ndarray, sinks: Any = ()) -> None:
        self.run = session.run(feed, every=True, sinks=sinks)
        self.results: list[FrameResult] = []
        self._tasks = [asyncio.create_task(self._give(feed, picture)), asyncio.create_task(self._take())]

    async def _give(self, feed: Any, picture: np.ndarray) -> None:
        while True:
            feed.give(picture)
            await asyncio.sleep(self.period)

    async def _take(self) -> None:
        async for result in self.run:
            self.results.append(result)

    async def until(self, mode: str, count: int = 3) -> list[FrameResult]:
        """Wait until so many further frames ended in a mode: answered in it, or with nobody to answer."""
        begin, deadline = len(self.results), time.monotonic() + WAIT
        while True:
            found = [r for r in self.results[begin:] if r.mode == mode and r.answered == (mode != "none")]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"no results of mode {mode}: {[r.mode for r in self.results[begin:]]}"
            await asyncio.sleep(0.005)

    async def end(self) -> None:
        """Wait until the run is over."""
        async with asyncio.timeout(WAIT):
            await self._tasks[1]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.run.aclose()


@contextlib.asynccontextmanager
async def streaming(session: UeSession, feed: Any, picture: np.ndarray, sinks: Any = ()) -> AsyncIterator[Stream]:
    stream = Stream(session, feed, picture, sinks)
    try:
        yield stream
    finally:
        await stream.close()


class Answering:
    """Lets a stub of an edge answer every frame, for as long as `quiet` is not set."""

    def __init__(self, stub: Any) -> None:
        self.quiet = False
        self._stub = stub
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            unit = await self._stub.frames.get()
            if not self.quiet:
                self._stub.answer(unit)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@pytest.fixture
async def answering(stub_edge: Any) -> AsyncIterator[Answering]:
    answering = Answering(stub_edge)
    yield answering
    await answering.close()


async def ready(session: UeSession) -> None:
    """Wait until the device could go on alone."""
    assert session._stand_in is not None
    deadline = time.monotonic() + WAIT
    while not await session._stand_in.ready():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_an_edge_that_falls_silent_and_comes_back(
    stub_edge: Any, answering: Answering, make_feed: Any, pictures: list[np.ndarray]
) -> None:
    async with Watched(stub_edge.url) as session:
        await ready(session)
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("split")
            answering.quiet = True
            found = await stream.until("local")
            assert session.outages.reconnects == 0  # the connection still counts as there
            assert session.mode == "local"
            assert found[0].change == session.told[-1]
            assert found[0].change.reason.startswith("no result for ")
            assert session.describe()["partition"] is None
            answering.quiet = False
            await stream.until("split")
            told = stream.run.to_json()
        assert session.modes == ["split", "local", "split"]
        assert [change.reason for change in session.told[::2]] == ["connected", "results come again"]
        assert (told["mode_switches"], set(told["mode_seconds"])) == (2, {"local", "split"})
        assert set(told["frames_by_mode"]) == {"local", "split"}
        assert [change["mode"] for change in told["mode_changes"]] == session.modes
        assert session.point.cut.name == session.describe()["partition"] == "bottleneck_7"


async def test_frames_end_once_over_all_changes(
    stub_edge: Any, answering: Answering, make_feed: Any, pictures: list[np.ndarray]
) -> None:
    async with Watched(stub_edge.url, budget=2.0) as session:
        await ready(session)
        async with streaming(session, make_feed(), pictures[0]) as stream:
            for _ in range(2):
                answering.quiet = False
                await stream.until("split", 1)
                answering.quiet = True
                await stream.until("local", 1)
            await stream.run.stop()
            await stream.end()
        indices = [result.frame.index for result in stream.results]
        assert sorted(indices) == list(range(stream.run.summary.produced))
        assert stream.run.unread == 0


async def test_without_a_fallback_it_is_told_and_what_is_shown_goes_on(
    stub_edge: Any, answering: Answering, make_feed: Any, pictures: list[np.ndarray]
) -> None:
    async with Watched(stub_edge.url, fallback=False, budget=0.2) as session:
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("split")
            answering.quiet = True
            lost = await stream.until("none")
            assert lost[0].change is not None
            assert lost[0].change.text.startswith("waiting for the edge: no result for ")
            assert session.describe()["mode"] == "none"
            answering.quiet = False
            await stream.until("split")
        assert session.modes == ["split", "none", "split"]


async def test_a_start_without_an_edge(
    unused_tcp_port: int, make_feed: Any, pictures: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    async with Watched(f"127.0.0.1:{unused_tcp_port}") as session:
        assert (session.mode, session.modes) == ("local", ["none", "local"])
        with pytest.raises(BadArgument, match="no connection"):
            session.point  # noqa: B018
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("local")
            async with Edge(EdgeSettings(f"127.0.0.1:{unused_tcp_port}", workers=1)) as edge:
                found = await stream.until("split")
                assert found[0].detections is not None
                await edge.close()
                await stream.until("local")
    assert session.modes == ["none", "local", "split", "local"]
    assert "the edge said goodbye" in session.told[-1].reason


async def test_local_needs_no_edge(make_feed: Any, pictures: list[np.ndarray]) -> None:
    async with Watched("", mode="local") as session, streaming(session, make_feed(), pictures[0]) as stream:
        (result, *_) = await stream.until("local")
        assert result.detections is not None
        assert len(result.detections) > 0
        assert session.describe() == {
            "mode": "local",
            "reason": "as asked for",
            "model": "ssdlite_mbv2_coco_300",
            "partition": None,
            "profile": None,
            "variant": None,
            "provider": session.provider,
        }


async def test_what_cannot_be_is_an_error_at_once() -> None:
    for mode in ("local", "auto", "split"):
        with pytest.raises(UnknownModel, match="no such"):
            async with Watched(NOBODY, model="no such", mode=mode, deliver=False):
                pass
    with pytest.raises(Unreachable, match="no model 'no such' in the zoo.*nor can an edge be asked for it"):
        async with Watched(NOBODY, model="no such", mode="split"):
            pass
    with pytest.raises(Unreachable):
        async with Watched(NOBODY, mode="split"):
            pass


async def test_a_session_is_not_described_before_it_is_entered() -> None:
    session = Watched(NOBODY)
    assert session.mode == "none"
    with pytest.raises(BadArgument, match="async with"):
        session.describe()
    await session.close()


@pytest.mark.parametrize("fallback", [True, False])
async def test_a_refusal_that_no_retry_mends(
    stub_edge: Any, make_feed: Any, pictures: list[np.ndarray], fallback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> str:
        raise rejection(make_problem(UNAUTHORIZED))

    async with Watched(stub_edge.url, fallback=fallback) as session:
        if fallback:
            await ready(session)
        async with streaming(session, make_feed(), pictures[0]) as stream:
            monkeypatch.setattr(type(stub_edge), "connect", refuse)
            stub_edge.say(Bye("enough"))
            if fallback:  # the device goes on alone
                await stream.until("local")
            else:
                with pytest.raises(Unauthorized):
                    await stream.run.wait()


async def test_a_stand_in_that_fails_in_a_way_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("pipeline.local.stand_ins", fail)
    with pytest.raises(ZeroDivisionError):
        async with Watched(NOBODY):
            pass


# Several edges.


@pytest.fixture
async def edges() -> AsyncIterator[tuple[Edge, Edge]]:
    settings = EdgeSettings("127.0.0.1:0", workers=1)
    async with Edge(settings) as first, Edge(settings) as second:
        yield first, second


async def test_one_edge_after_the_other_is_tried(
    edges: tuple[Edge, Edge], make_feed: Any, pictures: list[np.ndarray]
) -> None:
    first, second = edges
    async with Watched(NOBODY, edges=(first.url, second.url), mode="split", reconnect=True) as session:
        if second.sessions:  # which one is nearer is a matter of a busy machine
            first, second = second, first
        assert (first.sessions, second.sessions) == (1, 0)
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("split")
            await first.close()
            await stream.until("split")
            assert second.sessions == 1
            assert "none" in session.modes  # for how many frames depends on how soon the other one answers
    with pytest.raises(Unreachable):
        async with Watched(NOBODY, edges=(NOBODY,), mode="split"):
            pass


async def test_a_move_to_another_edge_loses_no_frame(
    edges: tuple[Edge, Edge], make_feed: Any, pictures: list[np.ndarray]
) -> None:
    first, second = edges
    async with Watched(first.url, mode="split") as session:
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("split")
            begin = len(stream.results)
            async with asyncio.timeout(WAIT):
                await session.move(second.url)
            await stream.until("split")
            assert session._connection is not None
            assert session._connection.url == second.url
            # What the device did not come to is no loss: it gives way to a newer frame.
            ended = {(result.status, result.dropped_at) for result in stream.results[begin:]}
            assert ended <= {("ok", None), ("skipped", "slot"), ("skipped", "sender"), ("superseded", "edge")}
            async with asyncio.timeout(WAIT):
                while first.sessions:  # noqa: ASYNC110 - an edge tells nobody
                    await asyncio.sleep(0.005)
        assert session.told[-1].reason == f"moved to {second.url}"
        assert session.modes == ["split", "split"]


async def test_a_move_without_frames(edges: tuple[Edge, Edge], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.keeper.MOVE_PATIENCE", 0.01)
    first, second = edges
    async with Watched(first.url, mode="split") as session:
        await session.move(second.url)
        assert session.told[-1].reason == f"moved to {second.url}"
        assert session._connection is not None
        assert session._connection.url == second.url


async def test_a_move_that_cannot_be_leaves_the_session_where_it_is(
    edge: Edge, make_feed: Any, pictures: list[np.ndarray]
) -> None:
    async with Watched(edge.url, mode="split") as session:
        with pytest.raises(Unreachable):
            await session.move(NOBODY)
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("split")
    with pytest.raises(BadArgument, match="no connection"):
        await session.move(NOBODY)


@pytest.mark.parametrize("which", ["old", "new"])
async def test_an_edge_that_dies_during_a_move(
    edges: tuple[Edge, Edge], make_feed: Any, pictures: list[np.ndarray], which: str
) -> None:
    first, second = edges
    async with Watched(first.url, mode="split", reconnect=True) as session:
        moving = asyncio.create_task(session.move(second.url))  # without frames it takes its time
        async with asyncio.timeout(WAIT):
            while session._keeper._next is None:  # noqa: ASYNC110 - what only the test wants to know
                await asyncio.sleep(0.001)
        await (first if which == "old" else second).close()
        if which == "old":
            await moving
        else:
            with pytest.raises(ConnectionLost, match="the new edge was lost"):
                await moving
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("split")
        assert session._connection is not None
        assert session._connection.url == (second if which == "old" else first).url
        assert session.outages.reconnects == 0
