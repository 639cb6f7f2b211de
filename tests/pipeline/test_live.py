from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from pipeline.edge import Edge
from pipeline.live import play
from pipeline.settings import UeSettings
from signaling import Bye, ParameterSet
from splitrtc_errors import ConnectionLost, SinkError

WAIT = 20.0


def settings(edge: Edge, **changes: Any) -> UeSettings:
    return UeSettings(edge.url, **{"budget": 10.0, "timeout": WAIT, **changes})


async def test_a_run_is_summed_up(edge: Edge, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    summary = await play(settings(edge), "testsrc", sinks=[str(lines)], seconds=0.5, repeat=False, table=False)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["mode"], summary["partition"], summary["source"]) == ("split", "bottleneck_7", "testsrc")
    assert 0 < summary["connect_s"] < WAIT
    assert 0 < summary["frames_answered"] <= summary["frames_produced"] == sum(summary["outcomes"].values())
    assert summary["sinks"][str(lines)] == {"written": summary["frames_produced"], "dropped": 0, "error": None}
    assert "link" not in summary
    seen = summary["link_statistics"]
    assert seen["frames_answered"] >= summary["frames_answered"]
    assert seen["goodput"] > 0
    assert 0 < seen["network_p50"] < seen["age_p50"] < WAIT
    assert edge.sessions == 0


async def test_a_run_over_an_emulated_link(edge: Edge) -> None:
    link = "rtt=50"
    summary = await play(settings(edge, link=link), "testsrc", sinks=[], seconds=0.5, repeat=False, table=False)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    carried = summary["link"]
    assert carried["settings"] == link
    # All of it went that way, and took its time.
    assert carried["up"]["delivered_bytes"] > summary["bytes_per_frame"] * summary["frames_answered"] > 0
    assert carried["down"]["delivered_bytes"] > 0
    assert summary["link_statistics"]["network_p50"] >= 0.049


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_run_as_its_source_would(
    edge: Edge, tmp_path: Path, until: Any, number: signal.Signals
) -> None:
    lines = tmp_path / "out.jsonl"
    playing = asyncio.create_task(
        play(settings(edge), "testsrc", sinks=[str(lines)], seconds=None, repeat=False, table=True)
    )
    await until(lambda: lines.exists() and lines.stat().st_size > 0)
    os.kill(os.getpid(), number)
    async with asyncio.timeout(WAIT):
        summary = await playing
    assert len(lines.read_text(encoding="utf-8").splitlines()) == summary["frames_produced"]
    # The signal means again what it meant before.
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_while_it_connects_ends_it_with_a_goodbye(
    stub_edge: Any, until: Any, number: signal.Signals
) -> None:
    stub_edge.reply = lambda _: None  # which is waited for
    asked = UeSettings(stub_edge.url, timeout=WAIT)
    playing = asyncio.create_task(_status(play(asked, "testsrc", sinks=[], seconds=None, repeat=False, table=False)))
    await until(lambda: stub_edge.sets)
    os.kill(os.getpid(), number)
    async with asyncio.timeout(WAIT):
        assert await playing == 128 + number
        assert isinstance(await stub_edge.control.get(), ParameterSet)
        assert isinstance(await stub_edge.control.get(), Bye)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_signal_ends_the_waiting_for_an_edge(unused_tcp_port: int, caplog: pytest.LogCaptureFixture) -> None:
    asked = UeSettings(f"127.0.0.1:{unused_tcp_port}", reconnect=True)
    playing = asyncio.create_task(_status(play(asked, "testsrc", sinks=[], seconds=None, repeat=False, table=False)))
    async with asyncio.timeout(WAIT):
        while "trying to connect again" not in caplog.text:  # noqa: ASYNC110 - a log tells nobody
            await asyncio.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await playing == 128 + signal.SIGTERM


async def test_to_cancel_it_while_it_connects_is_no_signal(stub_edge: Any, until: Any) -> None:
    stub_edge.reply = lambda _: None
    asked = UeSettings(stub_edge.url, timeout=WAIT)
    playing = asyncio.create_task(play(asked, "testsrc", sinks=[], seconds=None, repeat=False, table=False))
    await until(lambda: stub_edge.sets)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing


async def _status(playing: Coroutine[Any, Any, object]) -> object:
    """The exit status with which it leaves, which would end the event loop of a test."""
    try:
        return await playing
    except SystemExit as left:
        return left.code


async def test_a_sink_that_cannot_be_opened_ends_it(edge: Edge, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="cannot write"):
        await play(
            settings(edge), "clip", sinks=[str(tmp_path / "no" / "out.jsonl")], seconds=None, repeat=False, table=False
        )


async def test_the_loss_of_the_edge_ends_it(edge: Edge, tmp_path: Path, until: Any) -> None:
    lines = tmp_path / "out.jsonl"
    playing = asyncio.create_task(
        play(settings(edge), "testsrc", sinks=[str(lines)], seconds=60.0, repeat=False, table=False)
    )
    await until(lambda: lines.exists() and lines.stat().st_size > 0)
    started = time.monotonic()
    await edge.close()
    with pytest.raises(ConnectionLost, match="the edge closes"):
        await playing
    assert time.monotonic() - started < WAIT
