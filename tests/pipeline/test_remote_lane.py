from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from models import Zoo
from pipeline.frames import Frame
from pipeline.ledger import MAX_IN_FLIGHT
from pipeline.offers import remote_points
from pipeline.outcome import FrameResult
from pipeline.remote import RemoteLane, RemotePart
from rtc import (
    OUTPUT_DETECTIONS,
    Dropped,
    DropReason,
    OutgoingPicture,
    Result,
    SentPicture,
    Status,
    heartbeat_result,
    pack_result,
)
from splitrtc_errors import ProtocolError

POINT = remote_points(Zoo())[0]


class Peer:
    """A connection of which the test is the other end."""

    def __init__(self) -> None:
        self.sender = self.video = self
        self.offered: list[OutgoingPicture] = []
        self.expired = 0
        self.on_result: Any = None
        self.on_dropped: Any = None
        self.on_picture_sent: Any = None

    def offer(self, picture: OutgoingPicture) -> None:
        self.offered.append(picture)

    def expire(self) -> None:
        self.expired += 1

    def sends(self, frame_id: int, timestamp: int, size: int = 1000) -> None:
        self.on_picture_sent(SentPicture(frame_id, timestamp, 2, size, 0.25))

    def answers(self, timestamp: int, number: int = 1, **changes: Any) -> None:
        values: dict[str, Any] = {"status": Status.OK, "output_kind": OUTPUT_DETECTIONS, "output": b"\0"}
        values |= {"slices": 1, "received": b"\1"} | changes
        self.on_result(pack_result(Result(frame_id=number, capture_us=timestamp, **values)))


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def lane(peer: Peer) -> AsyncIterator[RemoteLane]:
    made = RemoteLane(peer, RemotePart(POINT), 1, budget=60.0, threshold=0.5, counters=Counter())  # type: ignore[arg-type]
    yield made
    made.end()


@pytest.fixture
def submit(lane: RemoteLane) -> Callable[..., list[FrameResult]]:
    """A function that submits a frame; returns what will be told of its end."""

    def submit(captured: float | None = None) -> list[FrameResult]:
        ends: list[FrameResult] = []
        frame = Frame(np.zeros((48, 64, 3), np.uint8), 0, time.monotonic() if captured is None else captured)
        lane.submit(frame, lane.process(frame), ends.append)
        return ends

    return submit


Submit = Callable[..., list[FrameResult]]


def test_a_picture_has_the_size_of_the_models_input(lane: RemoteLane, peer: Peer, submit: Submit) -> None:
    submit()
    (picture,) = peer.offered
    assert (picture.frame_id, picture.width, picture.height) == (1, *POINT.card.image_size)
    assert len(picture.i420) == picture.width * picture.height * 3 // 2
    assert picture.expires == picture.captured + 60.0


def test_results_find_their_frames_by_timestamp(lane: RemoteLane, peer: Peer, submit: Submit) -> None:
    """The first frames never arrived, so the edge's numbers have nothing to do with the UE's; nor has their order."""
    ends = [submit() for _ in range(4)]
    for frame_id, timestamp in ((1, 2**32 - 3000), (2, 0), (3, 3000), (4, 6000)):  # it wraps
        peer.sends(frame_id, timestamp)
    peer.answers(3000, number=1)
    peer.answers(0, number=2)
    peer.answers(2**32 - 3000, number=3, status=Status.SUPERSEDED, output_kind=0, output=b"", decoded=True)
    told = [[(end.frame_id, end.status, end.bytes_sent) for end in of_frame] for of_frame in ends]
    assert told == [[(1, "superseded", 1000)], [(2, "ok", 1000)], [(3, "ok", 1000)], []]
    assert ends[2][0].timings.encode is not None
    assert ends[2][0].timings.encode > 0.25


def test_results_for_nothing_that_was_sent_are_counted(lane: RemoteLane, peer: Peer, submit: Submit) -> None:
    ends = submit()
    peer.answers(3000)  # not sent yet
    peer.sends(1, 3000)
    peer.answers(3001)
    peer.on_result(heartbeat_result())
    assert not ends
    peer.answers(3000)
    peer.answers(3000)
    assert [end.status for end in ends] == ["ok"]
    assert lane._counters["results_too_late"] + lane._counters["results_repeated"] == 3


def test_a_result_of_several_slices_contradicts_a_picture(lane: RemoteLane, peer: Peer, submit: Submit) -> None:
    ends = submit()
    peer.sends(1, 3000)
    with pytest.raises(ProtocolError, match="contradicts"):
        peer.answers(3000, slices=2, received=b"\3")
    assert [end.status for end in ends] == ["error"]


def test_pictures_that_are_not_sent(lane: RemoteLane, peer: Peer, submit: Submit) -> None:
    ends = [submit() for _ in range(3)]
    for frame_id, reason in ((1, DropReason.REPLACED), (2, DropReason.EXPIRED), (3, DropReason.CLOSED)):
        peer.on_dropped(Dropped(frame_id, reason, 0))
    assert [(end.status, end.dropped_at, end.bytes_sent) for (end,) in ends] == [
        ("skipped", "sender", 0),
        ("skipped", "sender deadline", 0),
        ("lost", "network", 0),
    ]


def test_what_is_not_answered_in_time_is_lost(lane: RemoteLane, peer: Peer, submit: Submit) -> None:
    ends = submit(captured=time.monotonic() - 61.0)
    lane._expire()
    assert peer.expired == 2  # the track, and the sender that has nothing
    assert [(end.status, end.dropped_at) for end in ends] == [("lost", "network")]
    peer.sends(1, 3000)  # it was in the encoder
    peer.answers(3000)
    assert len(ends) == 1


def test_nothing_is_sent_any_more_when_the_session_is_over(lane: RemoteLane, peer: Peer, submit: Submit) -> None:
    first = submit()
    lane.end()
    assert [end.status for end in first] == ["lost"]
    assert [(end.status, end.dropped_at) for end in submit()] == [("skipped", "link")]
    assert len(peer.offered) == 1


def test_timestamps_are_not_remembered_for_ever(lane: RemoteLane, peer: Peer) -> None:
    for frame_id in range(1, 3 * MAX_IN_FLIGHT):
        peer.sends(frame_id, 3000 * frame_id)
    assert len(lane._sent_as) == MAX_IN_FLIGHT


def test_a_part_for_another_session_counts_from_one() -> None:
    part = RemotePart(POINT)
    frame = Frame(np.zeros((48, 64, 3), np.uint8), 0, time.monotonic())
    assert [part.process(frame).frame_id, part.process(frame).frame_id] == [1, 2]
    assert part.for_new_session().process(frame).frame_id == 1
    assert part.process(frame).frame_id == 3
    assert (part.provider, part.crossing) == ("none", (POINT.card.image,))
