"""Sessions of devices that have no files: what arrives while they run is used while they run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.cache import CACHE_VARIABLE
from pipeline.edge import Edge
from pipeline.settings import EdgeSettings
from tests.pipeline.test_ue_modes import Watched, streaming

pytestmark = pytest.mark.usefixtures("patient_edges", "_at_once")

ENDED = {("ok", None), ("skipped", "slot"), ("skipped", "sender"), ("superseded", "edge")}
"""How frames end of which none is lost."""


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fetched slowly comes soon."""
    monkeypatch.setattr("pipeline.delivery.SLOWLY", 2**24)


def cold(url: str, **settings: Any) -> Watched:
    return Watched(url, **{"bundled": False, "mode": "split", "profile": "q4-zstd", **settings})


@pytest.fixture
def device_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives devices an empty cache; edges that run already keep theirs."""
    return lambda: monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "device"))


async def test_a_better_head_is_used_as_soon_as_it_is_here(
    edge: Edge, device_cache: Any, make_feed: Any, pictures: list[np.ndarray], until: Any
) -> None:
    device_cache()
    async with cold(edge.url) as session:
        assert session.describe()["variant"] == "fp16"
        first = session._connection
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await until(lambda: session._connection is not first)
            await stream.until("split")
            assert {(result.status, result.dropped_at) for result in stream.results} <= ENDED
            await until(lambda: edge.sessions == 1)
        assert session.describe()["variant"] == "fp32"
        points = [change.point for change in session.told]
        assert [point["variant"] for point in points if point] == ["fp16", "fp32"]
        assert session.told[-1].reason == "a better head has arrived"
        assert edge.outcomes["sessions_replaced"] == 0
        assert session.outages.reconnects == 0


async def test_a_full_edge_keeps_its_session_until_the_next_connection(
    device_cache: Any, make_feed: Any, pictures: list[np.ndarray], until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "pipeline.ue")
    async with Edge(EdgeSettings("127.0.0.1:0", workers=1, max_sessions=1)) as edge:
        device_cache()
        async with cold(edge.url, reconnect=True) as session:
            await until(lambda: "waits for the next connection" in caplog.text)
            async with streaming(session, make_feed(), pictures[0]) as stream:
                await stream.until("split")
                assert session.describe()["variant"] == "fp16"
                (running,) = edge._sessions.values()
                running.end("enough")
                await until(lambda: session.outages.reconnects == 1)
                await stream.until("split")
                assert session.describe()["variant"] == "fp32"


async def test_a_session_that_has_moved_is_known_again(
    edge: Edge, device_cache: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.keeper.MOVE_PATIENCE", 0.01)
    device_cache()
    async with cold(edge.url, reconnect=True) as session:
        await until(lambda: session.describe()["variant"] == "fp32" and edge.sessions == 1)
        assert session._connection is not None
        moved = session._connection.resume_id
        assert moved != session._resume_id
        assert session._connection_to(edge.url).resume_id not in (moved, session._resume_id)
        session._connection._end("lost, as the device sees it")
        await until(lambda: session.outages.reconnects == 1)
        assert session._connection.resume_id == moved


@pytest.fixture
async def generous(tiny_model: Path) -> AsyncIterator[Edge]:
    """An edge whose one model may leave as a whole."""
    path = tiny_model / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "deliver": "whole"}), encoding="utf-8")
    async with Edge(EdgeSettings("127.0.0.1:0", models=(tiny_model,), model=("tiny",), workers=1)) as running:
        yield running


async def test_a_device_without_files_goes_on_with_the_whole_model_that_it_was_given(
    generous: Edge, device_cache: Any, make_feed: Any, pictures: list[np.ndarray], until: Any
) -> None:
    device_cache()
    async with cold(generous.url, mode="auto", profile="raw") as session:
        assert session.mode == "split"
        await until(lambda: session._own is not None)
        async with streaming(session, make_feed(), pictures[0]) as stream:
            await stream.until("split")
            await generous.close()
            (result, *_) = await stream.until("local")
            assert result.labels == ("cat", "dog")


async def test_what_may_not_leave_does_not(edge: Edge, device_cache: Any, tmp_path: Path, until: Any) -> None:
    device_cache()
    async with cold(edge.url, mode="auto") as session:
        await until(lambda: session._tasks[1].done())
        assert session._own is None
    assert all(path.name.startswith("head-") for path in (tmp_path / "device").rglob("*.onnx"))


@pytest.mark.parametrize("decide", ["ue", "network"])
async def test_a_device_without_files_gets_the_head_that_was_decided_on(
    edge: Edge, device_cache: Any, tmp_path: Path, decide: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.delivery.Delivery.begin_to_improve", lambda *_: None)
    device_cache()
    async with cold(edge.url, decide=decide, prefer="bottleneck_12", timeout=60.0) as session:
        assert session.point.cut.name == "bottleneck_12"
        heads = [path.parent.name for path in (tmp_path / "device").rglob("*.onnx")]
        assert heads
        assert all(name.startswith(session.point.partition) for name in heads), "no other"
