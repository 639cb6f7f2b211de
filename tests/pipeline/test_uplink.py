from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from models import EncodedFrame
from pipeline.device import CodedFrame
from pipeline.frames import Frame
from pipeline.outcome import FrameResult
from pipeline.uplink import LOOK_BACK, Uplink
from rtc import Dropped, DropReason, OutgoingFrame, Result, Status, bitmap_of, pack_result


class Device:
    """Notes what its encoder would be told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, list[bool]]] = []
        self.point = self.card = self
        self.labels = ("cat",)

    def acknowledge(self, frame_id: int, received: list[bool]) -> None:
        self.told.append((frame_id, received))

    def place(self, detections: Any, _: Frame) -> Any:
        return detections


class Peer:
    """A connection to nowhere."""

    def __init__(self) -> None:
        self.sender = self
        self.on_result: Any = None
        self.on_dropped: Any = None

    def offer(self, frame: OutgoingFrame) -> None:
        pass

    def expire(self) -> None:
        pass


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
async def uplink(device: Device) -> AsyncIterator[Uplink]:
    made = Uplink(Peer(), device, 1, budget=60.0, threshold=0.5, counters=Counter())  # type: ignore[arg-type]
    yield made
    made.end()


def submit(uplink: Uplink, frame_id: int, slices: int) -> None:
    frame = Frame(np.zeros((2, 2, 3), np.uint8), frame_id, float(frame_id))
    coded = CodedFrame(frame_id, EncodedFrame([b"slice"] * slices, frame_id == 1, frame_id - 1 or None), 0, 0, 0, 0)

    def finish(_: FrameResult) -> None:
        pass

    uplink.submit(frame, coded, finish)


def answer(uplink: Uplink, frame_id: int, status: Status, received: list[bool], **fields: Any) -> None:
    fields.setdefault("history", (1 << min(frame_id - 1, 32)) - 1)
    if status.has_output:
        fields |= {"output_kind": 1, "output": b"\0"}
    uplink._on_result(
        pack_result(
            Result(
                status=status,
                frame_id=frame_id,
                capture_us=frame_id * 10**6,
                slices=len(received),
                received=bitmap_of(received),
                **fields,
            )
        )
    )


@pytest.mark.parametrize(
    ("status", "received", "decoded", "told"),
    [
        (Status.OK, [True, True], False, [True, True]),
        (Status.INCOMPLETE, [True, False], False, [True, False]),
        (Status.SUPERSEDED, [True, False], True, [True, False]),
        (Status.SUPERSEDED, [True, True], False, [False, False]),
        (Status.LATE, [True, False], True, [True, False]),
        (Status.ERROR, [True, True], False, [False, False]),
    ],
)
async def test_the_encoder_is_told_what_the_decoder_took_in(
    uplink: Uplink, device: Device, status: Status, received: list[bool], decoded: bool, told: list[bool]
) -> None:
    submit(uplink, 1, len(received))
    answer(uplink, 1, status, received, decoded=decoded)
    assert device.told == [(1, told)]


async def test_of_a_frame_with_damage_nothing_is_told(uplink: Uplink, device: Device) -> None:
    submit(uplink, 1, 2)
    answer(uplink, 1, Status.INCOMPLETE, [True, True])
    assert device.told == []


async def test_an_answer_counts_for_the_encoder_when_the_frame_is_given_up_already(
    uplink: Uplink, device: Device
) -> None:
    answer(uplink, 1, Status.OK, [True])
    assert device.told == [(1, [True])]


async def test_a_later_answer_tells_of_frames_of_one_slice_that_never_came(uplink: Uplink, device: Device) -> None:
    for frame_id, slices in ((1, 1), (2, 1), (3, 2), (4, 1)):
        submit(uplink, frame_id, slices)
    answer(uplink, 4, Status.OK, [True], history=0b010)
    # Of the third, which has two slices, one may have come; the second has come.
    assert device.told == [(4, [True]), (1, [False])]


async def test_it_looks_back_a_little(uplink: Uplink, device: Device) -> None:
    for frame_id in range(1, LOOK_BACK + 3):
        submit(uplink, frame_id, 1)
    answer(uplink, LOOK_BACK + 2, Status.OK, [True], history=0)
    assert device.told == [(LOOK_BACK + 2, [True]), *((frame_id, [False]) for frame_id in range(2, LOOK_BACK + 2))]


async def test_what_was_never_sent_is_told(uplink: Uplink, device: Device) -> None:
    for frame_id in (1, 2):
        submit(uplink, frame_id, 2)
    uplink._on_dropped(Dropped(1, DropReason.REPLACED, 0))
    uplink._on_dropped(Dropped(2, DropReason.REPLACED, 1))
    assert device.told == [(1, [False, False])]
