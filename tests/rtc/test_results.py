from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtc.results import (
    HISTORY_FRAMES,
    MAX_DURATION_US,
    MAX_RESULT,
    OUTPUT_DETECTIONS,
    OUTPUT_NONE,
    OUTPUT_TENSORS,
    RESULT_HEADER_SIZE,
    Result,
    Status,
    bitmap_of,
    heartbeat_result,
    is_result,
    pack_result,
    parse_result,
)
from rtc.units import MAX_FRAME_ID, MAX_SLICES, MAX_TIME_US, heartbeat_unit, units_of_frame
from splitrtc_errors import BadArgument, ProtocolError

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "results.json").read_text(encoding="utf-8"))
OK = Result(status=Status.OK, frame_id=5, capture_us=9, slices=2, received=b"\x03")


def vectors(kind: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[kind]]


def fields_of(result: Result) -> dict[str, Any]:
    history = range(result.frame_id - 1, max(0, result.frame_id - 1 - HISTORY_FRAMES), -1)
    return {
        "status": result.status.name.lower(),
        "frame_id": result.frame_id,
        "capture_us": str(result.capture_us),
        "queue_us": result.queue_us,
        "decode_us": result.decode_us,
        "tail_us": result.tail_us,
        "post_us": result.post_us,
        "complete_before": [frame_id for frame_id in history if result.was_complete(frame_id)],
        "slices": result.slices,
        "received": [index for index, flag in enumerate(result.received_flags()) if flag],
        "concealed_65535": round(result.concealed * 65_535),
        "output_kind": result.output_kind,
        "output": bytes(result.output).hex(),
        "heartbeat": result.heartbeat,
        "decoded": result.decoded,
    }


def result_of(fields: dict[str, Any]) -> Result:
    kept = ("frame_id", "queue_us", "decode_us", "tail_us", "post_us", "slices", "output_kind", "heartbeat", "decoded")
    return Result(
        status=Status[fields["status"].upper()],
        capture_us=int(fields["capture_us"]),
        received=bitmap_of(index in fields["received"] for index in range(fields["slices"])),
        history=sum(1 << fields["frame_id"] - 1 - frame_id for frame_id in fields["complete_before"]),
        concealed=fields["concealed_65535"] / 65_535,
        output=bytes.fromhex(fields["output"]),
        **{name: fields[name] for name in kept},
    )


@st.composite
def results(draw: st.DrawFn) -> Result:
    frame_id = draw(st.integers(1, 40) | st.integers(1, MAX_FRAME_ID))
    count = draw(st.integers(1, 20) | st.integers(1, MAX_SLICES))
    status = draw(st.sampled_from(Status))
    every = (1 << count) - 1
    bits = every if status is Status.OK else draw(st.integers(0, every))
    kind = draw(st.integers(0, 255)) if status.has_output else 0
    duration = st.integers(0, MAX_DURATION_US)
    return Result(
        status=status,
        frame_id=frame_id,
        capture_us=draw(st.integers(0, MAX_TIME_US)),
        slices=count,
        received=bits.to_bytes((count + 7) // 8, "little"),
        queue_us=draw(duration),
        decode_us=draw(duration),
        tail_us=draw(duration),
        post_us=draw(duration),
        history=draw(st.integers(0, (1 << min(frame_id - 1, 32)) - 1)),
        concealed=draw(st.integers(0, 65_535)) / 65_535,
        output_kind=kind,
        output=draw(st.binary(max_size=64)) if kind not in (OUTPUT_NONE, OUTPUT_TENSORS) else b"",
        decoded=not status.has_output and draw(st.booleans()),
    )


@pytest.mark.parametrize("vector", vectors("both_ways"))
def test_reading_a_vector_gives_its_fields(vector: dict[str, Any]) -> None:
    assert fields_of(parse_result(bytes.fromhex(vector["hex"]))) == vector["result"]


@pytest.mark.parametrize("vector", vectors("both_ways"))
def test_writing_a_vector_gives_its_bytes(vector: dict[str, Any]) -> None:
    assert pack_result(result_of(vector["result"])).hex() == vector["hex"]


@pytest.mark.parametrize("vector", vectors("refused"))
def test_a_malformed_vector_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=f"^{re.escape(vector['reason'])}$"):
        parse_result(bytes.fromhex(vector["hex"]))


def test_no_vector_is_one_way_only() -> None:
    assert VECTORS["read_only"] == []


def test_a_result_of_the_greatest_size_is_read_and_a_greater_one_refused() -> None:
    room = MAX_RESULT - RESULT_HEADER_SIZE - 1
    data = pack_result(replace(OK, output_kind=OUTPUT_DETECTIONS, output=bytes(room)))
    assert len(parse_result(data).output) == room
    with pytest.raises(ProtocolError, match="this one has 65536"):
        parse_result(data + b"\0")


@given(results())
def test_what_is_written_is_read_back(result: Result) -> None:
    data = pack_result(result)
    assert is_result(data)
    assert parse_result(data) == result


@given(results(), st.data())
def test_a_mutated_result_is_refused_or_means_what_its_bytes_say(result: Result, data: st.DataObject) -> None:
    message = bytearray(pack_result(result))
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, min(len(message) - 1, 48)))
        message[where] = data.draw(st.integers(0, 255))
    mutated = bytes(message[: data.draw(st.integers(0, len(message)) | st.just(len(message)))])
    try:
        read = parse_result(mutated)
    except ProtocolError:
        return
    assert pack_result(read) == mutated


@given(st.binary(max_size=80))
@example(b"\x01\x88" + bytes(38))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        result = parse_result(data)
    except ProtocolError:
        return
    assert pack_result(result) == data


def test_the_output_is_a_view_of_the_message() -> None:
    data = pack_result(replace(OK, output_kind=OUTPUT_DETECTIONS, output=b"detections"))
    output = parse_result(data).output
    assert isinstance(output, memoryview)
    assert output.obj is data
    assert bytes(output) == b"detections"


def test_a_result_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        OK.slices = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_id": 0}, "frame 0"),
        ({"frame_id": MAX_FRAME_ID + 1}, "frame 4294967296"),
        ({"capture_us": -1}, "capture time -1"),
        ({"capture_us": MAX_TIME_US + 1}, "capture time"),
        ({"history": -1}, "history -0x1 of frame 5"),
        ({"history": 0x10}, "history 0x10 of frame 5"),
        ({"frame_id": 50, "history": 2**32}, "history 0x100000000 of frame 50"),
        ({"slices": 0}, "0 slices"),
        ({"slices": MAX_SLICES + 1, "received": bytes(513)}, "4097 slices"),
        ({"slices": 9}, "9 slices in a bitmap of 1 bytes"),
        ({"received": b"\x03\x00"}, "2 slices in a bitmap of 2 bytes"),
        ({"received": b"\x07"}, "bits beyond slice 1"),
        ({"received": b"\x01"}, "status ok, but 1 of 2 slices missing"),
        ({"concealed": -0.1}, "concealed share -0.1"),
        ({"concealed": 1.1}, "concealed share 1.1"),
        ({"concealed": float("nan")}, "concealed share nan"),
        ({"output_kind": -1}, "output kind -1"),
        ({"output_kind": 256}, "output kind 256"),
        ({"output": b"x"}, "1 bytes of output of no kind"),
        ({"output": b"x", "output_kind": 2}, "1 bytes of output of a kind that comes in units"),
        ({"status": Status.LATE, "output_kind": 1}, "status late with an output"),
        ({"tail_us": -1}, "durations (0, 0, -1, 0)"),
        ({"output_kind": 1, "output": bytes(MAX_RESULT)}, "a result of 65576 bytes"),
        ({"heartbeat": True}, "heartbeat"),
    ],
)
def test_values_out_of_range_are_not_written(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArgument, match=re.escape(message)):
        pack_result(replace(OK, **change))


@pytest.mark.parametrize("name", ["queue_us", "decode_us", "tail_us", "post_us"])
def test_a_duration_beyond_its_field_is_written_as_the_greatest(name: str) -> None:
    change: dict[str, Any] = {name: 2**40}
    read = parse_result(pack_result(replace(OK, **change)))
    change[name] = MAX_DURATION_US
    assert read == replace(OK, **change)


def test_the_concealed_share_is_rounded_up() -> None:
    some = replace(OK, status=Status.INCOMPLETE)
    assert parse_result(pack_result(replace(some, concealed=1e-12))).concealed == 1 / 65_535
    assert parse_result(pack_result(replace(some, concealed=0.5))).concealed == 32_768 / 65_535
    assert parse_result(pack_result(replace(some, concealed=1 - 1e-12))).concealed == 1.0


def test_every_concealed_share_survives_being_read_and_written() -> None:
    message = bytearray(pack_result(OK))
    for share in range(65_536):
        message[38:40] = share.to_bytes(2, "big")
        assert pack_result(parse_result(bytes(message))) == message


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_the_bitmap_holds_the_slices_that_came(flags: list[bool]) -> None:
    bitmap = bitmap_of(iter(flags))
    assert [bitmap[index // 8] >> index % 8 & 1 for index in range(len(flags))] == flags
    result = replace(OK, slices=len(flags), received=bitmap)
    assert result.received_flags() == flags
    assert result.received_count == sum(flags)


def test_the_history_tells_of_the_32_frames_before() -> None:
    result = replace(OK, frame_id=100, history=0x8000_0001)
    assert result.was_complete(99) is True
    assert result.was_complete(98) is False
    assert result.was_complete(68) is True
    assert result.was_complete(67) is None
    assert result.was_complete(100) is None
    assert replace(OK, frame_id=3, history=2).was_complete(1) is True
    assert replace(OK, frame_id=3, history=2).was_complete(0) is None


def test_results_and_units_are_told_apart() -> None:
    assert is_result(heartbeat_result())
    assert is_result(pack_result(OK))
    assert is_result(pack_result(OK)[:2])
    assert not is_result(heartbeat_unit(2**64 - 1))
    assert not is_result(units_of_frame(255, MAX_FRAME_ID, 2**64 - 1, [b"\xff" * 9])[0])
    assert not is_result(b"\xff")
    assert not is_result(b"")


def test_a_heartbeat_is_read_as_one() -> None:
    heartbeat = parse_result(heartbeat_result())
    assert heartbeat.heartbeat
    assert heartbeat.received_flags() == []
    assert pack_result(heartbeat) == heartbeat_result()
