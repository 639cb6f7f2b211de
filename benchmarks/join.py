"""Joining an edge, losing it, and leaving it for another one.

drain: two edge processes, and UEs at 5 frames per second each (real sessions, in one process) at the first, which gets
SIGTERM. Frames of the clip are coded once, with the real head and a profile that codes each by itself, and replayed:
ten devices on one machine would measure that. Lost is every frame from then on that ended without a result, but for
those that the device itself did not come to; the gap is the longest time without a result at one UE, beyond the frame
period.
kill: `splitrtc demo --kill-edge 5`. cold, warm: `splitrtc ue` without the bundled models, from starting the process to
the first result, with an empty cache and with what the first run has left there; HTTP, WebSocket and media go through
one emulated link. The edge has run for a while, as it would have.
prediction: benchmarks/prediction.py, as a share of what was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.progress import Progress

from benchmarks.common import (
    PROFILE,
    Edge,
    Figure,
    Option,
    edge_process,
    medians,
    run_benchmark,
    run_json,
    stop,
)
from benchmarks.prediction import prediction_error
from models.cache import CACHE_VARIABLE
from pipeline.cli.common import run_async
from pipeline.device import CodedFrame, DevicePart
from pipeline.outcome import ANSWERED
from pipeline.settings import UeSettings
from pipeline.ue import UeSession
from signaling.inquiry import Inquiry

if TYPE_CHECKING:
    from pipeline.frames import Frame
    from pipeline.outcome import FrameResult

FIGURES = (
    Figure("empty cache to first result", "cold_first_result_s", "s"),
    Figure("warm cache to first result", "warm_first_result_s", "s"),
    Figure("edge killed: longest gap between results", "fallback_gap_s", "s"),
    Figure("edge back: until split again", "resume_split_s", "s"),
    Figure("predicted against measured latency, median error", "prediction_error"),
    Figure("drain: frames lost", "drain.lost"),
    Figure("drain: longest gap beyond the frame period", "drain.gap_ms", "ms"),
)
PARTS = ("cold", "kill", "prediction", "drain")
FPS = 5.0
CODED_FRAMES = 20
SETTLE_SECONDS = 2.0
"""Until the UEs are in step, and after the edge has gone until the last result."""
DRAIN_SECONDS = 10.0
DEVICE = ("slot", "rate", "device")
"""Where a frame is passed over that the device does not come to."""
STOCKED_SECONDS = 60.0
"""Until the edge must have made what it delivers."""


class Watched:
    """What became of the frames of one UE."""

    def __init__(self) -> None:
        self.results: list[FrameResult] = []

    def gap(self, since: float, until: float) -> float:
        """The longest time without a result between these two moments, beyond the frame period."""
        times = sorted(result.completed for result in self.results if result.answered)
        before = [since, *(at for at in times if at <= since)][-1]
        times = [before, *(at for at in times if since < at <= until), until]
        return max(0.0, max(b - a for a, b in pairwise(times)) - 1 / FPS)

    def outcomes(self, since: float) -> Counter[str]:
        """How the frames ended that were captured after ``since``, or not over by then."""
        found = [result for result in self.results if result.completed > since]
        return Counter(result.dropped_at or result.status for result in found)


class Replaying(DevicePart):
    """A device that has coded the frames of a file already."""

    coded: ClassVar[dict[int, CodedFrame]] = {}

    def process(self, frame: Frame) -> CodedFrame:
        """Code a picture of the first ones; then give it again and again."""
        number = frame.index % CODED_FRAMES
        if number not in self.coded:
            self.coded[number] = super().process(frame)
        wait = time.monotonic() - frame.captured
        return replace(self.coded[number], frame_id=next(self._frame_ids), wait=wait)


async def drain(first: Edge, second: Edge, ues: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """End the first edge while UEs are there."""
    watched = [Watched() for _ in range(ues)]
    async with contextlib.AsyncExitStack() as stack:
        sessions = []
        for number, one in enumerate(watched):
            say(f"{number + 1} UEs")
            settings = UeSettings(first.url, edges=(second.url,), mode="split", fps=FPS, profile=PROFILE)
            session = await stack.enter_async_context(UeSession(settings))
            if session.url != first.url:  # it looked at both, and found the other one nearer
                await session.move(first.url)
            sessions.append(session)
            await stack.enter_async_context(session.run("clip", repeat=True, sinks=[one.results.append]))
        await asyncio.sleep(SETTLE_SECONDS)
        say("drain")
        began = time.monotonic()
        os.kill(first.pid, signal.SIGTERM)
        async with asyncio.timeout(2 * DRAIN_SECONDS):
            while any(session.url == first.url for session in sessions):  # noqa: ASYNC110 - measured beside it
                await asyncio.sleep(0.02)
        moved = time.monotonic() - began
        await asyncio.sleep(seconds)
        ended = time.monotonic()
    outcomes: Counter[str] = sum((one.outcomes(began) for one in watched), Counter())
    # Those that were under way when the benchmark ended are nobody's loss.
    cut_off = sum(
        result.completed >= ended and result.status not in ANSWERED for one in watched for result in one.results
    )
    lost = sum(count for name, count in outcomes.items() if name not in (*ANSWERED, *DEVICE)) - cut_off
    return {
        "lost": lost,
        "gap_ms": round(1e3 * max(one.gap(began, ended) for one in watched), 1),
        "moved_s": round(moved, 3),
        "ues": ues,
        "frames": dict(sorted(outcomes.items())),
    }


def first_result(url: str, link: str, cache: str) -> float:
    """Seconds from starting a UE that has nothing but this cache to its first result."""
    command = [sys.executable, "-m", "splitrtc", "ue", "--edge", url, "--mode", "split", "--no-bundled"]
    command += ["--link", link, "--source", "clip", "--loop", "--sink", "-", "--log-level", "error"]
    started = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=os.environ | {CACHE_VARIABLE: cache}
    ) as ue:
        assert ue.stdout is not None
        try:
            for line in ue.stdout:
                if json.loads(line)["detections"] is not None:
                    return time.monotonic() - started
        finally:
            stop(ue)
    raise SystemExit("the UE got no result")


def join(link: str, runs: int, progress: Progress) -> dict[str, Any]:
    """Start UEs that have no model, and once more with what they have fetched by then."""
    found = []
    with edge_process() as edge:
        run_async(stocked(edge.url))
        for _ in progress.track(range(runs), description="cold, warm"):
            with tempfile.TemporaryDirectory() as cache:
                cold = first_result(edge.url, link, cache)
                found.append({"cold_first_result_s": cold, "warm_first_result_s": first_result(edge.url, link, cache)})
    return {"link": link, **medians(found)}


async def stocked(url: str) -> None:
    """Return when an edge has made what it delivers."""
    async with asyncio.timeout(STOCKED_SECONDS):
        await Inquiry(url).run()


def kill() -> dict[str, Any]:
    """Let the demo kill its edge."""
    with tempfile.TemporaryDirectory() as out:
        summary = run_json("-m", "splitrtc", "demo", "--kill-edge", "5", "--json", "--out", out)
    return {name: summary[name] for name in ("fallback_gap_s", "resume_split_s")}


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    chosen = options.parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise SystemExit(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    result: dict[str, Any] = {figure.path: None for figure in FIGURES[:5]} | {"drain": {"lost": None, "gap_ms": None}}
    task = progress.add_task("join", total=None)

    def say(text: str) -> None:
        progress.update(task, description=text)

    if "cold" in chosen:
        result |= join(options.link, options.runs, progress)
    if "kill" in chosen:
        say("kill")
        result |= kill()
    if "prediction" in chosen:
        found = run_async(prediction_error(progress=progress))
        result |= {"prediction_error": round(found["error_percent"] / 100, 4), "predictions": found["settings"]}
    if "drain" in chosen:
        task = progress.add_task("drain", total=None)
        flags = ("--drain-time", str(DRAIN_SECONDS))
        replaying = mock.patch("pipeline.parts.DevicePart", Replaying)
        with replaying, edge_process(*flags) as first, edge_process(*flags) as second:
            result["drain"] = run_async(drain(first, second, options.ues, options.seconds, say))
    return result


def main() -> None:
    """Run it from the command line."""
    run_benchmark(
        __file__,
        __doc__ or "",
        FIGURES,
        measure,
        Option("--parts", ",".join(PARTS), "what to measure, separated by commas"),
        Option("--ues", 10, "UEs at the edge that drains"),
        Option("--seconds", SETTLE_SECONDS, "time to look on after all UEs have left"),
        Option("--link", "rate=20M,rtt=20", "emulated link for cold and warm"),
        Option("--runs", 3, "starts with each cache, to take the median of"),
    )


if __name__ == "__main__":
    main()
