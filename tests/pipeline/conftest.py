"""Small videos and results, made where they are needed; edges and UEs, real ones and ones that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from models import Detections, PartitionStore, Zoo
from pipeline.device import DevicePart
from pipeline.edge import Edge
from pipeline.frames import Frame
from pipeline.offers import OperatingPoint, points
from pipeline.outcome import FrameResult, Timings
from pipeline.settings import EdgeSettings
from rtc import (
    OUTPUT_DETECTIONS,
    Peer,
    Result,
    Status,
    Unit,
    bitmap_of,
    intermediate_attributes,
    pack_result,
    parse_result,
    parse_unit,
    unit_payload_limit,
    units_of_frame,
)
from signaling import (
    ConnectRequest,
    ControlMessage,
    ParameterSet,
    ParameterSetAck,
    SignalingClient,
    SignalingServer,
    SplitOffer,
    attributes_of,
    offers_of,
    parse_control,
    serialise_control,
)

WAIT = 20.0
"""Seconds after which a test gives up waiting for what happens within milliseconds on a machine that has time."""

GREY_STEP = 6
"""Frame i of a made video is plain grey of the value 10 + 6 i, so it can be told after coding."""

CODING_LOSS = 3
"""FFmpeg's fast conversion from grey RGB makes its pictures darker by this."""


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a video of plain grey frames, each a step brighter."""

    def make(
        name: str = "clip.mp4",
        *,
        frames: int = 10,
        fps: int = 30,
        size: tuple[int, int] = (64, 48),
        codec: str = "libx264",
        times: list[float] | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            # Every picture stands alone and is coded well enough to be recognised.
            stream: Any = container.add_stream(
                codec, rate=fps, options={"crf": "4", "g": "1"} if codec == "libx264" else {}
            )
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, fps)
            for index in range(frames):
                image = np.full((size[1], size[0], 3), 10 + GREY_STEP * index, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts = round(times[index] * 1000) if times else index
                frame.time_base = stream.codec_context.time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture
def grey_index() -> Callable[[np.ndarray], int]:
    """Which frame of a made video a picture is."""
    return lambda image: round((float(image.mean()) + CODING_LOSS - 10) / GREY_STEP)


@pytest.fixture
def make_result() -> Callable[..., FrameResult]:
    """A function that makes the result of one frame, with one detection unless told otherwise."""

    def make(
        index: int = 0, *, size: tuple[int, int] = (64, 48), captured: float | None = None, answered: bool = True
    ) -> FrameResult:
        image = np.full((size[1], size[0], 3), 10 + GREY_STEP * (index % 40), np.uint8)
        found = Detections(
            np.array([[4.0, 20.0, 30.0, 40.0]], np.float32), np.array([0.875], np.float32), np.array([1], np.int64)
        )
        return FrameResult(
            frame=Frame(image, index, index / 30 if captured is None else captured, index / 30),
            status="ok" if answered else "lost",
            frame_id=index + 1,
            detections=found if answered else None,
            labels=("cat", "dog"),
            timings=Timings(head=0.004, total=0.02),
            bytes_sent=9000,
        )

    return make


@pytest.fixture(scope="session")
def pictures(clip_path: Path) -> list[np.ndarray]:
    """Pictures from all over the bundled clip."""
    with av.open(str(clip_path)) as container:
        decoded = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    return decoded[:: max(len(decoded) // 8, 1)][:8]


class Feed:
    """A source that a test drives: an async iterator of what it was given."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[np.ndarray | Exception | None] = asyncio.Queue()

    def give(self, *items: np.ndarray | Exception | None) -> None:
        """Pictures to go on with; an exception to fail with, None to end."""
        for item in items:
            self._items.put_nowait(item)

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> np.ndarray:
        item = await self._items.get()
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, Exception):
            raise item
        return item


@pytest.fixture
def make_feed() -> type[Feed]:
    return Feed


Resources = Callable[[], dict[str, set[str]]]


@pytest.fixture
def resources() -> Resources:
    """A function that lists what this process holds: tasks, threads, and the files and sockets that are open."""

    def held() -> dict[str, set[str]]:
        files = set()
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the one with which the folder is read
                files.add(f"{entry.name} {entry.readlink()}")
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        # Those of the loop's own pool belong to the loop, which ends them.
        threads = {thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}
        # Not where in its code a task is: an edge's own go on with their work.
        names = {f"{task.get_name()} {task.get_coro()!r}".partition(" running at")[0] for task in tasks}
        return {"tasks": names, "threads": threads, "files": files}

    return held


@pytest.fixture
def back_to(resources: Resources) -> Callable[[dict[str, set[str]]], Awaitable[None]]:
    """A function that checks that this process holds what it held before, after a moment for sockets to close."""

    async def check(before: dict[str, set[str]]) -> None:
        deadline = time.monotonic() + 1.0
        while (now := resources()) != before:
            assert time.monotonic() < deadline, f"not as before: {now} instead of {before}"
            await asyncio.sleep(0.005)

    return check


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """A function that waits for a condition of another endpoint, which tells nobody when it comes true."""

    async def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def patient_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does much else may need longer for a frame's slices than the edge would wait for them."""
    monkeypatch.setattr("pipeline.connection.FRAMES_WAITED_FOR", 100.0)


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    """An edge on loopback. It has one worker, so that its pool does not grow while a test counts threads."""
    async with Edge(EdgeSettings("127.0.0.1:0", workers=1)) as running:
        yield running


class StubEdge:
    """An edge as far as the network can tell: it answers offers, but what it says then is the test's to decide."""

    def __init__(self) -> None:
        self.url = ""
        self.sets: list[ParameterSet] = []
        self.peer: Peer
        self.control: asyncio.Queue[ControlMessage | None] = asyncio.Queue()
        self.frames: asyncio.Queue[Unit] = asyncio.Queue()
        self.choose: Callable[[list[SplitOffer]], list[SplitOffer]] = lambda offers: offers[:1]
        self.reply: Callable[[ParameterSet], ControlMessage | None] = lambda announced: ParameterSetAck(announced.id)
        self.request: ConnectRequest

    async def connect(self, request: ConnectRequest) -> str:
        self.request = request
        self.peer = Peer(bind="127.0.0.1")
        self.peer.on_control = self._on_control
        self.peer.on_intermediate = self._on_unit
        chosen = self.choose(offers_of(intermediate_attributes(request.offer)))
        return await self.peer.create_answer(request.offer, attributes_of(chosen))

    def say(self, message: ControlMessage) -> None:
        self.peer.send_control(serialise_control(message))

    def answer(self, unit: Unit, **fields: Any) -> None:
        """The result of the frame to which a unit belongs: no detections, unless told otherwise."""
        values: dict[str, Any] = {
            "status": Status.OK,
            "frame_id": unit.frame_id,
            "capture_us": unit.capture_us,
            "slices": unit.count,
            "output_kind": OUTPUT_DETECTIONS,
            "output": b"\0",
            **fields,
        }
        assert self.peer.send_result(pack_result(Result(received=bitmap_of([True] * values["slices"]), **values)))

    def _on_control(self, text: str) -> None:
        message = parse_control(text)
        if isinstance(message, ParameterSet):
            self.sets.append(message)
            if (reply := self.reply(message)) is not None:
                self.say(reply)
        self.control.put_nowait(message)

    def _on_unit(self, data: bytes) -> None:
        unit = parse_unit(data)
        if unit.last:
            self.frames.put_nowait(unit)


@pytest.fixture
async def stub_edge() -> AsyncIterator[StubEdge]:
    stub = StubEdge()
    server = SignalingServer("127.0.0.1:0", stub)
    await server.start()
    stub.url = f"ws://127.0.0.1:{server.port}"
    try:
        yield stub
    finally:
        await server.close()
        if hasattr(stub, "peer"):
            await stub.peer.close()


@pytest.fixture(scope="session")
def device() -> DevicePart:
    """The device's share of an operating point that codes every frame by itself: a test may send any, in any order."""
    point = points(Zoo(), profile="q4-zstd")[0]
    return DevicePart(point, PartitionStore(), provider="cpu", threads=1, max_payload=unit_payload_limit())


class StubUe:
    """A UE as far as the network can tell, connected; what it sends is the test's to decide."""

    def __init__(self, peer: Peer, signaling: SignalingClient, device: DevicePart, point: OperatingPoint) -> None:
        self.peer = peer
        self.signaling = signaling
        self.point = point
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._device = device
        self._control: asyncio.Queue[ControlMessage | None] = asyncio.Queue()
        self._results: asyncio.Queue[Result] = asyncio.Queue()
        self._next_id = 1
        self._answered_last = 0
        self.results_repeated = 0
        peer.on_control = lambda text: self._control.put_nowait(parse_control(text))
        peer.on_result = self._on_result
        peer.on_closed = self.ended.set_result

    def _on_result(self, data: bytes) -> None:
        result = parse_result(data)
        if result.heartbeat:
            return
        if result.frame_id == self._answered_last:
            self.results_repeated += 1
            return
        self._answered_last = result.frame_id
        self._results.put_nowait(result)

    async def result(self) -> Result:
        async with asyncio.timeout(WAIT):
            return await self._results.get()

    async def message(self) -> ControlMessage | None:
        async with asyncio.timeout(WAIT):
            return await self._control.get()

    def say(self, message: ControlMessage) -> None:
        self.peer.send_control(serialise_control(message))

    def parameters(self, id_: int = 1, **changes: Any) -> ParameterSet:
        """The parameter set that was agreed on, unless changed."""
        agreed = self.point.parameter_set(self._device.partition.crossing, deadline=60.0, budget=60.0)
        return replace(agreed, **{"id": id_, **changes})

    async def announce(self, announced: ParameterSet) -> ControlMessage | None:
        """The edge's reply. As the link keeps the order here, all that was sent before has arrived then, too."""
        self.say(announced)
        return await self.message()

    def units(self, picture: np.ndarray, *, aips_id: int = 1) -> list[bytes]:
        """A real frame under the next frame id, coded."""
        coded = self._device.process(Frame(picture, 0, time.monotonic())).coded
        frame_id, self._next_id = self._next_id, self._next_id + 1
        return units_of_frame(aips_id, frame_id, 1_000_000 + frame_id, coded.slices)

    def send(self, units: Sequence[bytes]) -> None:
        """Hand units, or anything else, to the channel "intermediate" as they are."""
        for unit in units:
            self.peer._channels[1].send(unit)


@pytest.fixture
def connect_stub_ue(device: DevicePart) -> Callable[..., contextlib.AbstractAsyncContextManager[StubUe]]:
    """A function that connects such a UE, which offers the device's operating point or, on the same cut, another."""

    @contextlib.asynccontextmanager
    async def connect(url: str, point: OperatingPoint = device.point) -> AsyncIterator[StubUe]:
        async with SignalingClient(url) as signaling, Peer(bind="127.0.0.1") as peer:
            ue = StubUe(peer, signaling, device, point)
            offer = await peer.create_offer(attributes_of([point.offer(30.0)]))
            await peer.accept_answer(await signaling.connect(offer))
            await peer.opened(WAIT)
            yield ue

    return connect
