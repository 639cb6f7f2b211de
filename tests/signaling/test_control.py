from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tensor import ITEM_SIZES, TensorSpec
from signaling.control import (
    MAX_MESSAGE,
    Bye,
    ControlMessage,
    Drain,
    ParameterSet,
    ParameterSetAck,
    ParameterSetReject,
    ParameterSetRelease,
    ParameterSetReleased,
    PeerFailure,
    Report,
    parse_control,
    serialise_control,
)
from splitrtc_errors import BadArgument, ProtocolError

DIGEST = "sha-256:" + "ab" * 32
SET = ParameterSet(
    id=3,
    direction="up",
    model=DIGEST,
    partition="cd" * 16,
    variant="fp32",
    profile="q4-zstd",
    calibration=DIGEST,
    tensors=(TensorSpec("Conv__979:0", "float32", (1, 64, 19, 19)),),
    deadline_ms=100,
    budget_ms=400,
)
SET_FIELDS: dict[str, Any] = {
    "type": "aips",
    "id": 3,
    "direction": "up",
    "model": DIGEST,
    "partition": "cd" * 16,
    "variant": "fp32",
    "profile": "q4-zstd",
    "calibration": DIGEST,
    "tensors": [{"name": "Conv__979:0", "type": "float32", "shape": [1, 64, 19, 19]}],
    "deadline_ms": 100,
    "budget_ms": 400,
}

PRINTABLE = st.text(max_size=64).filter(str.isprintable)
IDS = st.integers(1, 255)
TENSORS = st.builds(
    TensorSpec,
    PRINTABLE.filter(bool),
    st.sampled_from(sorted(ITEM_SIZES)),
    st.lists(st.integers(1, 8), max_size=8).map(tuple),
)
MESSAGES: st.SearchStrategy[ControlMessage] = st.one_of(
    st.builds(
        ParameterSet,
        id=IDS,
        direction=st.sampled_from(["up", "down"]),
        model=st.just(DIGEST),
        partition=st.just("cd" * 16),
        variant=st.sampled_from(["fp32", "A.b_c-4", "v" * 32]),
        profile=st.sampled_from(["raw", "klt:step=1.5,rank=24"]),
        calibration=st.sampled_from([None, DIGEST]),
        tensors=st.lists(TENSORS, min_size=1, max_size=3, unique_by=lambda tensor: tensor.name)
        .filter(lambda tensors: sum(tensor.elements for tensor in tensors) <= 2**26)
        .map(tuple),
        deadline_ms=st.integers(1, 60_000),
        budget_ms=st.integers(1, 60_000),
    ),
    st.builds(ParameterSetAck, IDS),
    st.builds(ParameterSetReject, IDS, PRINTABLE),
    st.builds(ParameterSetRelease, IDS),
    st.builds(ParameterSetReleased, IDS),
    st.builds(
        Report,
        st.dictionaries(PRINTABLE.filter(bool), st.floats(allow_nan=False, allow_infinity=False), max_size=5),
    ),
    st.builds(PeerFailure, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), PRINTABLE),
    st.builds(Drain, st.integers(0, 3_600_000)),
    st.builds(Bye, PRINTABLE),
)


@given(MESSAGES)
def test_what_is_written_can_be_read(message: ControlMessage) -> None:
    assert parse_control(serialise_control(message)) == message


@given(MESSAGES, st.data())
def test_mutated_messages_are_read_or_refused(message: ControlMessage, data: st.DataObject) -> None:
    fields: dict[str, Any] = json.loads(serialise_control(message))
    name = data.draw(st.sampled_from(sorted(fields)))
    if data.draw(st.booleans()):
        del fields[name]
    else:
        fields[name] = data.draw(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.integers())
        )
    try:
        again = parse_control(json.dumps(fields))
    except ProtocolError:
        return
    assert again is None or parse_control(serialise_control(again)) == again


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_control(text)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (SET, SET_FIELDS),
        (ParameterSetAck(1), {"type": "aips-ack", "id": 1}),
        (ParameterSetReject(255, "no"), {"type": "aips-reject", "id": 255, "reason": "no"}),
        (ParameterSetRelease(1), {"type": "aips-release", "id": 1}),
        (ParameterSetReleased(1), {"type": "aips-released", "id": 1}),
        (Report({"fps": 30, "rtt_ms": 1.5}), {"type": "report", "figures": {"fps": 30, "rtt_ms": 1.5}}),
        (PeerFailure("decode", "d"), {"type": "error", "code": "decode", "detail": "d"}),
        (Drain(10_000), {"type": "drain", "within_ms": 10_000}),
        (Bye("done"), {"type": "bye", "reason": "done"}),
    ],
)
def test_the_messages_of_the_protocol_page(message: ControlMessage, fields: dict[str, Any]) -> None:
    assert json.loads(serialise_control(message)) == fields
    assert parse_control(json.dumps(fields)) == message
    assert parse_control(json.dumps(fields | {"more": 1})) == message


def test_an_unknown_type_is_nothing() -> None:
    assert parse_control('{"type": "dance"}') is None


def test_long_texts_are_cut_and_made_printable() -> None:
    for message in (ParameterSetReject(1, "\n" * 900), PeerFailure("x", "\n" * 900), Bye("\n" * 900)):
        read = parse_control(serialise_control(message))
        assert "\ufffd" * 500 in str(read)
    assert parse_control('{"type": "bye", "reason": "\\u001b[2J"}') == Bye("\ufffd[2J")


@pytest.mark.parametrize(
    "change",
    [
        {"id": 0},
        {"id": 256},
        {"id": True},
        {"direction": "left"},
        {"model": "net"},
        {"model": None},
        {"partition": "cd"},
        {"variant": ""},
        {"variant": "v" * 33},
        {"variant": "two words"},
        {"profile": ""},
        {"profile": "Q4"},
        {"profile": "p:" + ",".join(["k=v"] * 32)},
        {"calibration": "none"},
        {"calibration": 0},
        {"deadline_ms": 0},
        {"deadline_ms": 60_001},
        {"budget_ms": 0},
        {"budget_ms": 60_001},
        {"tensors": []},
        {"tensors": {}},
        {"tensors": [None]},
        {"tensors": SET_FIELDS["tensors"] * 2},
        {"tensors": [{"name": f"t{i}", "type": "bool", "shape": [1]} for i in range(65)]},
        {"tensors": [{"name": "t", "type": "bool", "shape": [0]}]},
        {"tensors": [{"name": "t", "type": "text", "shape": [1]}]},
        {"tensors": [{"name": "t\n", "type": "bool", "shape": [1]}]},
        {"tensors": [{"name": "t", "type": "bool", "shape": [2**24, 2**24]}]},
        {"tensors": [{"name": f"t{i}", "type": "bool", "shape": [2**24]} for i in range(5)]},
    ],
)
def test_a_parameter_set_outside_its_limits_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        parse_control(json.dumps(SET_FIELDS | change))


@pytest.mark.parametrize("name", sorted(SET_FIELDS))
def test_a_parameter_set_is_whole(name: str) -> None:
    with pytest.raises(ProtocolError, match=f"{name} is missing"):
        parse_control(json.dumps({key: value for key, value in SET_FIELDS.items() if key != name}))


def test_a_set_may_have_as_many_elements_as_the_protocol_allows() -> None:
    tensors = [{"name": f"t{i}", "type": "bool", "shape": [2**24]} for i in range(4)]
    assert isinstance(parse_control(json.dumps(SET_FIELDS | {"tensors": tensors})), ParameterSet)


@pytest.mark.parametrize(
    "figures",
    [
        None,
        [],
        {"a": "1"},
        {"a": True},
        {"a": None},
        {"": 1},
        {"a" * 65: 1},
        {"a\n": 1},
        {"a": 10**400},
        {str(i): i for i in range(65)},
    ],
)
def test_figures_are_a_few_finite_numbers_with_names(figures: object) -> None:
    with pytest.raises(ProtocolError, match="figures"):
        parse_control(json.dumps({"type": "report", "figures": figures}))


def test_the_code_of_a_failure_is_a_token() -> None:
    with pytest.raises(ProtocolError, match="code"):
        parse_control('{"type": "error", "code": "two words", "detail": ""}')


@pytest.mark.parametrize("message", [ParameterSetAck(0), Bye("\ud800" * 600), Report({"a\n": 1.0})])
def test_what_the_peer_would_refuse_is_not_sent(message: ControlMessage) -> None:
    if isinstance(message, Bye):
        assert parse_control(serialise_control(message)) == Bye("\ufffd" * 500)
        return
    with pytest.raises(BadArgument, match=type(message).__name__):
        serialise_control(message)


def test_a_message_that_would_be_too_long_is_not_sent() -> None:
    tensors = tuple(TensorSpec(f"{i:0500}", "bool", (1,)) for i in range(64))
    with pytest.raises(BadArgument, match=f"more than {MAX_MESSAGE} bytes"):
        serialise_control(ParameterSet(**{**vars_of(SET), "tensors": tensors}))


def vars_of(parameters: ParameterSet) -> dict[str, Any]:
    return {name: getattr(parameters, name) for name in parameters.__slots__}
