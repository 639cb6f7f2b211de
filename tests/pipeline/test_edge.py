from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from models import Zoo
from pipeline.announced import fetch_manifest, way_to
from pipeline.edge import RETRY_AFTER, Edge, serve_until_stopped
from pipeline.offers import points, remote_points
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.shelf import Shelf
from pipeline.ue import UeSession
from rtc import Peer
from signaling import SignalingClient, attributes_of, new_resume_id, resume_attribute
from splitrtc_errors import (
    BadArgument,
    ConnectionLost,
    EdgeFull,
    NoCommonOperatingPoint,
    Rejected,
    SinkError,
    Unauthorized,
    Unreachable,
)

WAIT = 20.0
Connect = Callable[[str], AbstractAsyncContextManager[Any]]
Until = Any

pytestmark = pytest.mark.usefixtures("patient_edges")


def ue(url: str, **settings: Any) -> UeSession:
    return UeSession(UeSettings(url, **{"budget": 10.0, "timeout": WAIT, **settings}))


async def get(edge: Edge, path: str) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(edge.url.replace("ws", "http", 1) + path, ssl=not edge.fingerprint) as response,
    ):
        return response.status, await response.json()


async def test_health(edge: Edge) -> None:
    assert (await get(edge, "/healthz"))[0] == 200
    status, body = await get(edge, "/readyz")
    assert status == 200
    assert body["status"] == "ready"
    assert body["sessions"] == 0
    assert body["providers"] == {"ssdlite_mbv2_coco_300": "cpu"} or "cuda" in body["providers"].values()
    async with ue(edge.url):
        assert (await get(edge, "/readyz"))[1]["sessions"] == 1


async def test_a_full_edge_refuses_politely_until_a_slot_is_free(until: Until) -> None:
    async with Edge(EdgeSettings("127.0.0.1:0", max_sessions=1)) as edge:
        async with ue(edge.url):
            with pytest.raises(EdgeFull, match="all 1 sessions are taken") as refused:
                async with ue(edge.url):
                    pass
            assert refused.value.retry_after == RETRY_AFTER
            assert edge.sessions == 1
        await until(lambda: edge.sessions == 0)
        async with ue(edge.url):
            assert edge.sessions == 1
        assert edge.outcomes["sessions_refused"] == 1
        assert edge.outcomes["sessions_served"] == 2


async def test_of_many_that_come_at_once_no_more_get_in_than_there_are_slots() -> None:
    async with Edge(EdgeSettings("127.0.0.1:0", max_sessions=2)) as edge, AsyncExitStack() as stack:
        sessions = [ue(edge.url) for _ in range(5)]
        entered = await asyncio.gather(*map(stack.enter_async_context, sessions), return_exceptions=True)
        assert sum(isinstance(outcome, UeSession) for outcome in entered) == 2
        assert sum(isinstance(outcome, EdgeFull) for outcome in entered) == 3
        assert edge.sessions == 2


@pytest.mark.parametrize("token", [None, "wrong", "secret "])
async def test_without_the_token_nobody_gets_in(token: str | None) -> None:
    async with Edge(EdgeSettings("127.0.0.1:0", token="secret")) as edge:
        with pytest.raises((Unauthorized, BadArgument)):
            async with ue(edge.url, token=token):
                pass
        # Refused before anything was negotiated.
        assert edge.summary() == {"url": edge.url, "sessions": 0}
        async with ue(edge.url, token="secret"):
            pass


async def test_self_signed_certificates_are_pinned() -> None:
    async with Edge(EdgeSettings("127.0.0.1:0", self_signed=True)) as edge:
        assert edge.url.startswith("wss://")
        assert edge.fingerprint is not None
        async with ue(edge.url, fingerprint=edge.fingerprint) as session:
            assert session.point.profile == Zoo().get().default_profile
        for settings in ({"fingerprint": 64 * "0"}, {}):
            with pytest.raises(Unreachable, match="not one to trust"):
                async with ue(edge.url, **settings):
                    pass
        assert edge.outcomes["sessions_served"] == 1


@pytest.mark.parametrize(
    ("change", "aspect"),
    [
        ({"digest": "sha-256:" + 64 * "0"}, "model"),
        ({"partition": 32 * "0"}, "partition"),
        ({"head": "int8"}, "head"),
        ({"profile": "q8-zstd", "calibration": "sha-256:" + 64 * "0"}, "calibration"),
        ({"profile": "h264", "calibration": None}, "profile"),
        ({"direction": "down"}, "direction"),
    ],
)
async def test_without_common_ground_the_edge_lists_what_it_would_take(
    edge: Edge, device: Any, change: dict[str, Any], aspect: str
) -> None:
    offer = replace(device.point.offer(12.5), **change)
    async with Peer(bind="127.0.0.1") as peer, SignalingClient(edge.url) as client:
        with pytest.raises(NoCommonOperatingPoint, match=f"the {aspect} of the preferred offer") as refused:
            await client.connect(await peer.create_offer(attributes_of([offer])))
    acceptable = refused.value.problem["acceptable"]
    assert len(acceptable) == len(points(Zoo())) + len(remote_points(Zoo(), here=True))
    assert device.point.offer(12.5).format() in acceptable
    assert edge.sessions == 0
    assert len(edge._pool) == 1  # the warm one


@pytest.mark.parametrize("offer", ["", "v=0\r\n", "plain"])
async def test_an_offer_that_cannot_be_used_is_refused(edge: Edge, offer: str) -> None:
    if offer == "plain":  # a session description without our channels
        async with Peer(bind="127.0.0.1") as peer:
            whole = await peer.create_offer()
        offer = "\r\n".join(line for line in whole.splitlines() if not line.startswith("a=dcmap")) + "\r\n"
    async with SignalingClient(edge.url) as client:
        with pytest.raises(Rejected):
            await client.connect(offer)
    assert edge.sessions == 0
    assert edge.outcomes["sessions_refused"] <= 1


async def test_an_edge_with_further_models_serves_them_and_frees_them(
    tiny_model: Path, make_feed: Any, until: Until
) -> None:
    async with Edge(EdgeSettings("127.0.0.1:0", models=(tiny_model,))) as edge:
        with pytest.raises(NoCommonOperatingPoint):
            async with Edge(EdgeSettings("127.0.0.1:0")) as other, ue(other.url, model="tiny", models=(tiny_model,)):
                pass
        feed = make_feed()
        assert len(edge._pool) == 2
        async with ue(edge.url, model="tiny", models=(tiny_model,), partition="late") as session:
            assert len(edge._pool) == 3
            feed.give(np.full((4, 4, 3), 255, np.uint8), None)
            async with asyncio.timeout(WAIT):
                (result,) = [result async for result in session.run(feed)]
        assert result.detections is not None
        assert [result.label(index) for index in result.detections.classes] == ["cat", "dog"]
        await until(lambda: len(edge._pool) == 2)


async def test_sessions_that_come_and_go_leave_nothing(
    edge: Edge, make_feed: Any, pictures: list[np.ndarray], resources: Callable[[], Any], back_to: Any, until: Until
) -> None:
    async def visit() -> None:
        feed = make_feed()
        async with ue(edge.url) as session:
            feed.give(pictures[0], None)
            async with asyncio.timeout(WAIT):
                assert [result.status async for result in session.run(feed)] == ["ok"]

    async def gone() -> None:
        await until(lambda: edge.sessions == 0 and not edge._sessions and not edge._server._sessions)

    await visit()
    await gone()
    before = resources()
    for _ in range(4):
        await visit()
    await asyncio.gather(*(visit() for _ in range(6)))
    await gone()
    await back_to(before)
    assert len(edge._pool) == 1
    assert edge.outcomes["ok"] == 11


async def test_closing_ends_all_sessions_and_takes_no_more(
    edge: Edge, connect_stub_ue: Connect, resources: Callable[[], Any]
) -> None:
    url = edge.url
    async with ue(url) as session, connect_stub_ue(url):
        run = session.run("testsrc")
        waiting = asyncio.create_task(edge.wait())
        await asyncio.gather(edge.close(), edge.close())
        await waiting
        assert edge.sessions == 0
        with pytest.raises(ConnectionLost, match="the edge closes"):
            await run.wait()
        with pytest.raises(Unreachable):
            async with ue(url):
                pass
    await edge.close()


@pytest.mark.parametrize("turns", [0, 1, 4, 8, 16, 18, 20, 22, 24])
async def test_an_edge_can_be_closed_at_any_moment_of_a_negotiation(
    turns: int, device: Any, resources: Callable[[], Any], back_to: Any
) -> None:
    before = resources()
    edge = await Edge(EdgeSettings("127.0.0.1:0")).__aenter__()
    async with Peer(bind="127.0.0.1") as peer, SignalingClient(edge.url) as client:
        offer = await peer.create_offer(attributes_of([device.point.offer(30.0)]))
        connecting = asyncio.create_task(client.connect(offer))
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(WAIT / 2):  # less than a peer that never comes is waited for
            await edge.close()
        await asyncio.gather(connecting, return_exceptions=True)
        assert edge.sessions == 0
    await back_to(before)


async def test_a_draining_edge_says_so(edge: Edge, device: Any, until: Until) -> None:
    async with Peer(bind="127.0.0.1") as peer, SignalingClient(edge.url) as client:
        edge._draining = True  # between the signal and the end of the last session
        assert (await get(edge, "/readyz"))[0] == 503
        with pytest.raises(EdgeFull, match="takes no new sessions") as refused:
            await client.connect(await peer.create_offer(attributes_of([device.point.offer(30.0)])))
        assert refused.value.retry_after == RETRY_AFTER


async def test_an_address_that_is_taken(edge: Edge, resources: Callable[[], Any], back_to: Any) -> None:
    before = resources()
    with pytest.raises(BadArgument, match="cannot listen on port"):
        async with Edge(EdgeSettings(edge.url.removeprefix("ws://"))):
            pass
    await back_to(before)


async def test_serving_until_the_signal(tmp_path: Path, until: Until) -> None:
    ready = tmp_path / "ready.json"
    serving = asyncio.create_task(
        serve_until_stopped(EdgeSettings("127.0.0.1:0", self_signed=True, drain_time=0.1), ready)
    )
    await until(ready.exists)
    told = json.loads(ready.read_text(encoding="utf-8"))
    assert told["pid"] == os.getpid()
    async with ue(told["url"], fingerprint=told["fingerprint"]) as session:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(ConnectionLost, match="the edge closes"):
            await session.run("testsrc").wait()
    async with asyncio.timeout(WAIT):
        summary = await serving
    assert summary["url"] == told["url"]
    assert (summary["sessions"], summary["sessions_served"]) == (0, 1)
    assert not ready.exists()


async def test_a_ready_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="cannot write the ready file"):
        await serve_until_stopped(EdgeSettings("127.0.0.1:0"), tmp_path / "nowhere" / "ready.json")


# Who comes back.


def resuming_offer(device: Any, resume_id: str) -> list[tuple[str, str]]:
    return [*attributes_of([device.point.offer(30.0)]), resume_attribute(resume_id)]


async def come(stack: AsyncExitStack, edge: Edge, device: Any, resume_id: str) -> Peer:
    """A UE that has been answered."""
    client = await stack.enter_async_context(SignalingClient(edge.url))
    peer = await stack.enter_async_context(Peer(bind="127.0.0.1"))
    await peer.accept_answer(await client.connect(await peer.create_offer(resuming_offer(device, resume_id))))
    return peer


async def test_a_resume_id_frees_only_the_slot_of_its_own_session(device: Any) -> None:
    async with Edge(EdgeSettings("127.0.0.1:0", max_sessions=2)) as edge, AsyncExitStack() as stack:
        mine, others = new_resume_id(), new_resume_id()
        first = await come(stack, edge, device, mine)
        other = await come(stack, edge, device, others)
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        first.on_closed = ended.set_result
        await first.opened(WAIT)
        with pytest.raises(EdgeFull):
            await come(stack, edge, device, new_resume_id())
        assert (first.closed.is_set(), other.closed.is_set()) == (False, False)
        again = await come(stack, edge, device, mine)
        async with asyncio.timeout(WAIT):
            await ended
            await again.opened(WAIT)
            await other.opened(WAIT)
        assert edge.sessions == 2
        assert edge.outcomes["sessions_replaced"] == 1
        assert edge.outcomes["sessions_refused"] == 1


async def test_an_offer_without_a_resume_id_replaces_nobody(device: Any) -> None:
    async with Edge(EdgeSettings("127.0.0.1:0")) as edge, AsyncExitStack() as stack:
        for _ in range(2):
            client = await stack.enter_async_context(SignalingClient(edge.url))
            peer = await stack.enter_async_context(Peer(bind="127.0.0.1"))
            await client.connect(await peer.create_offer(attributes_of([device.point.offer(30.0)])))
        assert edge.sessions == 2
        assert edge.outcomes["sessions_replaced"] == 0


async def test_a_malformed_resume_id_is_refused(edge: Edge, device: Any) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(Rejected, match="ai-resume: expected 32 lower-case hex digits"):
            await come(stack, edge, device, "me")
    assert edge.sessions == 0


async def test_one_that_comes_twice_at_once_cannot_get_around_the_limit(device: Any) -> None:
    async with Edge(EdgeSettings("127.0.0.1:0", max_sessions=2)) as edge, AsyncExitStack() as stack:
        mine = new_resume_id()
        came = await asyncio.gather(*(come(stack, edge, device, mine) for _ in range(6)), return_exceptions=True)
        assert {type(outcome) for outcome in came} <= {Peer, EdgeFull}
        assert 1 <= edge.sessions <= 2


async def test_who_comes_first_does_not_wait_for_what_others_want(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, stock = threading.Event(), Shelf.stock
    stocked: list[Any] = []

    def slowly(self: Shelf, points: Any) -> None:
        if stocked:
            go_on.wait(WAIT)
        stocked.append(points)
        stock(self, points)

    monkeypatch.setattr(Shelf, "stock", slowly)
    async with Edge(EdgeSettings("127.0.0.1:0", workers=1)) as edge:
        status, told = await get(edge, "/manifest")
        (model,) = told["models"]
        assert (status, told["state"]) == (200, "warming")
        assert "whole_ms" not in model, "nothing is measured yet"
        cut, picture = model["partitions"]  # that needs no file
        assert (cut["name"], picture["name"]) == ("bottleneck_7", "input")
        assert all("head" in variant for variant in cut["variants"])
        assert {p["profile"] for p in cut["profiles"] if "calibration" in p} >= {Zoo().get().default_profile, "q4-zstd"}
        go_on.set()
        manifest = await asyncio.to_thread(fetch_manifest, *way_to(edge.url))
        assert manifest.state == "ready"
        assert [cut.name for cut in manifest.models[0].partitions] == ["bottleneck_7", "bottleneck_12", "input"]
        assert manifest.models[0].whole_ms is not None


async def test_that_models_are_not_followed_any_more_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> bool:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr("pipeline.edge.LOOK_EVERY", 0.0)
    monkeypatch.setattr("pipeline.library.Library.has_changed", fail)
    async with Edge(EdgeSettings("127.0.0.1:0")) as edge:
        assert edge._keeper is not None
        await asyncio.wait([edge._keeper])
        assert edge._ready()[0], "what it serves it goes on serving"
    assert "the models are not followed any more" in caplog.text
    assert "nobody foresaw this" in caplog.text
