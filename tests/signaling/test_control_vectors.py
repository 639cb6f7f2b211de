"""The vectors of docs/protocol.md section 2: messages of the control channel."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from models.tensor import TensorSpec
from signaling.control import (
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
from splitrtc_errors import ProtocolError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "control.json").read_text(encoding="utf-8"))

KINDS: dict[str, type[ControlMessage]] = {
    "aips": ParameterSet,
    "aips-ack": ParameterSetAck,
    "aips-reject": ParameterSetReject,
    "aips-release": ParameterSetRelease,
    "aips-released": ParameterSetReleased,
    "report": Report,
    "error": PeerFailure,
    "drain": Drain,
    "bye": Bye,
}


def vectors(*kinds: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for kind in kinds for vector in VECTORS[kind]]


def message_of(fields: dict[str, Any]) -> ControlMessage:
    values = {name: value for name, value in fields.items() if name != "type"}
    if "tensors" in values:
        values["tensors"] = tuple(TensorSpec(t["name"], t["type"], tuple(t["shape"])) for t in values["tensors"])
    return KINDS[fields["type"]](**values)


@pytest.mark.parametrize("vector", vectors("both_ways", "read_only"))
def test_reading_a_vector_gives_its_fields(vector: dict[str, Any]) -> None:
    text = vector.get("text") or json.dumps(vector["message"])
    assert parse_control(text) == message_of(vector["message"])


@pytest.mark.parametrize("vector", vectors("both_ways"))
def test_writing_a_vector_gives_its_object(vector: dict[str, Any]) -> None:
    assert json.loads(serialise_control(message_of(vector["message"]))) == vector["message"]


def test_every_type_is_among_the_vectors() -> None:
    assert {vector["message"]["type"] for vector in VECTORS["both_ways"]} == set(KINDS)


@pytest.mark.parametrize("vector", vectors("ignored"))
def test_an_unknown_type_is_ignored(vector: dict[str, Any]) -> None:
    assert parse_control(vector["text"]) is None


@pytest.mark.parametrize("vector", vectors("refused"))
def test_a_malformed_vector_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=re.escape(vector["reason"])):
        parse_control(vector["text"])
