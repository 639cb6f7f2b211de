"""A browser as the other side: Chromium with a plain page, first of our peer connection, then of a whole edge."""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from models import PartitionStore, Zoo, parse_detections
from pipeline.device import DevicePart
from pipeline.frames import Frame
from pipeline.offers import points
from pipeline.settings import UeSettings
from pipeline.ue import UeSession
from rtc import (
    OutgoingFrame,
    Peer,
    RelayThread,
    Status,
    intermediate_attributes,
    parse_link,
    parse_result,
    unit_payload_limit,
    units_of_frame,
)
from signaling import (
    EDGE_FULL,
    SignalingServer,
    attributes_of,
    make_problem,
    offers_of,
    rejection,
    serialise_control,
    token_subprotocol,
)
from signaling.swap import PATH, SUBPROTOCOL

pytestmark = pytest.mark.e2e

WAIT = 30.0
FPS = 30
UNITS = 8
PAYLOAD = 1_100
PICTURES, TIMES = 2, 3
ATTRIBUTES = [("ai-split", "1 a line that no browser knows")]

Pass = Callable[[str, Any], Awaitable[str]]


async def unchanged(sdp: str, _: object) -> str:
    return sdp


async def browser_answers(peer: Peer, page: Any, carry: Pass = unchanged) -> None:
    answer = await page.call("answer", await carry(await peer.create_offer(ATTRIBUTES), "ue"))
    await peer.accept_answer(await carry(answer, "edge"))


async def browser_offers(peer: Peer, page: Any, carry: Pass = unchanged) -> None:
    answer = await peer.create_answer(await carry(await page.call("offer"), "ue"), ATTRIBUTES)
    await page.call("accept", await carry(answer, "edge"))


class Stream:
    """Frames to the browser, and its answers."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._sent: dict[int, float] = {}
        self.complete: dict[int, float] = {}
        """By frame id, after how many seconds its answer came; of those that came whole."""
        self.incomplete = 0
        peer.on_result = self._on_result

    def _on_result(self, data: bytes) -> None:
        result = parse_result(data)
        if result.heartbeat:
            return
        if result.received_count == UNITS:
            self.complete[result.frame_id] = time.monotonic() - self._sent[result.frame_id]
        else:
            self.incomplete += 1

    async def play(self, frames: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for frame_id in range(1, frames + 1):
            now = time.monotonic()
            units = units_of_frame(1, frame_id, int(now * 1e6), [bytes(PAYLOAD)] * UNITS)
            self._sent[frame_id] = now
            self._peer.sender.offer(OutgoingFrame(frame_id, units, now + 0.5))
            await asyncio.sleep(began + frame_id / FPS - loop.time())
        await asyncio.sleep(0.2)  # what is under way

    @property
    def delays_ms(self) -> list[float]:
        return sorted(1000 * delay for delay in self.complete.values())


@asynccontextmanager
async def connected(page: Any, negotiate: Any, carry: Pass = unchanged) -> AsyncIterator[Peer]:
    async with Peer(bind="127.0.0.1") as peer:
        await negotiate(peer, page, carry)
        await peer.opened(WAIT)
        yield peer


@pytest.mark.parametrize("negotiate", [browser_answers, browser_offers])
async def test_a_browser_gets_our_frames_in_either_role(page: Any, negotiate: Any) -> None:
    async with connected(page, negotiate) as peer:
        stream = Stream(peer)
        await stream.play(FPS)
        counts = await page.call("counts")
        assert peer.close_reason is None
    # A busy machine may delay frames until a newer one takes their place, or their time is over.
    assert FPS / 2 <= len(stream.complete) <= counts["complete"] <= counts["frames"] <= FPS
    assert counts["units"] >= UNITS * counts["complete"]
    assert counts["bytes"] == counts["units"] * (PAYLOAD + 20)


@pytest.mark.soak
@pytest.mark.parametrize("negotiate", [browser_answers, browser_offers])
@pytest.mark.parametrize("loss", [0, 1, 3])
async def test_a_browser_on_a_bad_link(page: Any, negotiate: Any, loss: int, capsys: Any) -> None:
    async with RelayThread(parse_link(f"rtt=40,rate=5M,loss={loss}%,seed=1")) as relay:
        async with connected(page, negotiate, relay.rewrite) as peer:
            stream = Stream(peer)
            await stream.play(20 * FPS)
            counts = await page.call("counts")
            abandoned = peer.transport_counters.abandoned
            assert peer.close_reason is None
        carried = relay.to_json()
    offered = 20 * FPS * UNITS
    delays = stream.delays_ms
    with capsys.disabled():
        print(
            f"\n  {negotiate.__name__}, {loss} % loss: {counts['units'] / offered:.1%} of the units,"
            f" {len(delays) / (20 * FPS):.1%} of the frames complete, answered within"
            f" {delays[len(delays) // 2]:.0f} ms (p50), {delays[len(delays) * 19 // 20]:.0f} (p95);"
            f" {abandoned} units abandoned; packets {carried['up']['offered']} up, {carried['down']['offered']} down"
        )
    assert counts["units"] / offered > 0.5  # the figures are what is printed; what else the machine does counts, too


# A browser as the UE of an edge.


def first_pictures(clip: Path, count: int) -> list[np.ndarray]:
    with av.open(str(clip)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in itertools.islice(container.decode(video=0), count)]


@pytest.mark.parametrize("profile", ["q4-zstd", "raw"])
async def test_a_page_gets_the_detections_that_our_ue_gets(
    page: Any, start_edge: Any, clip_path: Path, profile: str
) -> None:
    # Each several times: on a busy machine a frame may come incomplete even here.
    pictures = TIMES * await asyncio.to_thread(first_pictures, clip_path, PICTURES)
    point = points(Zoo(), profile=profile)[0]
    device = await asyncio.to_thread(
        DevicePart, point, PartitionStore(), provider="cpu", threads=1, max_payload=unit_payload_limit()
    )
    frames = [
        units_of_frame(1, frame_id, frame_id, device.process(Frame(picture, 0, 0.0)).coded.slices)
        for frame_id, picture in enumerate(pictures, 1)
    ]
    announced = replace(point.parameter_set(device.partition.crossing, deadline=10.0, budget=10.0), id=1)
    async with edge_process(start_edge, "--token", "secret") as url:
        answered = await page.call(
            "split",
            {
                "url": url + PATH,
                "protocols": [SUBPROTOCOL, token_subprotocol("secret")],
                "attributes": attributes_of([point.offer(FPS)]),
                "announced": serialise_control(announced),
                "frames": [[base64.b64encode(unit).decode() for unit in units] for units in frames],
            },
        )
        expected = [result async for result in one_by_one(url, profile, pictures)]
    assert offers_of(intermediate_attributes(answered["answer"]))[0].profile == profile
    seen = [parse_result(base64.b64decode(text)) for text in answered["results"]]
    for first in range(PICTURES):
        # By their ids: after a loss a result comes twice.
        of_picture = (result for result in seen if (result.frame_id - 1) % PICTURES == first)
        whole = next(result for result in of_picture if result.status is Status.OK)
        threshold = point.card.detection.display_score
        found = device.place(parse_detections(whole.output).at_least(threshold), Frame(pictures[first], 0, 0.0))
        wanted = next(result for result in expected[first::PICTURES] if result.status == "ok").detections
        assert len(found) > 0
        np.testing.assert_array_equal(found.xyxy, wanted.xyxy)
        np.testing.assert_array_equal(found.scores, wanted.scores)
        np.testing.assert_array_equal(found.classes, wanted.classes)


@asynccontextmanager
async def edge_process(start_edge: Any, *flags: str) -> AsyncIterator[str]:
    """The URL of an edge in a process of its own."""
    with start_edge(*flags) as edge:
        yield edge.url
        code, _, errors = await asyncio.to_thread(edge.terminate)
        assert (code, "Traceback" in errors) == (0, False), errors


async def one_by_one(url: str, profile: str, pictures: list[np.ndarray]) -> AsyncIterator[Any]:
    """What our own UE gets for these pictures."""
    answered = asyncio.Semaphore()

    async def source() -> AsyncIterator[np.ndarray]:
        for picture in pictures:
            await answered.acquire()
            yield picture

    settings = UeSettings(url, profile=profile, token="secret", budget=10.0, timeout=WAIT)
    async with UeSession(settings) as session:
        async for result in session.run(source(), every=True):
            yield result
            answered.release()


class Refusing:
    async def connect(self, request: object) -> str:
        raise rejection(make_problem(EDGE_FULL))


async def test_a_page_that_the_edge_does_not_know_stays_outside(page: Any) -> None:
    nothing = {"protocols": [SUBPROTOCOL], "attributes": [], "announced": "", "frames": []}
    for origins, told in (((), "no socket"), ((page.origin,), EDGE_FULL)):
        server = SignalingServer("127.0.0.1:0", Refusing(), allow_origins=origins)
        await server.start()
        with pytest.raises(AssertionError, match=told):
            await page.call("split", {"url": f"ws://127.0.0.1:{server.port}{PATH}", **nothing})
        await server.close()
