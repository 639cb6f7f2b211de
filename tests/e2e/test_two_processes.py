"""A UE and an edge as two real processes, and everything that may happen between them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import PartitionStore, Zoo
from models.cache import CACHE_VARIABLE
from pipeline.offers import points, remote_points
from pipeline.settings import UeSettings
from pipeline.ue import UeSession
from rtc import Peer
from signaling import SignalingClient, attributes_of
from splitrtc_errors import (
    ConnectionLost,
    EdgeFull,
    NoCommonOperatingPoint,
    Unauthorized,
    Unreachable,
)

pytestmark = pytest.mark.e2e

SHORT = ("--source", "testsrc", "--seconds", "0.4")


def one_line(errors: str) -> str:
    """The error message of a command, which is a single line after whatever was logged."""
    lines = [line for line in errors.splitlines() if line.startswith("splitrtc: ")]
    assert len(lines) == 1, errors
    assert "Traceback" not in errors
    return lines[0]


def session(url: str, **settings: Any) -> UeSession:
    """A session of this process, whose results are in time on any machine."""
    return UeSession(UeSettings(url, **{"budget": 10.0, "timeout": 20.0, **settings}))


def test_a_clean_run(start_edge: Any, run_ue: Any, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    with start_edge() as edge:
        code, summary, errors = run_ue(edge.url, *SHORT, "--budget", "10", "--sink", str(lines))
        assert code == 0
        assert "Traceback" not in errors
        assert edge.sessions == 0
        edge_code, edge_summary, edge_errors = edge.terminate()
    assert edge_code == 0
    assert "Traceback" not in edge_errors
    assert not edge.ready_file.exists()
    assert 0 < summary["frames_answered"] <= summary["frames_produced"] == sum(summary["outcomes"].values())
    # Both sides tell the same story.
    assert (edge_summary["sessions"], edge_summary["sessions_served"]) == (0, 1)
    assert edge_summary["ok"] == summary["outcomes"]["ok"]
    frames = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert sorted(frame["index"] for frame in frames) == list(range(summary["frames_produced"]))


def test_a_full_edge(start_edge: Any, start_ue: Any, run_ue: Any, until: Any) -> None:
    with start_edge("--max-sessions", "1") as edge:
        with start_ue(edge.url, "--source", "testsrc", "--fps", "5") as first:
            until(lambda: edge.sessions == 1)
            code, summary, errors = run_ue(edge.url, *SHORT)
            assert code == EdgeFull.exit_code
            assert summary == {}
            assert "try again in 5 s" in one_line(errors)
            first.send_signal(signal.SIGINT)
            assert json.loads(first.communicate(timeout=60)[0].splitlines()[-1])["frames_answered"] > 0
            assert first.returncode == 0
        until(lambda: edge.sessions == 0)
        assert run_ue(edge.url, *SHORT)[0] == 0
        _, edge_summary, _ = edge.terminate()
        assert (edge_summary["sessions_served"], edge_summary["sessions_refused"]) == (2, 1)


def test_only_with_the_token(start_edge: Any, run_ue: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n", encoding="utf-8")
    right = ("--token-file", str(tmp_path / "token"))
    with start_edge(*right) as edge:
        for token in ([], ["--token", "wrong"]):
            code, _, errors = run_ue(edge.url, *SHORT, *token)
            assert code == Unauthorized.exit_code
            assert "token" in one_line(errors)
        assert run_ue(edge.url, *SHORT, *right)[0] == 0
        _, edge_summary, edge_errors = edge.terminate()
        # With the two others nothing was negotiated, let alone sent.
        assert edge_summary["sessions_served"] == 1
        assert "sessions_refused" not in edge_summary
        assert "secret" not in edge_errors


async def test_no_common_model(start_edge: Any, run_ue: Any, tiny_model: Path) -> None:
    with start_edge() as edge:
        offer = ("--models", str(tiny_model), "--model", "tiny")
        code, _, errors = await asyncio.to_thread(run_ue, edge.url, *SHORT, *offer)
        assert code == NoCommonOperatingPoint.exit_code
        assert "the model of the preferred offer is not served here" in one_line(errors)
        assert "; it would accept ssdlite_mbv2_coco_300/" in one_line(errors)
        with pytest.raises(NoCommonOperatingPoint) as refused:
            async with session(edge.url, models=(tiny_model,), model="tiny"):
                pass
        acceptable = refused.value.problem["acceptable"]
        assert len(acceptable) == len(points(Zoo())) + len(remote_points(Zoo(), here=True))
        assert all(line.startswith("model=ssdlite_mbv2_coco_300;digest=sha-256:") for line in acceptable)
        assert edge.sessions == 0


def test_a_further_model_that_both_have(start_edge: Any, run_ue: Any, tiny_model: Path) -> None:
    models = ("--models", str(tiny_model))
    with start_edge(*models) as edge:
        code, summary, _ = run_ue(edge.url, *SHORT, *models, "--model", "tiny", "--profile", "raw-zstd")
        assert (code, summary["model"], summary["partition"], summary["profile"]) == (0, "tiny", "early", "raw-zstd")
        assert summary["frames_answered"] > 0


async def test_a_model_that_hangs_while_it_loads_holds_up_nobody(
    start_edge: Any, run_ue: Any, until: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))  # one of its own, as it is spoilt
    (point,) = points(Zoo((tiny_model,)), model="tiny", partition="late", profile="raw")
    with start_edge("--models", str(tiny_model)) as edge:
        file = PartitionStore().get(point.card, point.cut.tensors).tail_path
        file.unlink()
        os.mkfifo(file)  # who opens it waits for a writer
        async with SignalingClient(edge.url) as signaling, Peer(bind="127.0.0.1") as peer:
            offer = await peer.create_offer(attributes_of([point.offer(30.0)]))
            hanging = asyncio.create_task(signaling.connect(offer))
            await asyncio.to_thread(until, lambda: edge.sessions == 1)
            for cut in ("bottleneck_7", "bottleneck_12"):  # of which the edge has one already, and loads the other
                run = partial(run_ue, edge.url, *SHORT, "--partition", cut)
                code, summary, _ = await asyncio.to_thread(run)
                assert (code, summary["partition"]) == (0, cut)
            assert not hanging.done()
            hanging.cancel()
        await asyncio.to_thread(until, lambda: edge.sessions == 0)  # whoever waited is gone


async def test_ten_sessions_come_and_go(start_edge: Any, until: Any) -> None:
    async def visit(url: str) -> None:
        async with session(url) as visitor:
            answered = 0
            async for _ in visitor.run("clip"):
                answered += 1
                if answered == 2:
                    break

    async def five_visits(url: str) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(visit(url))

    with start_edge("--workers", "2") as edge:
        # What comes once and stays: threads, the allocators' caches.
        await five_visits(edge.url)
        until(lambda: edge.sessions == 0)
        before = edge.holds
        for _ in range(2):
            await five_visits(edge.url)
        until(lambda: edge.sessions == 0)
        until(lambda: edge.holds["files"] <= before["files"])
        after = edge.holds
        assert after["threads"] == before["threads"]
        assert after["memory"] <= before["memory"] + 10
        _, summary, _ = edge.terminate()
        assert (summary["sessions"], summary["sessions_served"]) == (0, 15)


def test_the_edge_is_terminated(start_edge: Any, start_ue: Any, until: Any, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    with (
        start_edge("--drain-time", "0") as edge,
        start_ue(edge.url, "--source", "testsrc", "--sink", str(lines)) as ue,
    ):
        until(lambda: lines.exists() and lines.stat().st_size > 0)
        code, summary, edge_errors = edge.terminate()
        written, errors = ue.communicate(timeout=60)
        assert code == 0
        assert (summary["sessions"], summary["sessions_served"]) == (0, 1)
        assert summary["ok"] > 0
        assert "Traceback" not in edge_errors
        assert ue.returncode == ConnectionLost.exit_code
        assert "the edge closes" in one_line(errors)
        assert written == ""
        assert lines.read_text(encoding="utf-8").endswith("\n")


def test_a_second_signal_forces_the_end(start_edge: Any, start_ue: Any, until: Any, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    with start_edge() as edge, start_ue(edge.url, "--source", "testsrc", "--sink", str(lines)) as ue:
        until(lambda: lines.exists() and lines.stat().st_size > 0)
        ue.send_signal(signal.SIGSTOP)  # now it confirms nothing, and the edge gives it some seconds
        edge.process.send_signal(signal.SIGTERM)
        until(lambda: not edge.ready_file.exists())
        edge.process.send_signal(signal.SIGTERM)
        code, summary, _ = edge.end()
        assert (code, summary) == (128 + signal.SIGTERM, {})
        ue.send_signal(signal.SIGCONT)
        _, errors = ue.communicate(timeout=60)
        assert ue.returncode == ConnectionLost.exit_code
        one_line(errors)


def test_a_killed_ue_frees_its_slot(start_edge: Any, start_ue: Any, until: Any, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    with start_edge("--max-sessions", "1") as edge:
        with start_ue(edge.url, "--source", "testsrc", "--sink", str(lines)) as ue:
            until(lambda: lines.exists() and lines.stat().st_size > 0)
            assert edge.sessions == 1
            ue.kill()
        assert until(lambda: edge.sessions == 0) < 3.0
        assert edge.terminate()[0] == 0


async def test_a_client_that_is_cancelled(start_edge: Any, until: Any) -> None:
    threads = set(threading.enumerate())
    with start_edge("--max-sessions", "1") as edge:

        async def client(first: asyncio.Event) -> None:
            async with session(edge.url) as watching:
                async for _ in watching.run("clip", repeat=True):
                    first.set()

        for _ in range(2):  # for the second one the slot is free again
            first = asyncio.Event()
            task = asyncio.create_task(client(first))
            async with asyncio.timeout(60):
                await first.wait()
            assert edge.sessions == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio")} <= threads
            until(lambda: edge.sessions == 0)


def test_a_self_signed_certificate(start_edge: Any, run_ue: Any) -> None:
    with start_edge("--self-signed") as edge:
        assert edge.url.startswith("wss://")
        assert run_ue(edge.url, *SHORT, "--fingerprint", edge.fingerprint)[0] == 0
        code, _, errors = run_ue(edge.url, *SHORT, "--fingerprint", 64 * "0")
        assert code == Unreachable.exit_code
        assert "not one to trust" in one_line(errors)
        _, summary, _ = edge.terminate()
        assert summary["sessions_served"] == 1


@pytest.mark.soak
async def test_ten_ues_of_which_one_is_hostile(start_edge: Any) -> None:
    frames, neighbours = 20, 9
    rng = random.Random(3)
    attacks = 0

    async def attack(url: str) -> None:
        """Come, send what no parser likes and more than anybody has a use for, until the edge has had enough; again."""
        nonlocal attacks
        offer = attributes_of([points(Zoo())[0].offer(30.0)])
        while True:
            async with SignalingClient(url) as signaling, Peer(bind="127.0.0.1") as peer:
                await peer.accept_answer(await signaling.connect(await peer.create_offer(offer)))
                await peer.opened(20)
                attacks += 1
                while not peer.closed.is_set():
                    channel = rng.choice(peer._channels)
                    if channel.readyState != "open":
                        break
                    if channel.bufferedAmount < 100_000:
                        size = rng.randrange(1, 1160)
                        junk: list[bytes | str] = [rng.randbytes(size), "{" * size, b"\x01" + rng.randbytes(19)]
                        channel.send(rng.choice(junk))
                    await asyncio.sleep(0)

    async def watch(url: str) -> list[bool]:
        answered = asyncio.Semaphore()

        async def one_by_one() -> AsyncIterator[np.ndarray]:
            for _ in range(frames):
                await answered.acquire()
                yield np.full((120, 160, 3), 90, np.uint8)

        outcomes = []
        async with session(url) as neighbour:
            async for result in neighbour.run(one_by_one(), every=True):
                outcomes.append(result.answered)
                answered.release()
        return outcomes

    with start_edge() as edge:
        attacking = asyncio.create_task(attack(edge.url))
        ended = await asyncio.gather(*(watch(edge.url) for _ in range(neighbours)))
        assert not attacking.done()
        attacking.cancel()
        await asyncio.gather(attacking, return_exceptions=True)
        _, summary, errors = await asyncio.to_thread(edge.terminate)
    assert ended == neighbours * [frames * [True]]
    assert attacks > 1
    assert summary["sessions_served"] == neighbours + attacks
    assert "Traceback" not in errors
