"""Frames of a test payload over a link, without any model: for `benchmarks.link`.

``python -m benchmarks.payload ours|plain`` is the edge's side: it reads an offer from stdin as a line of JSON, writes
the answer to stdout, and answers each frame with a result without output until stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import ROOT, cpu_seconds
from benchmarks.plain import PlainPeer
from pipeline.alarm import Alarm
from pipeline.connection import FRAMES_WAITED_FOR
from rtc import (
    OUTPUT_NONE,
    OutgoingFrame,
    Peer,
    Reassembler,
    ReceivedFrame,
    RelayThread,
    Result,
    Status,
    bitmap_of,
    pack_result,
    parse_link,
    parse_result,
    parse_unit,
    units_of_frame,
)

__all__ = ["FPS", "Answer", "Sent", "send_frames"]

FPS = 30.0
BIND = "127.0.0.1"
BUDGET = 0.5
"""Seconds after which a frame is worthless."""
PEERS = {"ours": Peer, "plain": PlainPeer}


class Answer(NamedTuple):
    """What came back for a frame: after how many seconds, and which share of its slices had arrived."""

    seconds: float
    share: float


class Sent(NamedTuple):
    """How many frames there were, the answers by frame, and the CPU time of each side in seconds."""

    frames: int
    answers: dict[int, Answer]
    ue_cpu: float
    edge_cpu: float


async def send_frames(kind: str, link: str, seconds: float, slices: int, size: int) -> Sent:
    """Send frames of so many slices and, without the headers of the units, bytes for so long."""
    loop = asyncio.get_running_loop()
    command = [sys.executable, "-m", "benchmarks.payload", kind]
    edge = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert edge.stdin is not None
    assert edge.stdout is not None
    sent_at: dict[int, float] = {}
    answers: dict[int, Answer] = {}

    def on_result(data: bytes) -> None:
        result = parse_result(data)
        if not result.heartbeat and result.frame_id not in answers:
            took = time.monotonic() - sent_at[result.frame_id]
            answers[result.frame_id] = Answer(took, result.received_count / result.slices)

    frames = max(1, round(seconds * FPS))
    parts = [bytes([index]) * (size // slices) for index in range(slices)]
    try:
        async with RelayThread(parse_link(link), BIND) as relay, PEERS[kind](bind=BIND) as peer:
            peer.on_result = on_result
            offer = await relay.rewrite(await peer.create_offer(), "ue")
            edge.stdin.write(json.dumps(offer).encode() + b"\n")
            answer = json.loads(await edge.stdout.readline())
            await peer.accept_answer(await relay.rewrite(answer, "edge"))
            await peer.opened(20.0)
            # Of the thread, since the link runs in another one.
            before = time.thread_time(), cpu_seconds(edge.pid)
            start = loop.time() + 0.2
            for number in range(1, frames + 1):
                await asyncio.sleep(start + number / FPS - loop.time())
                sent_at[number] = now = time.monotonic()
                units = units_of_frame(1, number, int(now * 1e6), parts)
                peer.sender.offer(OutgoingFrame(number, units, now + BUDGET))
            await asyncio.sleep(BUDGET)
            cpu = time.thread_time() - before[0], cpu_seconds(edge.pid) - before[1]
    finally:
        edge.stdin.close()
        await edge.wait()
    return Sent(frames, answers, *cpu)


class Answering:
    """The edge's side: answers every frame of which a slice arrived."""

    def __init__(self, peer: Any) -> None:
        self._peer = peer
        self._reassembler = Reassembler()
        self._reassembler.set_deadline(1, FRAMES_WAITED_FOR / FPS)
        self._deadline = Alarm(self._on_deadline)
        peer.on_intermediate = self._on_unit

    def _on_unit(self, data: bytes) -> None:
        self._answer(self._reassembler.receive(parse_unit(data), time.monotonic()))

    def _on_deadline(self) -> None:
        self._answer(self._reassembler.poll(time.monotonic()))

    def _answer(self, frames: list[ReceivedFrame]) -> None:
        for frame in frames:
            result = Result(
                status=Status.OK if frame.complete else Status.INCOMPLETE,
                frame_id=frame.frame_id,
                capture_us=frame.capture_us,
                slices=frame.count,
                received=bitmap_of(slice_ is not None for slice_ in frame.slices),
                output_kind=OUTPUT_NONE,
                output=b"",
            )
            self._peer.send_result(pack_result(result))
        self._deadline.set(self._reassembler.next_deadline())


async def answer_frames(kind: str) -> None:
    """The edge's side, from its start to the end of stdin."""
    loop = asyncio.get_running_loop()
    offer = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    async with PEERS[kind](bind=BIND) as peer:
        Answering(peer)
        print(json.dumps(await peer.create_answer(offer)), flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(answer_frames(sys.argv[1]))
