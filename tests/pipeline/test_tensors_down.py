from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import DecodedFrame, ModelCard, TensorSpec, Zoo, make_encoder, parse_profile
from pipeline.edge import Edge
from pipeline.offers import OperatingPoint, points
from pipeline.outcome import FrameResult
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.tensors_down import OutputReceiver, OutputSender
from pipeline.ue import UeSession
from rtc import (
    OUTPUT_DETECTIONS,
    OUTPUT_TENSORS,
    OutgoingFrame,
    Peer,
    ReceivedFrame,
    Result,
    Status,
    is_result,
    parse_result,
    units_of_frame,
)
from signaling import (
    Bye,
    ParameterSet,
    ParameterSetAck,
    ParameterSetReject,
    ParameterSetRelease,
    ParameterSetReleased,
    SignalingClient,
    attributes_of,
    parse_control,
    serialise_control,
)
from splitrtc_errors import CodecError, ProtocolError, TensorError

WAIT = 20.0

pytestmark = pytest.mark.usefixtures("patient_edges")


@pytest.fixture
def point(scene: Path) -> OperatingPoint:
    return points(Zoo([scene]), model="scene")[0]


CARD = ModelCard.from_json(
    {
        "format": 1, "name": "scene", "title": "scene", "task": "tensors", "file": "scene.onnx", "size": 1,
        "digest": "sha-256:" + "1" * 64, "licence": "none", "source": "made for tests", "accuracy": "none",
        "inputs": [{"name": "picture", "type": "float32", "shape": [1, 3, 8, 8]}],
        "outputs": [
            {"name": "larger", "type": "float32", "shape": [1, 3, 64, 64]},
            {"name": "classes", "type": "int64", "shape": [1, 1, 8, 8]},
            {"name": "brightest", "type": "float32", "shape": []},
        ],
        "partitions": [{"name": "features", "tensors": ["features"], "default": True}],
        "profiles": ["raw-zstd"], "default_profile": "raw-zstd",
    }
)  # fmt: skip
POINT = OperatingPoint(CARD, CARD.default_partition, "raw-zstd", None)
"""Of a model of which no file is needed, where nothing is computed."""


def up(point: OperatingPoint, **changes: Any) -> ParameterSet:
    return replace(point.parameter_set(point.card.inputs, deadline=1.0, budget=2.0), id=7, **changes)


def down(point: OperatingPoint, id_: int = 1, **changes: Any) -> ParameterSet:
    """The set that an edge announces, unless changed."""
    values = {"direction": "down", "profile": "raw", "calibration": None, "tensors": point.card.outputs}
    return replace(up(point), **{"id": id_, **values, **changes})


def outputs(point: OperatingPoint, value: float = 1.0) -> list[NDArray[Any]]:
    return [np.full(spec.shape, value, spec.dtype) for spec in point.card.outputs]


def frame_of(frame_id: int) -> ReceivedFrame:
    """A frame as the edge got it; of that, only the ids and times count here."""
    return ReceivedFrame(1, frame_id, 1000 + frame_id, 1, True, None, [b""], time.monotonic(), 0.0, True)


# The edge's side.


def test_the_set_is_announced_once_and_is_ready_when_the_ue_has_acknowledged_it() -> None:
    sender = OutputSender(POINT.card, "raw-zstd")
    announced = sender.announce(up(POINT))
    assert announced == down(POINT, profile="raw-zstd")
    assert sender.announce(up(POINT)) is None
    sender.receive(ParameterSetAck(2))
    assert not sender.ready, "there is no such set"
    sender.receive(ParameterSetAck(1))
    assert sender.ready


def test_a_refusal_is_an_error() -> None:
    sender = OutputSender(POINT.card, "raw")
    sender.announce(up(POINT))
    with pytest.raises(ProtocolError, match="the UE refused the parameter set of the outputs: too large"):
        sender.receive(ParameterSetReject(1, "too large"))


def test_outputs_that_the_card_does_not_describe_or_no_codec_takes_cost_their_frame() -> None:
    sender = OutputSender(POINT.card, "raw")
    sender.announce(up(POINT))
    sent = sender.code(frame_of(3), outputs(POINT), 0.5)
    assert (sent.frame_id, max(map(len, sent.units))) == (3, 1_159)
    with pytest.raises(TensorError):
        sender.code(frame_of(4), outputs(POINT)[::-1], 0.5)
    with pytest.raises(CodecError, match="NaN"):
        sender.code(frame_of(5), [np.full((1, 3, 64, 64), np.nan, np.float32), *outputs(POINT)[1:]], 0.5)


# The UE's side, by itself.


class Receiver:
    """A receiver, what it gave, and what it was ended with."""

    def __init__(self, profile: str = "raw") -> None:
        self.counters: Counter[str] = Counter()
        self.ends: list[str] = []
        self.frames: asyncio.Queue[tuple[int, DecodedFrame | None]] = asyncio.Queue()
        wanted = replace(POINT.output_offer(30.0), profile=profile)
        self.real = OutputReceiver(POINT.card, wanted, self.counters, self.ends.append)
        self.real.on_frame = lambda frame, decoded: self.frames.put_nowait((frame.frame_id, decoded))

    async def __aenter__(self) -> Receiver:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.real.close()

    def give(self, *units: bytes, newest: int = 200) -> None:
        for unit in units:
            self.real.receive(unit, newest)

    async def next(self) -> tuple[int, DecodedFrame | None]:
        async with asyncio.timeout(WAIT):
            return await self.frames.get()


def units(frame_id: int, value: float = 1.0) -> list[bytes]:
    sender = OutputSender(POINT.card, "raw")
    sender.announce(up(POINT))
    return list(sender.code(frame_of(frame_id), outputs(POINT, value), 1.0).units)


async def test_units_become_the_tensors_that_were_sent() -> None:
    async with Receiver() as receiver:
        assert not receiver.real.ready
        assert receiver.real.control(down(POINT)) == ParameterSetAck(1)
        assert receiver.real.ready
        receiver.give(*units(1, 5.0))
        frame_id, decoded = await receiver.next()
        assert decoded is not None
        assert (frame_id, decoded.concealed) == (1, 0.0)
        for sent, got in zip(outputs(POINT, 5.0), decoded.tensors, strict=True):
            np.testing.assert_array_equal(sent, got)


async def test_what_is_missing_keeps_the_values_of_the_frame_before() -> None:
    async with Receiver() as receiver:
        receiver.real.control(down(POINT))
        receiver.give(*units(1, 5.0))
        await receiver.next()
        receiver.give(*units(2, 7.0)[1:])
        assert receiver.real.control(ParameterSetRelease(1)) == ParameterSetReleased(1)  # so no more will come
        frame_id, decoded = await receiver.next()
        assert decoded is not None
        assert (frame_id, 0 < decoded.concealed < 0.1) == (2, True)
        larger = decoded.tensors[0].reshape(-1)
        assert set(larger[:200]) == {5.0}
        assert set(larger[300:]) == {7.0}
        receiver.give(*units(3))
    assert receiver.counters["units_unknown_set"] == len(units(3))


async def test_a_newer_frame_takes_the_place_of_one_that_waits() -> None:
    async with Receiver() as receiver:
        receiver.real.control(down(POINT))
        for frame_id in (1, 2, 3):  # in one turn of the event loop: nothing is decoded meanwhile
            receiver.give(*units(frame_id))
        assert [await receiver.next() for _ in range(2)] == [(1, None), (2, None)]
        assert (await receiver.next())[0] == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "sha-256:" + "0" * 64}, "not the one agreed on"),
        ({"partition": "0" * 32}, "not the one agreed on"),
        ({"profile": "raw-zstd"}, "not the one agreed on"),
        ({"direction": "up"}, "expected a parameter set of direction down"),
        (
            {"tensors": (TensorSpec("larger", "float32", (1, 3, 4096, 4096)),)},
            "the model, which gives larger",
        ),
    ],
)
async def test_a_set_that_contradicts_what_is_known_is_refused(changes: dict[str, Any], reason: str) -> None:
    async with Receiver() as receiver:
        answer = receiver.real.control(down(POINT, **changes))
        assert isinstance(answer, ParameterSetReject)
        assert reason in answer.reason
        assert not receiver.real.ready
        receiver.give(*units(1))
    assert receiver.counters["units_unknown_set"] == len(units(1))
    assert receiver.frames.empty()


async def test_units_of_frames_that_were_never_sent_are_counted() -> None:
    async with Receiver() as receiver:
        receiver.real.control(down(POINT))
        receiver.give(*units(1), newest=0)
        with pytest.raises(ProtocolError):
            receiver.give(b"nonsense")
    assert receiver.counters["units_too_early"] == len(units(1))


async def test_frames_that_never_end_cost_bounded_memory() -> None:
    """Each opens a frame; the oldest gives way, or its time is over."""
    async with Receiver() as receiver:
        receiver.real.control(down(POINT))
        for frame_id in range(1, 201):
            receiver.give(units_of_frame(1, frame_id, 1, [b""] * 4096)[0])
        assert len(receiver.real._reassembler._open) <= 4
        ended = {(await receiver.next())[0] for _ in range(196)}
        assert max(ended) <= 197
    assert receiver.ends == []


async def test_an_edge_that_floods_ends_the_session() -> None:
    async with Receiver() as receiver:
        receiver.real.control(down(POINT))
        unit = units(1)[0]
        while not receiver.ends:
            receiver.give(unit)
    assert receiver.ends[0] == "the edge sends too many units"
    assert receiver.counters["units_beyond_limit"] > 0


@given(st.lists(st.tuples(st.integers(0, 43), st.integers(0, 1200), st.binary(max_size=24)), max_size=30))
def test_damaged_units_cost_no_more_than_their_frame(damage: list[tuple[int, int, bytes]]) -> None:
    """Whatever bytes come: a ProtocolError or a frame, and the next one is whole."""

    async def run() -> None:
        async with Receiver() as receiver:
            receiver.real.control(down(POINT))
            messages = units(1)
            for index, place, data in damage:
                unit = messages[index % len(messages)]
                messages[index % len(messages)] = unit[:place] + data + unit[place + len(data) :]
            for message in messages:
                if not is_result(message):
                    try:
                        receiver.give(message, newest=1)
                    except ProtocolError:
                        continue
            receiver.give(*units(2, 3.0))
            while (await receiver.next())[0] != 2:
                pass
            assert not receiver.ends

    asyncio.run(run())


# The UE's side, with an edge that does as the test likes.


def session(url: str, scene: Path, **settings: Any) -> UeSession:
    return UeSession(UeSettings(url, model="scene", models=(scene,), timeout=WAIT, **settings))


async def test_an_edge_that_announces_no_outputs_is_told_so(stub_edge: Any, scene: Path) -> None:
    with pytest.raises(ProtocolError, match="the edge announced no parameter set of the model's outputs"):
        async with session(stub_edge.url, scene):
            pass


async def test_an_edge_whose_outputs_are_others_is_refused(stub_edge: Any, scene: Path, point: OperatingPoint) -> None:
    def reply(announced: ParameterSet) -> ParameterSetAck:
        stub_edge.say(down(point, tensors=point.card.outputs[:1]))
        return ParameterSetAck(announced.id)

    stub_edge.reply = reply
    with pytest.raises(ProtocolError, match="contradicts the model, which gives larger float32"):
        async with session(stub_edge.url, scene):
            pass
    told = [stub_edge.control.get_nowait() for _ in range(stub_edge.control.qsize())]
    assert any(isinstance(message, ParameterSetReject) for message in told)


async def test_every_frame_ends_once_whatever_the_edge_returns(
    stub_edge: Any, scene: Path, point: OperatingPoint, make_feed: Any
) -> None:
    def reply(announced: ParameterSet) -> ParameterSetAck:
        stub_edge.say(down(point))
        return ParameterSetAck(announced.id)

    async def next_unit() -> Any:
        feed.give(np.full((8, 8, 3), 9, np.uint8))
        async with asyncio.timeout(WAIT):
            return await stub_edge.frames.get()

    def send(messages: list[bytes], deadline: float = 60.0) -> None:
        stub_edge.peer.output_sender.offer(OutgoingFrame(1, messages, time.monotonic() + deadline))

    def coded(unit: Any, capture: int = 0) -> list[bytes]:
        frame = replace(frame_of(unit.frame_id), capture_us=unit.capture_us + capture)
        return list(sender.code(frame, outputs(point), 1.0).units)

    async def ended(run: Any) -> FrameResult:
        async with asyncio.timeout(WAIT):
            result: FrameResult = await anext(run)
        return result

    stub_edge.reply = reply
    sender, feed, tensors = OutputSender(point.card, "raw"), make_feed(), {"output_kind": OUTPUT_TENSORS, "output": b""}
    sender.announce(up(point))
    async with session(stub_edge.url, scene, budget=2.0) as ue, ue.run(feed, every=True) as run:
        stub_edge.answer(await next_unit(), status=Status.LATE, output_kind=0, output=b"")
        assert (await ended(run)).status == "late"

        stub_edge.answer(await next_unit(), output_kind=OUTPUT_DETECTIONS)
        assert (await ended(run)).dropped_at == "result", "a kind that the model does not give"

        unit = await next_unit()  # the tensors before the result
        send(coded(unit))
        stub_edge.answer(unit, **tensors)
        result = await ended(run)
        assert result.tensors is not None
        assert (result.status, set(result.tensors)) == ("ok", {"larger", "classes", "brightest"})

        unit = await next_unit()
        stub_edge.answer(unit, **tensors)
        send(coded(unit, capture=1))
        assert ((result := await ended(run)).status, result.dropped_at) == ("error", "result"), "of another moment"

        stub_edge.answer(await next_unit(), **tensors)  # and no tensors
        send(units_of_frame(9, 5, 0, [b"of no set"]))
        assert ((result := await ended(run)).status, result.tensors) == ("lost", None)
        assert result.timings.total is None

        unit = await next_unit()
        send(coded(unit))
        stub_edge.answer(unit, **tensors)
        stub_edge.answer(unit, **tensors)
        assert (await ended(run)).status == "ok", "the session goes on"
        counters = ue.counters
    assert counters["outputs_contradicting"] == 1


# The edge's side, with a UE that does as the test likes.


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_ue_without_the_outputs_set_gets_no_outputs(scene: Path, point: OperatingPoint, refuses: bool) -> None:
    control: asyncio.Queue[Any] = asyncio.Queue()
    results: asyncio.Queue[Result] = asyncio.Queue()

    async def message() -> Any:
        async with asyncio.timeout(WAIT):
            return await control.get()

    async with AsyncExitStack() as stack:
        settings = EdgeSettings("127.0.0.1:0", model=("scene",), models=(scene,), workers=1)
        edge = await stack.enter_async_context(Edge(settings))
        signaling = await stack.enter_async_context(SignalingClient(edge.url))
        peer = await stack.enter_async_context(Peer(bind="127.0.0.1"))
        peer.on_control = lambda text: control.put_nowait(parse_control(text))
        peer.on_result = lambda data: results.put_nowait(parse_result(data))
        # Without a line of direction down: then they would come raw.
        offer = await peer.create_offer(attributes_of([point.offer(30.0)]))
        await peer.accept_answer(await signaling.connect(offer))
        await peer.opened(WAIT)
        features = (TensorSpec("features", "float32", (1, 3, 8, 8)),)
        announced = point.parameter_set(features, deadline=60.0, budget=60.0)
        peer.send_control(serialise_control(replace(announced, id=1)))
        outputs_set = await message()
        assert (outputs_set.direction, outputs_set.profile, outputs_set.tensors) == ("down", "raw", point.card.outputs)
        assert await message() == ParameterSetAck(1)
        if refuses:
            peer.send_control(serialise_control(ParameterSetReject(outputs_set.id, "no")))
            assert await message() == Bye("the UE refused the parameter set of the outputs: no")
            return
        encoder = make_encoder(parse_profile(point.profile), features, None, 1000)
        slices = encoder.encode(1, [np.ones((1, 3, 8, 8), np.float32)]).slices
        peer.sender.offer(OutgoingFrame(1, units_of_frame(1, 1, 5, slices), time.monotonic() + WAIT))
        async with asyncio.timeout(WAIT):
            while (result := await results.get()).heartbeat:
                pass
        assert (result.status, result.output_kind) == (Status.LATE, 0)
