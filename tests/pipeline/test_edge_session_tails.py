"""Tails that fail or hang: what that costs, and whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pytest

from pipeline import edge_session
from pipeline.edge import Edge
from pipeline.settings import EdgeSettings
from pipeline.workers import MAX_WRITTEN_OFF
from rtc import Status
from signaling import (
    Bye,
)
from splitrtc_errors import Rejected, TensorError

WAIT = 20.0

Connect = Callable[[str], AbstractAsyncContextManager[Any]]
Until = Any


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What hangs waits for this. Set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


class Tail:
    """Stands in for the run of an edge's tail, which does as before unless told otherwise."""

    def __init__(self, edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
        submodel = next(iter(edge._warm.values())).submodel
        self._run = submodel.run
        self.does: Callable[[], object] | None = None
        self.begun = threading.Semaphore(0)
        monkeypatch.setattr(submodel, "run", self.run)

    def run(self, tensors: Any) -> Any:
        if self.does is not None:
            does = self.does
            self.begun.release()
            does()
        return self._run(tensors)


def raises(error: BaseException) -> Callable[[], object]:
    def does() -> object:
        raise error

    return does


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("of the runtime"), TensorError("not finite")])
async def test_a_tail_that_fails_costs_the_frame(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tail = Tail(edge, monkeypatch)
    async with connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters())
        for does, status in ((raises(error), Status.ERROR), (None, Status.OK), (raises(error), Status.ERROR)):
            tail.does = does
            ue.send(ue.units(pictures[0]))
            result = await ue.result()
            assert (result.status, bool(result.output)) == (status, status is Status.OK)


async def test_a_session_in_which_every_frame_fails_is_ended(
    edge: Edge, connect_stub_ue: Connect, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_session, "MAX_ERRORS", 3)
    tail = Tail(edge, monkeypatch)
    async with connect_stub_ue(edge.url) as ue, connect_stub_ue(edge.url) as neighbour:
        for session in (ue, neighbour):
            await session.announce(session.parameters())
        for fails in (True, True, False, True, True, True):  # one that is computed between them makes all good
            tail.does = raises(MemoryError()) if fails else None
            ue.send(ue.units(pictures[0]))
            assert (await ue.result()).status is (Status.ERROR if fails else Status.OK)
        assert await ue.message() == Bye("3 frames in a row failed")
        tail.does = None
        neighbour.send(neighbour.units(pictures[0]))
        assert (await neighbour.result()).status is Status.OK
        assert edge.sessions == 1


async def test_a_tail_that_hangs_costs_the_session_and_not_the_service(
    connect_stub_ue: Connect,
    pictures: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    stuck: threading.Event,
    until: Until,
) -> None:
    async with Edge(EdgeSettings("127.0.0.1:0", workers=1, time_limit=0.3)) as edge:
        tail = Tail(edge, monkeypatch)
        for hanging in range(1, MAX_WRITTEN_OFF + 1):
            async with connect_stub_ue(edge.url) as ue, connect_stub_ue(edge.url) as neighbour:
                for session in (ue, neighbour):
                    await session.announce(session.parameters())
                tail.does = stuck.wait
                ue.send(ue.units(pictures[0]))
                assert await asyncio.to_thread(tail.begun.acquire, timeout=WAIT)
                tail.does = None
                neighbour.send(neighbour.units(pictures[0]))  # the only worker is taken: it waits for another
                assert await ue.message() == Bye("the computation of a frame took longer than 0.3 s")
                assert (await neighbour.result()).status is Status.OK
                await until(lambda: edge.sessions == 1)
            ready, details = edge._ready()
            assert ready is (hanging < MAX_WRITTEN_OFF)
            assert details["hanging_threads"] == hanging
        assert edge._ready()[1]["status"] == "hanging"
        with pytest.raises(Rejected, match="its computations hang"):
            async with connect_stub_ue(edge.url):
                pass
        stuck.set()
        await until(lambda: edge._ready()[0])
        async with connect_stub_ue(edge.url) as ue:
            await ue.announce(ue.parameters())
            ue.send(ue.units(pictures[0]))
            assert (await ue.result()).status is Status.OK


async def test_an_edge_closes_although_a_tail_hangs(
    connect_stub_ue: Connect, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, stuck: threading.Event
) -> None:
    edge = await Edge(EdgeSettings("127.0.0.1:0", workers=1, time_limit=0.3)).__aenter__()
    tail = Tail(edge, monkeypatch)
    async with connect_stub_ue(edge.url) as ue:
        await ue.announce(ue.parameters())
        tail.does = stuck.wait
        ue.send(ue.units(pictures[0]))
        assert await asyncio.to_thread(tail.begun.acquire, timeout=WAIT)
        async with asyncio.timeout(WAIT):
            await edge.close()
        assert await ue.message() == Bye("the edge closes")
