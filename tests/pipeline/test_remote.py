"""The `remote` mode between real endpoints: frame numbers are drawn into the pictures, and a model reads them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import Zoo
from pipeline.edge import Edge
from pipeline.offers import points, remote_points
from pipeline.outcome import FrameResult
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from rtc import relay
from signaling import ConnectRequest
from splitrtc_errors import NoCommonOperatingPoint, ProtocolError

BITS = 12
BAR = 16
"""Width of a bar in the model's input: a macroblock, so that the video encoder does not mistake one for another."""
WIDTH, HEIGHT = BAR * BITS, 32
READER = """<ir_version: 8, opset_import: ["" : 17]>
reader (float[1,3,32,192] image) => (float[1,1,2] scores, float[1,1,1,4] boxes)
<float half = {127}, float[1,1,1,2] corner = {0, 0}, float[1,1,1,1] one = {1}, float[1,1,2] sure = {0, 1},
 int64[3] score_shape = {1,1,1}, float size = {4096},
 float[12,1] weights = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048}>
{
  colours = AveragePool <kernel_shape = [32,16], strides = [32,16]> (image)
  grey = ReduceMean <axes = [1], keepdims = 1> (colours)
  is_set = Greater (grey, half)
  bits = Cast <to = 1> (is_set)
  number = MatMul (bits, weights)
  above = Add (number, one)
  right = Div (above, size)
  boxes = Concat <axis = 3> (corner, one, right)
  plain = Reshape (number, score_shape)
  nothing = Sub (plain, plain)
  scores = Add (nothing, sure)
}"""
"""Reads a number from twelve black or white bars; the box that it finds is as wide as the number is large."""

BackTo = Callable[[dict[str, set[str]]], Awaitable[None]]


def drawn(number: int) -> np.ndarray:
    """A picture of a number, twice as large as the model's input."""
    bars = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    return np.ascontiguousarray(np.broadcast_to(np.repeat(bars, 2 * BAR)[None, :, None], (2 * HEIGHT, 2 * WIDTH, 3)))


def number_in(picture: np.ndarray) -> int:
    bits = (picture[0, BAR :: 2 * BAR, 0] > 127).tolist()
    return sum(bit << place for place, bit in enumerate(bits))


def number_found(result: FrameResult) -> int:
    assert result.detections is not None
    ((_, _, right, _),) = result.detections.xyxy
    return round(float(right) / (2 * WIDTH) * (1 << BITS)) - 1


async def camera(frames: int, fps: float = 80.0) -> AsyncIterator[np.ndarray]:
    """Numbers that have nothing to do with how frames are counted."""
    for index in range(frames):
        yield drawn((index * 997 + 100) % 2**BITS)
        await asyncio.sleep(1 / fps)


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """The folder of the model "reader", with its card."""
    from onnx.parser import parse_model

    from models.identity import bytes_digest

    data = parse_model(READER).SerializeToString()
    card = Zoo().get().to_json()
    card |= {
        "name": "reader",
        "file": "reader.onnx",
        "digest": bytes_digest(data),
        "size": len(data),
        "inputs": [{"name": "image", "type": "float32", "shape": [1, 3, HEIGHT, WIDTH]}],
        "outputs": [
            {"name": "scores", "type": "float32", "shape": [1, 1, 2]},
            {"name": "boxes", "type": "float32", "shape": [1, 1, 1, 4]},
        ],
        "preprocessing": {**card["preprocessing"], "resize": "stretch", "mean": [0, 0, 0], "scale": [1, 1, 1]},
        "decoding": {**card["decoding"], "scores": "scores", "boxes": "boxes"},
        "labels": ["nothing", "number"],
        "partitions": [{"name": "grey", "tensors": ["grey"], "default": True}],
    }
    for key in ("place", "pad"):
        card["preprocessing"].pop(key, None)
    folder = tmp_path / "reader"
    folder.mkdir()
    (folder / "reader.onnx").write_bytes(data)
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.fixture
async def reading_edge(reader: Path) -> AsyncIterator[Edge]:
    async with Edge(EdgeSettings("127.0.0.1:0", workers=1, model=("reader",), models=(reader,))) as edge:
        yield edge


@pytest.fixture
def datagrams(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bytes]]:
    """A function that notes what reaches an emulated link, and can lose the first RTP packets on their way."""

    def watch(lose: int = 0) -> list[bytes]:
        seen: list[bytes] = []
        receive = relay._Port.datagram_received

        def note(port: Any, data: bytes, addr: Any) -> None:
            seen.append(data)
            if not (is_rtp(data) and sum(map(is_rtp, seen)) <= lose):
                receive(port, data, addr)

        monkeypatch.setattr(relay._Port, "datagram_received", note)
        return seen

    return watch


def is_srtp(data: bytes) -> bool:
    """RTP or RTCP, by the first byte (RFC 7983)."""
    return 128 <= data[0] <= 191


def is_rtp(data: bytes) -> bool:
    return is_srtp(data) and not 192 <= data[1] <= 223


@pytest.mark.parametrize(("loss", "seed"), [(1, 1), (1, 2), (5, 4)])
async def test_every_answer_is_to_the_picture_it_was_found_in(
    reading_edge: Edge, reader: Path, datagrams: Callable[..., list[bytes]], loss: int, seed: int
) -> None:
    """Also when the first frames are lost, and others on their way, pictures as well as results."""
    datagrams(lose=4)
    link = f"rtt=20,loss={loss}%,seed={seed}"
    settings = UeSettings(reading_edge.url, model="reader", models=(reader,), mode="remote", link=link, budget=2.0)
    async with UeSession(settings) as session:
        assert (session.describe()["mode"], session.describe()["profile"]) == ("remote", "video")
        results = [result async for result in session.run(camera(120), every=True)]
    answered = [result for result in results if result.answered]
    assert [number_found(result) for result in answered] == [number_in(result.frame.image) for result in answered]
    assert len({number_in(result.frame.image) for result in answered}) == len(answered) > 50
    outcomes = Counter(result.status for result in results)
    assert outcomes.total() == 120
    assert outcomes["lost"] >= 1  # the first ones
    assert outcomes["error"] == 0
    assert {result.bytes_sent > 0 for result in answered} == {True}


async def test_the_end_of_a_session_frees_everything(
    reading_edge: Edge, reader: Path, resources: Callable[[], dict[str, set[str]]], back_to: BackTo
) -> None:
    settings = UeSettings(reading_edge.url, model="reader", models=(reader,), mode="remote")
    for session_number in range(3):
        before = resources() if session_number else {}
        async with UeSession(settings) as session:
            async for result in session.run(camera(50)):
                assert result.answered
                break
        if before:  # the edge's one worker is there to stay
            await back_to(before)
    assert reading_edge.outcomes["sessions_served"] == 3


async def test_the_edge_chooses_video_only_if_its_owner_allows_it(reader: Path) -> None:
    settings = EdgeSettings("127.0.0.1:0", workers=1, model=("reader",), models=(reader,), accept=("raw",))
    async with Edge(settings) as edge:
        with pytest.raises(NoCommonOperatingPoint):
            async with UeSession(UeSettings(edge.url, model="reader", models=(reader,), mode="remote")):
                pass
    settings = EdgeSettings("127.0.0.1:0", workers=1, model=("reader",), models=(reader,), accept=("video",))
    async with Edge(settings) as edge:
        async with UeSession(UeSettings(edge.url, model="reader", models=(reader,), mode="remote")) as session:
            assert session.point.is_video
        with pytest.raises(NoCommonOperatingPoint):
            async with UeSession(UeSettings(edge.url, model="reader", models=(reader,), mode="split")):
                pass


# Privacy: what leaves the socket


@pytest.mark.parametrize(("mode", "privacy", "leaves"), [("remote", "any", True), ("auto", "no-pictures", False)])
async def test_without_pictures_no_picture_leaves_the_socket(
    reading_edge: Edge,
    reader: Path,
    datagrams: Callable[..., list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    privacy: str,
    leaves: bool,
) -> None:
    """Whatever the edge would like. With pictures allowed, the same test sees them."""
    seen = datagrams()
    offers: list[str] = []
    connect = reading_edge.connect

    async def note(request: ConnectRequest) -> str:
        offers.append(request.offer)
        return await connect(request)

    monkeypatch.setattr(reading_edge, "connect", note)
    link = "rtt=5"
    settings = UeSettings(
        reading_edge.url, model="reader", models=(reader,), mode=mode, privacy=privacy, link=link, budget=5.0
    )
    async with UeSession(settings) as session:
        answered = [result async for result in session.run(camera(20))]
        assert session.point.is_video == leaves
    assert answered
    assert len(seen) > 20
    assert any(map(is_srtp, seen)) == leaves
    assert ["m=video" in offer for offer in offers] == [leaves]
    assert ["profile=video" in offer for offer in offers] == [leaves]


@pytest.mark.parametrize("changes", [{"privacy": "no-pictures"}, {"mode": "split"}])
async def test_an_edge_that_answers_with_video_to_an_offer_without_is_refused(
    stub_edge: Any, changes: dict[str, Any]
) -> None:
    (remote,) = remote_points(Zoo(), model=points(Zoo())[0].card.name)
    stub_edge.choose = lambda offers: [remote.offer(offers[0].fps)]
    with pytest.raises(ProtocolError, match="was not offered"):
        async with UeSession(UeSettings(stub_edge.url, **changes)):
            pass
    assert "m=video" not in stub_edge.request.offer
