from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import av
import numpy as np
import pytest

from rtc import Dropped, DropReason, OutgoingPicture, Peer, SentPicture, VideoFrame
from rtc.pictures import Totals
from rtc.video import PictureTrack
from splitrtc_errors import ProtocolError

LOOPBACK = "127.0.0.1"
SECONDS = 20.0
SIZE = 64
STEP = 12
"""The picture of frame i is plain grey of the value 20 + 12 i."""

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def picture(frame_id: int, *, budget: float = 60.0, captured: float | None = None) -> OutgoingPicture:
    planes = np.full((SIZE * 3 // 2, SIZE), 128, np.uint8)
    planes[:SIZE] = 20 + STEP * frame_id
    now = time.monotonic() if captured is None else captured
    return OutgoingPicture(frame_id, SIZE, SIZE, planes.tobytes(), now, now + budget)


class Ends:
    """A UE and an edge, and what their callbacks got."""

    def __init__(self, ue: Peer, edge: Peer) -> None:
        self.ue, self.edge = ue, edge
        self.sent: list[SentPicture] = []
        self.dropped: list[Dropped] = []
        self.frames: asyncio.Queue[VideoFrame] = asyncio.Queue()
        ue.on_picture_sent = self.sent.append
        ue.on_dropped = self.dropped.append
        edge.on_video = self.frames.put_nowait
        self._decoder: Any = av.CodecContext.create("vp8", "r")

    async def connect(self, *, accept: bool = True) -> None:
        offer = await self.ue.create_offer(video=True)
        await self.ue.accept_answer(await self.edge.create_answer(offer, video=accept))
        await asyncio.gather(self.ue.opened(SECONDS), self.edge.opened(SECONDS))

    async def seen(self) -> tuple[int, int]:
        """The RTP timestamp of the next frame at the edge, and which frame its picture says it is."""
        async with asyncio.timeout(SECONDS):
            frame = await self.frames.get()
        (decoded,) = self._decoder.decode(av.Packet(frame.data))
        return frame.timestamp, round((float(decoded.to_ndarray()[:SIZE].mean()) - 20) / STEP)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    async with Peer(bind=LOOPBACK) as ue, Peer(bind=LOOPBACK) as edge:
        yield Ends(ue, edge)


async def test_frames_arrive_under_the_timestamp_they_were_sent_with(ends: Ends) -> None:
    await ends.connect()
    captured = time.monotonic()
    for frame_id in (1, 2, 3):
        ends.ue.video.offer(picture(frame_id, captured=captured))  # two at the same time: still told apart
        timestamp, seen = await ends.seen()
        assert seen == frame_id
        assert (ends.sent[-1].frame_id, ends.sent[-1].timestamp) == (frame_id, timestamp)
        assert ends.sent[-1].packets == 1
        assert 10 < ends.sent[-1].size < 1300
    assert not ends.dropped


async def test_one_picture_waits_and_a_newer_one_replaces_it(ends: Ends) -> None:
    await ends.connect()
    for frame_id in (1, 2, 3, 4):
        ends.ue.video.offer(picture(frame_id))
    assert [(dropped.frame_id, dropped.reason) for dropped in ends.dropped] == [
        (frame_id, DropReason.REPLACED) for frame_id in (1, 2, 3)
    ]
    assert (await ends.seen())[1] == 4
    assert [sent.frame_id for sent in ends.sent] == [4]


async def test_a_picture_that_is_late_is_not_sent(ends: Ends) -> None:
    await ends.connect()
    ends.ue.video.offer(picture(1, budget=0.0))
    ends.ue.video.offer(picture(2, budget=0.0))
    ends.ue.video.expire()
    ends.ue.video.expire()
    ends.ue.video.offer(picture(3))
    assert (await ends.seen())[1] == 3
    assert [(dropped.frame_id, dropped.reason) for dropped in ends.dropped] == [
        (1, DropReason.REPLACED),
        (2, DropReason.EXPIRED),
    ]


async def test_a_key_frame_is_sent_when_the_edge_needs_one(ends: Ends) -> None:
    await ends.connect()
    keys = []
    for frame_id in range(1, 9):
        ends.ue.video.offer(picture(frame_id))
        frame = await asyncio.wait_for(ends.frames.get(), SECONDS)
        keys.append(frame.key)
        if frame_id == 3:
            ends.edge.need_key_frame()
            break
    # Nothing comes any more until the sender has heard of it: the frame that carries the request there is passed over.
    frame_id = 4
    while ends.frames.empty():
        ends.ue.video.offer(picture(frame_id % 8))
        frame_id += 1
        await asyncio.sleep(0.01)
    assert keys == [True, False, False]
    assert (await ends.frames.get()).key
    assert ends.edge.video_counters.without_key >= 1


async def test_video_that_is_not_accepted_is_not_sent(ends: Ends) -> None:
    await ends.connect(accept=False)
    ends.ue.video.offer(picture(1))
    got = asyncio.Event()
    ends.edge.on_control = lambda text: got.set()
    ends.ue.send_control("the channels work")
    await asyncio.wait_for(got.wait(), SECONDS)
    assert ends.frames.empty()
    assert not ends.sent
    await ends.ue.close()


async def test_what_waits_when_the_connection_ends_is_dropped(ends: Ends) -> None:
    await ends.connect()
    ends.ue.video.offer(picture(1))
    await ends.seen()
    await ends.ue.close()
    ends.ue.video.offer(picture(2))
    assert [(dropped.frame_id, dropped.reason) for dropped in ends.dropped] == [(2, DropReason.CLOSED)]


async def test_an_encoder_that_fails_ends_the_connection(ends: Ends) -> None:
    await ends.connect()
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    ends.ue.on_closed = ended.set_result
    broken = picture(1)
    ends.ue.video.offer(OutgoingPicture(1, SIZE, SIZE + 2, broken.i420, broken.captured, broken.expires))
    async with asyncio.timeout(SECONDS):
        assert await ended == "no more video can be sent"


async def test_packets_beyond_the_limit_are_dropped(ends: Ends) -> None:
    size: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def refuse(of_packet: int) -> bool:
        size.set_result(of_packet)
        return False

    ends.edge.admits_video = refuse
    await ends.connect()
    ends.ue.video.offer(picture(1))
    assert await asyncio.wait_for(size, SECONDS) > 10
    assert ends.frames.empty()


async def test_an_answer_with_another_set_of_sections_is_refused(ends: Ends) -> None:
    """The edge adds a video section that nobody offered."""
    offer = await ends.ue.create_offer()
    answer = await ends.edge.create_answer(offer)
    async with Peer(bind=LOOPBACK) as other:
        video = (await other.create_offer(video=True)).replace("actpass", "active")
        section = video[video.index("m=video") : video.index("m=application")]
        with pytest.raises(ProtocolError, match="not a usable description"):
            await ends.ue.accept_answer(answer + section)


async def test_an_answer_that_sends_video_gets_nothing_decoded(ends: Ends) -> None:
    """The edge answers that it sends video, too; whatever it sends is dropped before any decoder."""
    offer = await ends.ue.create_offer(video=True)
    answer = await ends.edge.create_answer(offer, video=True)
    await ends.ue.accept_answer(answer.replace("a=recvonly", "a=sendrecv"))
    await asyncio.gather(ends.ue.opened(SECONDS), ends.edge.opened(SECONDS))
    (receiver,) = ends.ue._connection.getReceivers()
    assert type(receiver._RTCRtpReceiver__jitter_buffer).__name__ == "_Intake"  # type: ignore[attr-defined]


async def test_the_edge_answers_only_a_video_section_that_is_there(ends: Ends) -> None:
    with pytest.raises(ProtocolError, match="has no video section"):
        await ends.edge.create_answer(await ends.ue.create_offer(), video=True)
    with pytest.raises(RuntimeError, match="no video was offered"):
        _ = ends.ue.video


async def test_a_picture_that_the_encoder_passes_over_is_dropped() -> None:
    sent: list[SentPicture] = []
    dropped: list[Dropped] = []
    totals = iter([Totals(0, 0, 0), Totals(3000, 2, 1500)])
    track = PictureTrack(sent.append, dropped.append, lambda _: next(totals))
    track.sender = object()  # type: ignore[assignment]
    for frame_id in (1, 2, 3):
        track.offer(picture(frame_id))
        await track.recv()
    assert [(drop.frame_id, drop.reason) for drop in dropped] == [(1, DropReason.REPLACED)]
    assert [(done.frame_id, done.timestamp, done.packets, done.size) for done in sent] == [(2, 3000, 2, 1500)]
    track.stop()
