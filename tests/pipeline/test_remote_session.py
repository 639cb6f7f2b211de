from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from aiortc.codecs.vpx import Vp8Encoder, vp8_depayload
from aiortc.rtp import HeaderExtensionsMap, RtpPacket

from models import Preprocessor, Zoo
from models.pictures import bgr_of, i420_of
from pipeline import limits
from pipeline.edge import Edge
from pipeline.edge_session import MAX_ERRORS
from pipeline.offers import OperatingPoint, points, remote_points
from pipeline.remote_session import VideoDecoder
from rtc import OutgoingPicture, Peer, Result, SentPicture, Status, parse_result
from signaling import (
    Bye,
    ControlMessage,
    ParameterSetAck,
    ParameterSetReject,
    ParameterSetRelease,
    ParameterSetReleased,
    SignalingClient,
    attributes_of,
    parse_control,
    serialise_control,
)
from splitrtc_errors import CodecError, Rejected

WAIT = 20.0
(POINT,) = remote_points(Zoo(), model=points(Zoo())[0].card.name)
WIDTH, HEIGHT = POINT.card.image_size

Until = Callable[[Callable[[], bool]], Awaitable[None]]


def encoded(pictures: list[np.ndarray]) -> list[bytes]:
    """Pictures as VP8 frames."""
    encoder = Vp8Encoder()
    frames = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(i420_of(picture), format="yuv420p")
        frame.pts, frame.time_base = 3000 * number, Fraction(1, 90_000)
        frames.append(b"".join(map(vp8_depayload, encoder.encode(frame)[0])))
    return frames


@pytest.fixture(scope="module")
def fitted(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Pictures in the size of the model's input."""
    preprocessor = Preprocessor(POINT.card)
    return [preprocessor.fit(picture).copy() for picture in pictures[:4]]


# The decoder


def test_a_picture_becomes_the_models_input(fitted: list[np.ndarray]) -> None:
    decoder = VideoDecoder(POINT.card)
    preprocessor = Preprocessor(POINT.card)
    for number, (frame, picture) in enumerate(zip(encoded(fitted), fitted, strict=True), 1):
        decoded = decoder.decode(number, [frame], intra=number == 1)
        assert (decoded.concealed, decoded.damaged_slices) == (0.0, 0)
        (tensor,) = decoded.tensors
        assert tensor.shape == POINT.card.image.shape
        assert tensor.dtype == np.dtype(POINT.card.image.dtype)
        without_video = preprocessor.prepare(bgr_of(i420_of(picture), (WIDTH, HEIGHT)))
        assert np.abs(tensor - without_video).mean() < 0.1 * np.abs(without_video).mean()


def test_frames_without_what_they_are_predicted_from_are_refused(fitted: list[np.ndarray]) -> None:
    frames = encoded(fitted)
    decoder = VideoDecoder(POINT.card)
    with pytest.raises(CodecError, match="predicted from one that was not decoded"):
        decoder.decode(2, [frames[1]], intra=False)
    decoder.decode(1, [frames[0]])
    with pytest.raises(CodecError, match="predicted from one that was not decoded"):
        decoder.decode(3, [frames[2]], intra=False)
    with pytest.raises(CodecError):  # and from then on, until a key frame
        decoder.decode(4, [frames[3]], intra=False)
    decoder.decode(5, [frames[0]])


def test_a_gigantic_picture_takes_no_memory() -> None:
    head = b"\x10\0\0\x9d\x01\x2a" + (16_383).to_bytes(2, "little") * 2
    decoder = VideoDecoder(POINT.card)
    with pytest.raises(CodecError, match=r"a key frame of \(16383, 16383\) pixels, expected \(300, 300\)"):
        decoder.decode(1, [head + bytes(1000)])
    assert decoder._loaded is None


def test_garbage_is_refused(fitted: list[np.ndarray]) -> None:
    chance = random.Random(1)
    key = encoded(fitted[:1])[0]
    for number in range(1, 60):
        decoder = VideoDecoder(POINT.card)
        damaged = bytearray(key[: chance.randrange(len(key))])
        for _ in range(10):
            if len(damaged) > 10:
                damaged[chance.randrange(10, len(damaged))] = chance.randrange(256)
        with contextlib.suppress(CodecError):
            (tensor,) = decoder.decode(number, [bytes(damaged)]).tensors
            assert np.isfinite(tensor).all()
    with pytest.raises(CodecError):
        VideoDecoder(POINT.card).decode(1, [None])


def test_a_frame_that_is_not_to_be_shown_is_refused(fitted: list[np.ndarray]) -> None:
    key = bytearray(encoded(fitted[:1])[0])
    key[0] &= ~0x10  # RFC 6386, section 9.1: show_frame
    with pytest.raises(CodecError, match="of 0 pictures"):
        VideoDecoder(POINT.card).decode(1, [bytes(key)])


# Sessions


class VideoUe:
    """A UE as far as the network can tell; what it sends is the test's to decide."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.sent: dict[int, SentPicture] = {}
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._control: asyncio.Queue[ControlMessage | None] = asyncio.Queue()
        self.results: asyncio.Queue[Result] = asyncio.Queue()
        peer.on_control = lambda text: self._control.put_nowait(parse_control(text))
        peer.on_result = self._on_result
        peer.on_picture_sent = lambda sent: self.sent.update({sent.timestamp: sent})
        peer.on_closed = self.ended.set_result

    def _on_result(self, data: bytes) -> None:
        result = parse_result(data)
        if not result.heartbeat:
            self.results.put_nowait(result)

    async def result(self) -> Result:
        async with asyncio.timeout(WAIT):
            return await self.results.get()

    async def say(self, message: ControlMessage) -> ControlMessage | None:
        self.peer.send_control(serialise_control(message))
        return await self.heard()

    async def heard(self) -> ControlMessage | None:
        async with asyncio.timeout(WAIT):
            return await self._control.get()

    async def announce(self, **changes: Any) -> ControlMessage | None:
        announced = POINT.parameter_set((POINT.card.image,), deadline=60.0, budget=60.0)
        return await self.say(type(announced)(**{**_fields(announced), "id": 1, **changes}))

    def show(self, picture: np.ndarray, frame_id: int = 1) -> None:
        height, width = picture.shape[:2]
        now = time.monotonic()
        planes = i420_of(picture).tobytes()
        self.peer.video.offer(OutgoingPicture(frame_id, width, height, planes, now, now + 60.0))

    async def send_rtp(
        self, payload: bytes, sequence: int, timestamp: int = 1, marker: int = 1, ssrc: int | None = None
    ) -> None:
        sender = self.peer.video.sender
        assert sender is not None
        packet = RtpPacket(payload_type=97, sequence_number=sequence, timestamp=timestamp, marker=marker)
        packet.ssrc, packet.payload = sender._ssrc if ssrc is None else ssrc, payload
        await sender.transport._send_rtp(packet.serialize(HeaderExtensionsMap()))


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


Connect = Callable[..., contextlib.AbstractAsyncContextManager[VideoUe]]


@pytest.fixture
def connect_video() -> Connect:
    @contextlib.asynccontextmanager
    async def connect(
        url: str, offered: tuple[OperatingPoint, ...] = (POINT,), *, video: bool = True
    ) -> AsyncIterator[VideoUe]:
        async with SignalingClient(url) as signaling, Peer(bind="127.0.0.1") as peer:
            ue = VideoUe(peer)
            attributes = attributes_of([point.offer(30.0) for point in offered])
            await peer.accept_answer(await signaling.connect(await peer.create_offer(attributes, video=video)))
            await peer.opened(WAIT)
            yield ue

    return connect


async def test_a_picture_is_answered_under_its_timestamp(
    edge: Edge, connect_video: Connect, fitted: list[np.ndarray]
) -> None:
    async with connect_video(edge.url) as ue:
        assert await ue.announce() == ParameterSetAck(1)
        for frame_id, picture in enumerate(fitted, 1):
            ue.show(picture, frame_id)
            result = await ue.result()
            assert ue.sent[result.capture_us].frame_id == frame_id
            assert (result.status, result.slices, result.received) == (Status.OK, 1, b"\1")
            assert min(result.decode_us, result.tail_us, result.post_us) > 0
    assert edge.outcomes["ok"] == len(fitted)


async def test_a_set_that_was_not_agreed_on_is_refused_and_video_without_one_is_dropped(
    edge: Edge, connect_video: Connect, fitted: list[np.ndarray], until: Until
) -> None:
    async with connect_video(edge.url) as ue:
        assert isinstance(await ue.announce(profile="raw"), ParameterSetReject)
        ue.show(fitted[0])
        await until(lambda: edge.outcomes["video_without_set"] == 1)
        assert ue.results.empty()


async def test_another_set_begins_with_a_key_frame(
    edge: Edge, connect_video: Connect, fitted: list[np.ndarray]
) -> None:
    async with connect_video(edge.url) as ue:
        await ue.announce()
        ue.show(fitted[0], 1)
        assert (await ue.result()).status is Status.OK
        assert await ue.announce(id=2) == ParameterSetAck(2)
        assert await ue.say(ParameterSetRelease(1)) == ParameterSetReleased(1)
        frame_id = 1
        while ue.results.empty():  # the request for a key frame takes a while
            frame_id += 1
            ue.show(fitted[frame_id % 4], frame_id)
            await asyncio.sleep(0.02)
        assert (await ue.result()).status is Status.OK


async def test_pictures_of_another_size_fail_and_end_the_session(
    edge: Edge, connect_video: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtc.vp8.KEY_INTERVAL", 0.0)
    async with connect_video(edge.url) as ue:
        await ue.announce()
        frame_id = 0
        while not ue.ended.done():
            frame_id += 1
            ue.show(np.full((64, 64, 3), frame_id % 250, np.uint8), frame_id)
            await asyncio.sleep(0.002)
        assert await ue.heard() == Bye(f"{MAX_ERRORS} frames in a row failed")
    # Those that waited when the session ended fail, too.
    assert MAX_ERRORS <= edge.outcomes["error"] < 2 * MAX_ERRORS


async def test_malformed_video_harms_nobody(
    edge: Edge, connect_video: Connect, fitted: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr("rtc.vp8.PATIENCE", 0.0)
    chance = random.Random(7)
    sequence = 0
    async with connect_video(edge.url) as ue:
        await ue.announce()
        for number in range(300):
            payload = chance.randbytes(chance.randrange(60))
            if number % 3 == 0:
                payload = b"\x10" + payload
            sequence += chance.choice((1, 1, 1, 2, 5, 700))
            await ue.send_rtp(payload, sequence % 2**16, chance.randrange(2**32), chance.randrange(2))
        (key,) = encoded(fitted[:1])
        for attempt in range(2):  # the first tells that what is missing will not come
            packets = [key[i : i + 1000] for i in range(0, len(key), 1000)]
            for i, data in enumerate(packets):
                sequence += 1
                start = b"\x10" if i == 0 else b"\x00"
                await ue.send_rtp(start + data, sequence % 2**16, 90_000 + attempt, i == len(packets) - 1)
        results = [await ue.result()]
        while results[-1].status is not Status.OK:
            results.append(await ue.result())
        assert results[-1].capture_us in (90_000, 90_001)
    await until(lambda: not edge._sessions)
    assert edge.outcomes["video_malformed"] > 0


async def test_streams_that_were_not_announced_are_dropped(
    edge: Edge, connect_video: Connect, fitted: list[np.ndarray]
) -> None:
    """libsrtp and aiortc would keep something for each, for ever."""
    async with connect_video(edge.url) as ue:
        await ue.announce()
        for ssrc in range(200):
            await ue.send_rtp(b"\x10" + bytes(20), 1, ssrc=ssrc)
        ue.show(fitted[0])
        assert (await ue.result()).status is Status.OK
        (session,) = edge._sessions.values()
        (receiver,) = session._peer._connection.getReceivers()
        assert len(receiver._RTCRtpReceiver__remote_streams) == 1  # type: ignore[attr-defined]


async def test_too_much_video_ends_the_session(
    edge: Edge, connect_video: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GENEROSITY", 0.01)
    async with connect_video(edge.url) as ue:
        await ue.announce()
        for sequence in range(2_000):
            if ue.ended.done():
                break
            await ue.send_rtp(b"\x00" + bytes(20), sequence % 2**16)
            await asyncio.sleep(0)
        assert await ue.heard() == Bye("the UE sends too many video packets")
    assert edge.outcomes["video_packets_beyond_limit"] > 0


async def test_video_beside_a_split_is_inactive(edge: Edge, connect_video: Connect) -> None:
    """A UE may offer both; the edge takes its first."""
    async with connect_video(edge.url, (points(Zoo())[0], POINT)) as ue:
        description = ue.peer._connection.remoteDescription.sdp
        assert description[description.index("m=video") :].count("a=inactive") == 1
        ue.show(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        assert isinstance(await ue.announce(), ParameterSetReject)
        assert not ue.sent
    assert edge.outcomes["sessions_served"] == 1


async def test_an_offer_of_video_without_a_section_for_it_is_malformed(edge: Edge, connect_video: Connect) -> None:
    with pytest.raises(Rejected, match="malformatted"):
        async with connect_video(edge.url, video=False):
            pass
