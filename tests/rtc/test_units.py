from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtc.units import (
    DEFAULT_UNIT,
    MAX_FRAME_ID,
    MAX_SLICES,
    MAX_TIME_US,
    MAX_UNIT,
    UNIT_HEADER_SIZE,
    Unit,
    heartbeat_unit,
    pack_unit,
    parse_unit,
    unit_payload_limit,
    units_of_frame,
)
from splitrtc_errors import BadArgument, ProtocolError

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "units.json").read_text(encoding="utf-8"))


def vectors(*kinds: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for kind in kinds for vector in VECTORS[kind]]


def fields_of(unit: Unit) -> dict[str, Any]:
    payload = bytes(unit.payload).hex()
    return {
        **asdict(replace(unit, payload=b"")),
        "capture_us": str(unit.capture_us),
        "payload": payload,
        "last": unit.last,
    }


def unit_of(fields: dict[str, Any]) -> Unit:
    changed = {"capture_us": int(fields["capture_us"]), "payload": bytes.fromhex(fields["payload"])}
    return Unit(**{name: value for name, value in {**fields, **changed}.items() if name != "last"})


@st.composite
def units(draw: st.DrawFn) -> Unit:
    frame_id = draw(st.integers(1, MAX_FRAME_ID))
    count = draw(st.integers(1, MAX_SLICES))
    reference = draw(st.none() | st.integers(1, frame_id - 1)) if frame_id > 1 else None
    return Unit(
        aips_id=draw(st.integers(1, 255)),
        frame_id=frame_id,
        index=draw(st.integers(0, count - 1) | st.just(count - 1)),
        count=count,
        capture_us=draw(st.integers(0, MAX_TIME_US)),
        payload=draw(st.binary(max_size=64)),
        intra=reference is None and draw(st.booleans()),
        reference=reference,
        parity=draw(st.booleans()),
    )


@pytest.mark.parametrize("vector", vectors("both_ways", "read_only"))
def test_reading_a_vector_gives_its_fields(vector: dict[str, Any]) -> None:
    assert fields_of(parse_unit(bytes.fromhex(vector["hex"]))) == vector["unit"]


@pytest.mark.parametrize("vector", vectors("both_ways"))
def test_writing_a_vector_gives_its_bytes(vector: dict[str, Any]) -> None:
    assert pack_unit(unit_of(vector["unit"])).hex() == vector["hex"]


@pytest.mark.parametrize("vector", vectors("refused"))
def test_a_malformed_vector_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=f"^{re.escape(vector['reason'])}$"):
        parse_unit(bytes.fromhex(vector["hex"]))


def test_a_unit_of_the_greatest_size_is_read_and_a_greater_one_refused() -> None:
    (data,) = units_of_frame(1, 1, 0, [bytes(MAX_UNIT - UNIT_HEADER_SIZE)])
    assert len(parse_unit(data).payload) == MAX_UNIT - UNIT_HEADER_SIZE
    with pytest.raises(ProtocolError, match="this one has 65536"):
        parse_unit(data + b"\0")


@given(units())
def test_what_is_written_is_read_back(unit: Unit) -> None:
    data = pack_unit(unit)
    assert parse_unit(data) == unit
    assert len(data) == UNIT_HEADER_SIZE + (0 if unit.reference is None else 6) + len(unit.payload)


@given(units(), st.data())
def test_a_mutated_unit_is_refused_or_means_what_its_bytes_say(unit: Unit, data: st.DataObject) -> None:
    message = bytearray(pack_unit(unit))
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, min(len(message) - 1, 30)))
        message[where] = data.draw(st.integers(0, 255))
    mutated = bytes(message[: data.draw(st.integers(0, len(message)))]) + data.draw(st.binary(max_size=4))
    try:
        read = parse_unit(mutated)
    except ProtocolError:
        return
    assert parse_unit(pack_unit(read)) == read
    assert mutated.endswith(bytes(read.payload))


@given(st.binary(max_size=80))
@example(b"\x01\x08" + bytes(18))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        unit = parse_unit(data)
    except ProtocolError:
        return
    assert parse_unit(pack_unit(unit)) == unit


def test_the_payload_is_a_view_of_the_message() -> None:
    data = units_of_frame(1, 1, 0, [b"payload"])[0]
    payload = parse_unit(data).payload
    assert isinstance(payload, memoryview)
    assert payload.obj is data
    assert payload.readonly


def test_a_unit_cannot_be_changed() -> None:
    unit = Unit(aips_id=1, frame_id=1, index=0, count=1, capture_us=0)
    with pytest.raises(FrozenInstanceError):
        unit.index = 1  # type: ignore[misc]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=12), st.integers(2, MAX_FRAME_ID), st.booleans())
def test_the_units_of_a_frame_are_those_written_one_by_one(slices: list[bytes], frame_id: int, intra: bool) -> None:
    reference = None if intra else frame_id - 1
    written = units_of_frame(7, frame_id, 99, [memoryview(payload) for payload in slices], intra, reference)
    common = Unit(
        aips_id=7, frame_id=frame_id, index=0, count=len(slices), capture_us=99, intra=intra, reference=reference
    )
    assert written == [pack_unit(replace(common, index=index, payload=payload)) for index, payload in enumerate(slices)]


def test_a_frame_is_intra_unless_said_otherwise() -> None:
    assert parse_unit(units_of_frame(1, 1, 0, [b"a"])[0]).intra


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aips_id": 0}, "parameter set 0"),
        ({"aips_id": 256}, "parameter set 256"),
        ({"frame_id": 0}, "frame 0"),
        ({"frame_id": MAX_FRAME_ID + 1}, "frame 4294967296"),
        ({"capture_us": -1}, "capture time -1"),
        ({"capture_us": MAX_TIME_US + 1}, "capture time 18446744073709551616"),
        ({"count": 0}, "0 slices"),
        ({"count": MAX_SLICES + 1}, "4097 slices"),
        ({"index": -1}, "slice -1 of 2"),
        ({"index": 2}, "slice 2 of 2"),
        ({"reference": 0}, "reference 0 of frame 5"),
        ({"reference": 5}, "reference 5 of frame 5"),
        ({"reference": 4, "intra": True}, "reference 4 of frame 5"),
        ({"payload": bytes(MAX_UNIT)}, "a unit of 65555 bytes"),
        ({"heartbeat": True}, "heartbeat"),
    ],
)
def test_values_out_of_range_are_not_written(change: dict[str, Any], message: str) -> None:
    unit = Unit(aips_id=1, frame_id=5, index=0, count=2, capture_us=0)
    assert parse_unit(pack_unit(unit)) == unit
    with pytest.raises(BadArgument, match=re.escape(message)):
        pack_unit(replace(unit, **change))


@pytest.mark.parametrize(
    ("slices", "message"),
    [([], "0 slices"), ([b""] * (MAX_SLICES + 1), "4097 slices"), ([b"", bytes(MAX_UNIT)], "a unit of 65555 bytes")],
)
def test_slices_out_of_range_are_not_written(slices: list[bytes], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        units_of_frame(1, 1, 0, slices)


def test_a_heartbeat_carries_the_time() -> None:
    unit = parse_unit(heartbeat_unit(1_234_567))
    assert unit == Unit(aips_id=0, frame_id=0, index=0, count=0, capture_us=1_234_567, heartbeat=True)
    assert not unit.last


@pytest.mark.parametrize("now_us", [-1, MAX_TIME_US + 1])
def test_a_heartbeat_with_an_impossible_time_is_not_written(now_us: int) -> None:
    with pytest.raises(BadArgument, match="0 to 2"):
        heartbeat_unit(now_us)


@pytest.mark.parametrize("reference", [None, 1])
@pytest.mark.parametrize("unit_limit", [27, DEFAULT_UNIT, MAX_UNIT])
def test_a_slice_of_the_payload_limit_fills_the_unit(unit_limit: int, reference: int | None) -> None:
    size = unit_payload_limit(unit_limit, reference is not None)
    (data,) = units_of_frame(1, 2, 0, [bytes(size)], intra=False, reference=reference)
    assert len(data) == unit_limit


def test_the_default_payload_limit_leaves_a_unit_in_one_chunk() -> None:
    assert unit_payload_limit() == 1_140
    assert unit_payload_limit(reference=True) == 1_134


@pytest.mark.parametrize(("unit_limit", "reference"), [(20, False), (26, True), (MAX_UNIT + 1, False)])
def test_a_useless_unit_limit_is_refused(unit_limit: int, reference: bool) -> None:
    with pytest.raises(BadArgument, match=f"unit limit {unit_limit}"):
        unit_payload_limit(unit_limit, reference)
