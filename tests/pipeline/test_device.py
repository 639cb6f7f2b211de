from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from models import Detections, EncodedFrame, PartitionStore, Zoo, make_decoder, parse_profile
from pipeline.device import MAX_ACKNOWLEDGEMENTS, DevicePart
from pipeline.frames import Frame
from pipeline.offers import OperatingPoint, points
from rtc import Result, Status, bitmap_of, unit_payload_limit
from splitrtc_errors import BadArgument, CodecError, UserError


@pytest.fixture(scope="module")
def point() -> OperatingPoint:
    return points(Zoo(), partition="bottleneck_7", profile="q4-zstd")[0]


def device_of(point: OperatingPoint, provider: str = "cpu") -> DevicePart:
    return DevicePart(point, PartitionStore(), provider=provider, threads=1, max_payload=unit_payload_limit())


@pytest.fixture(scope="module")
def device(point: OperatingPoint) -> DevicePart:
    return device_of(point)


def frame(size: tuple[int, int] = (640, 480), *, age: float = 0.25) -> Frame:
    width, height = size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Frame(image, 0, time.monotonic() - age)


def answer(frame_id: int, received: list[bool]) -> Result:
    return Result(status=Status.OK, frame_id=frame_id, capture_us=0, slices=len(received), received=bitmap_of(received))


def test_a_frame_becomes_slices_that_its_decoder_understands(point: OperatingPoint, device: DevicePart) -> None:
    coded = device.process(frame())
    assert 0 < max(map(len, coded.coded.slices)) <= unit_payload_limit()
    crossing = device.partition.crossing
    decoded = make_decoder(parse_profile(point.profile), crossing, point.calibration).decode(
        coded.frame_id, coded.coded.slices
    )
    assert (decoded.damaged_slices, decoded.concealed) == (0, 0)
    assert [tensor.shape for tensor in decoded.tensors] == [spec.shape for spec in crossing]


def test_every_frame_has_an_id_of_its_own_and_every_step_is_timed(device: DevicePart) -> None:
    first, second = device.process(frame()), device.process(frame((64, 48)))
    assert second.frame_id == first.frame_id + 1
    assert min(first.preprocess, first.head, first.encode) > 0
    assert first.wait >= 0.25  # since the capture
    assert first.wait + first.preprocess + first.head + first.encode < 5


def test_the_provider_is_told(device: DevicePart) -> None:
    assert device.provider == "cpu"


class Encoder:
    """Notes what it is told, and cannot encode every other frame."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[bool]]] = []

    def acknowledged(self, frame_id: int, received: list[bool]) -> None:
        self.calls.append((frame_id, list(received)))

    def encode(self, frame_id: int, tensors: object) -> EncodedFrame:
        if frame_id % 2:
            raise CodecError("a value cannot be coded")
        return EncodedFrame([b"slice"])


def test_acknowledgements_reach_the_encoder_before_its_next_frame(point: OperatingPoint) -> None:
    device = device_of(point)
    device._encoder = encoder = Encoder()  # type: ignore[assignment]  # the codecs of now make nothing of them
    device.acknowledge(5, [True, False, True])
    device.acknowledge(6, [True])
    assert encoder.calls == []
    with pytest.raises(CodecError):
        device.process(frame())
    assert encoder.calls == [(5, [True, False, True]), (6, [True])]
    assert device.process(frame()).frame_id == 2  # a frame that failed has used its id up
    assert len(encoder.calls) == 2


def test_acknowledgements_of_a_device_that_rests_do_not_pile_up(point: OperatingPoint) -> None:
    device = device_of(point)
    device._encoder = encoder = Encoder()  # type: ignore[assignment]
    for frame_id in range(1, MAX_ACKNOWLEDGEMENTS + 11):
        device.acknowledge(frame_id, [True])
    with pytest.raises(CodecError):
        device.process(frame())
    assert [frame_id for frame_id, _ in encoder.calls] == list(range(11, MAX_ACKNOWLEDGEMENTS + 11))


def test_detections_are_placed_in_the_frame_they_were_found_in(device: DevicePart) -> None:
    whole_input = Detections(
        np.array([[0, 0, 300, 300]], np.float32), np.array([0.5], np.float32), np.array([3], np.int64)
    )
    placed = device.place(whole_input, frame((640, 480)))
    assert placed.xyxy.tolist() == [[0, 0, 640, 480]]
    assert (placed.scores.tolist(), placed.classes.tolist()) == ([0.5], [3])


def test_a_provider_that_does_not_exist_is_a_bad_argument(point: OperatingPoint) -> None:
    with pytest.raises(BadArgument, match="provider"):
        device_of(point, "abacus")


def test_a_cache_that_cannot_be_written_is_told(point: OperatingPoint, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(UserError, match="SPLITRTC_CACHE"):
        DevicePart(point, PartitionStore(in_the_way), provider="cpu", threads=1, max_payload=1000)


def test_for_a_new_session_it_counts_from_one_and_keeps_the_head(point: OperatingPoint) -> None:
    old = device_of(point)
    old.process(frame())
    old.acknowledge(1, [True])
    new = old.for_new_session()
    assert (new.point, new.partition, new.provider) == (old.point, old.partition, old.provider)
    assert new._head is old._head
    assert new._encoder is not old._encoder
    assert not new._acknowledgements
    assert [new.process(frame()).frame_id for _ in range(2)] == [1, 2]
    assert old.process(frame()).frame_id == 2
