"""How many sessions at 10 frames per second one edge on this machine serves with 95 % of the results within 150 ms.

UEs that compute their heads here would measure this machine's heads, so the UEs replay: frames of the bundled clip,
coded once with the real head and codec, are sent as real units over real sessions, and the results are read. The time
of a frame counts from its capture, which is set as long before it is sent as the device took to code a frame. A number
of sessions holds when, of all the frames that were due while it was looked at, at least 95 % were answered within
150 ms. The number is doubled until it does not hold, twice (other work on the machine may be why), then the bounds are
halved; the result must hold once more, for longer.
All UEs run in one process beside the edge, and its share of the machine is printed: on a machine of its own the edge
would hold more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from rich.progress import Progress

from benchmarks.common import Edge, Figure, Option, clip_images, cpu_seconds, edge_process, run_benchmark
from models import EncodedFrame, PartitionStore, TensorSpec, Zoo
from pipeline.cli.common import run_async
from pipeline.connection import FRAMES_WAITED_FOR
from pipeline.device import DevicePart
from pipeline.frames import Frame
from pipeline.offers import OperatingPoint, points
from pipeline.settings import CONNECT_TIMEOUT, FRAME_BUDGET
from rtc import (
    OutgoingFrame,
    Peer,
    Result,
    intermediate_attributes,
    parse_result,
    unit_payload_limit,
    units_of_frame,
)
from signaling import (
    ParameterSetAck,
    SentSets,
    SignalingClient,
    attributes_of,
    check_answer,
    offers_of,
    parse_control,
    serialise_control,
)

FIGURES = (
    Figure("sessions", "sessions"),
    Figure("answered within 150 ms", "held.share_in_time"),
    Figure("capture to result p50", "held.latency_ms.p50", "ms"),
    Figure("capture to result p95", "held.latency_ms.p95", "ms"),
    Figure("tail p50", "held.tail_ms.p50", "ms"),
    Figure("tail p95", "held.tail_ms.p95", "ms"),
    Figure("wait for the tail p95", "held.queue_ms.p95", "ms"),
    Figure("edge's share of the machine's CPU", "held.edge_cpu_share"),
    Figure("replaying UEs' share", "held.ue_cpu_share"),
)
FPS = 10.0
IN_TIME = 0.150
SHARE = 0.95
CODED_FRAMES = 60
SETTLE_SECONDS = 1.0
"""After a change in number, until one looks."""
ATTEMPTS = 2
"""Looks at a number before it counts as too many."""
LONGER = 2.0
"""How much longer the last look is."""


@dataclass(frozen=True)
class Recording:
    """Coded frames to replay, and the seconds that the device took for one."""

    point: OperatingPoint
    crossing: tuple[TensorSpec, ...]
    frames: list[EncodedFrame]
    device_seconds: float


@dataclass
class Look:
    """What became of the frames of one stretch of time."""

    due: int = 0
    times: list[float] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)


def record() -> Recording:
    """Code frames of the clip as a device does."""
    point = points(Zoo())[0]
    device = DevicePart(point, PartitionStore(), provider="auto", threads=1, max_payload=unit_payload_limit())
    frames, seconds = [], []
    for index, image in enumerate(clip_images(CODED_FRAMES)):
        coded = device.process(Frame(image, index, time.monotonic()))
        frames.append(coded.coded)
        seconds.append(coded.preprocess + coded.head + coded.encode)
    return Recording(point, device.partition.crossing, frames, float(np.median(seconds)))


class ReplayUe:
    """A UE whose frames are coded already. An asynchronous context manager; sends from entering on."""

    def __init__(self, url: str, recording: Recording, phase: float) -> None:
        """``phase``: the share of a frame period by which it is later than others."""
        self._url = url
        self._recording = recording
        self._phase = phase
        self._stack = contextlib.AsyncExitStack()
        self._sets = SentSets()
        self._usable = asyncio.Event()
        self._captured: dict[int, tuple[float, Look]] = {}
        self.look = Look()
        """Where the frames that are sent from now on are noted, whenever their results come."""

    async def __aenter__(self) -> Self:
        async with self._stack:
            await self._connect()
            self._sending = asyncio.create_task(self._send())
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await self._stack.aclose()

    async def _connect(self) -> None:
        point = self._recording.point
        signaling = await self._stack.enter_async_context(SignalingClient(self._url))
        self._peer = await self._stack.enter_async_context(Peer((), "127.0.0.1"))
        self._peer.on_control = self._on_control
        self._peer.on_result = self._on_result
        offers = [point.offer(FPS)]
        answer = await signaling.connect(await self._peer.create_offer(attributes_of(offers)))
        check_answer(offers, offers_of(intermediate_attributes(answer)))
        await self._peer.accept_answer(answer)
        await self._peer.opened(CONNECT_TIMEOUT)
        self._set = self._sets.announce(
            point.parameter_set(self._recording.crossing, deadline=FRAMES_WAITED_FOR / FPS, budget=FRAME_BUDGET)
        )
        self._peer.send_control(serialise_control(self._set))
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await self._usable.wait()

    def _on_control(self, text: str) -> None:
        message = parse_control(text)
        if isinstance(message, ParameterSetAck) and self._sets.receive(message) is not None:
            self._usable.set()

    async def _send(self) -> None:
        due = (time.monotonic() // (1 / FPS) + 1 + self._phase) / FPS
        for frame_id, coded in enumerate(itertools.cycle(self._recording.frames), start=1):
            await asyncio.sleep(due - time.monotonic())
            captured = due - self._recording.device_seconds
            due += 1 / FPS
            expires = captured + FRAME_BUDGET
            for old in [known for known, (at, _) in self._captured.items() if at < captured - FRAME_BUDGET]:
                del self._captured[old]
            self._captured[frame_id] = captured, self.look
            self.look.due += 1
            # Each is predicted from the one before, as when it was coded.
            reference = None if coded.intra else frame_id - 1
            units = units_of_frame(self._set.id, frame_id, int(captured * 1e6), coded.slices, coded.intra, reference)
            self._peer.sender.offer(OutgoingFrame(frame_id, units, expires))

    def _on_result(self, data: bytes) -> None:
        result = parse_result(data)
        if result.heartbeat or result.frame_id not in self._captured:
            return
        captured, look = self._captured.pop(result.frame_id)
        if result.status.has_output:
            look.times.append(time.monotonic() - captured)
            look.results.append(result)


class Fleet:
    """Some replaying UEs, as many as they are told to be."""

    def __init__(self, edge: Edge, recording: Recording) -> None:
        self._edge = edge
        self._recording = recording
        self._ues: list[ReplayUe] = []

    async def resize(self, number: int) -> None:
        """Connect or disconnect UEs until there are so many."""
        leaving, self._ues = self._ues[number:], self._ues[:number]
        await asyncio.gather(*(ue.__aexit__() for ue in leaving))
        while len(self._ues) < number:
            # The golden ratio spreads any number of phases evenly.
            ue = ReplayUe(self._edge.url, self._recording, len(self._ues) * 0.618034 % 1)
            self._ues.append(await ue.__aenter__())

    async def watch(self, seconds: float) -> dict[str, Any]:
        """Look at what becomes of the frames of the next ``seconds``."""
        cores = len(os.sched_getaffinity(0))
        await asyncio.sleep(SETTLE_SECONDS)
        look = Look()
        for ue in self._ues:
            ue.look = look
        started = time.monotonic(), cpu_seconds(self._edge.pid), time.process_time()
        await asyncio.sleep(seconds)
        ended = time.monotonic(), cpu_seconds(self._edge.pid), time.process_time()
        for ue in self._ues:
            ue.look = Look()
        await asyncio.sleep(FRAME_BUDGET)  # for the last results
        wall, edge_cpu, ue_cpu = (end - start for start, end in zip(started, ended, strict=True))
        return {
            "sessions": len(self._ues),
            "share_in_time": round(sum(age <= IN_TIME for age in look.times) / max(look.due, 1), 4),
            "answered_share": round(len(look.times) / max(look.due, 1), 4),
            "latency_ms": percentiles([age * 1e3 for age in look.times]),
            "tail_ms": percentiles([result.tail_us / 1e3 for result in look.results]),
            "queue_ms": percentiles([result.queue_us / 1e3 for result in look.results]),
            "edge_cpu_share": round(edge_cpu / wall / cores, 3),
            "ue_cpu_share": round(ue_cpu / wall / cores, 3),
        }

    async def close(self) -> None:
        """Disconnect all."""
        await self.resize(0)


def percentiles(values: list[float]) -> dict[str, float | None]:
    """p50 and p95, None for each when there are no values."""
    if not values:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}


async def search(edge: Edge, options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Find the largest number of sessions that holds."""
    task = progress.add_task("sessions", total=None)
    looks: list[dict[str, Any]] = []
    fleet = Fleet(edge, record())

    async def holds(number: int, seconds: float) -> bool:
        progress.update(task, description=f"{number} sessions")
        await fleet.resize(number)
        for _ in range(ATTEMPTS):
            looks.append(await fleet.watch(seconds))
            if looks[-1]["share_in_time"] >= SHARE:
                return True
        return False

    try:
        most, too_many = 0, options.max + 1
        number = min(options.start, options.max)
        while most < number < too_many:
            if await holds(number, options.seconds):
                most = number
            else:
                too_many = number
            doubled = min(2 * most, options.max)
            number = doubled if most < doubled < too_many else (most + too_many) // 2
        while most and not await holds(most, LONGER * options.seconds):
            most -= 1
    finally:
        await fleet.close()
    held = looks[-1] if most else None
    return {"sessions": most, "held": held, "limit_ms": IN_TIME * 1e3, "fps": FPS, "looks": looks}


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    with edge_process("--max-sessions", str(options.max)) as edge:
        return run_async(search(edge, options, progress))


def main() -> None:
    """Run it from the command line."""
    run_benchmark(
        __file__,
        __doc__ or "",
        FIGURES,
        measure,
        Option("--start", 4, "sessions to begin with"),
        Option("--max", 128, "sessions to end with"),
        Option("--seconds", 5.0, "time to look at each number"),
    )


if __name__ == "__main__":
    main()
