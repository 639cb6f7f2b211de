"""Reading and writing the messages of SWAP version 1 in both dialects of docs/protocol.md section 1.1.

What differs on the wire is in ``Dialect`` and in the few functions that read and write a response and a reject.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from signaling.messages import (
    Accept,
    Application,
    Body,
    Close,
    Connect,
    Criterion,
    Message,
    Register,
    Reject,
    Response,
    Update,
)
from signaling.problems import MESSAGE_MALFORMATTED, MESSAGE_UNKNOWN, Problem, make_problem
from signaling.strictjson import integer_of, member, read_object, text_of, write_object
from splitrtc_errors import BadArgument, ProtocolError

__all__ = [
    "MAX_CRITERIA",
    "MAX_MESSAGE",
    "PATH",
    "SECOND",
    "STANDARD",
    "SUBPROTOCOL",
    "Dialect",
    "MalformedMessage",
    "parse",
    "serialise",
]

T = TypeVar("T")

PATH = "/3gpp-swap/v1"
SUBPROTOCOL = "3gpp.SWAP.v1"
VERSION = 1
MAX_MESSAGE = 262_144
"""Bytes of one message."""
MAX_SDP = 131_072
"""Characters of a session description."""
MAX_CRITERIA = 16
MIN_SOURCE, MAX_SOURCE = 10, 128
MAX_ID = 2**53 - 1  # the largest integer that every JSON implementation keeps exact
MAX_TYPE = 256
MAX_REASON = 131_072

CRITERIA = frozenset({"ipv4", "ipv6", "fqdn", "service", "user", "eas", "app", "location", "qos", "processing"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the peer writes SWAP. A strict one refuses unknown fields and other case, and leaves nothing out."""

    name: str
    source: str
    criteria: str
    strict: bool


STANDARD = Dialect("TS 26.113", "source", "matching_criteria", strict=False)
SECOND = Dialect("second", "source_id", "criteria", strict=True)


class MalformedMessage(ProtocolError):
    """A message that cannot be read, with what is needed to answer it.

    ``request`` is its number, 0 when unknown; ``source`` its sender and ``dialect`` its dialect, where known;
    ``is_response`` when it called itself a response: those are never answered.
    """

    def __init__(
        self, problem: Problem, request: int, source: str | None, dialect: Dialect | None, is_response: bool
    ) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.request = request
        self.source = source
        self.dialect = dialect
        self.is_response = is_response


def parse(data: str | bytes, dialect: Dialect | None = None) -> tuple[Message, Dialect]:
    """Read one WebSocket message; the dialect is recognised from it when ``dialect`` is None.

    Raises MalformedMessage for whatever is not a SWAP message of that dialect within the limits.
    """
    fields: dict[str, Any] = {}
    name = ""
    try:
        if isinstance(data, bytes):
            raise ProtocolError("expected a text message, not a binary one")
        fields = read_object(data, MAX_MESSAGE)
        dialect = dialect or (SECOND if "source_id" in fields and "source" not in fields else STANDARD)
        name = text_of(fields, "message_type", 1, 32)
        name = name if dialect.strict else name.lower()
        integer_of(fields, "version", VERSION, VERSION)
        source = text_of(fields, _source_field(fields, dialect), MIN_SOURCE, MAX_SOURCE)
        message_id = integer_of(fields, "message_id", 1, MAX_ID)
        if name in _READERS:
            return Message(source, message_id, _read_body(name, fields, dialect)), dialect
        problem = make_problem(MESSAGE_UNKNOWN)
    except ProtocolError as error:
        problem = make_problem(MESSAGE_MALFORMATTED, str(error))
    raise MalformedMessage(
        problem,
        _or_none(lambda: integer_of(fields, "message_id", 1, MAX_ID)) or 0,
        _or_none(lambda: text_of(fields, _source_field(fields, dialect or STANDARD), MIN_SOURCE, MAX_SOURCE)),
        dialect,
        is_response=name.lower() == "response",
    )


def serialise(message: Message, dialect: Dialect) -> str:
    """Write one message; BadArgument when it is larger than a message may be."""
    fields: dict[str, Any] = {
        "version": VERSION,
        dialect.source: message.source,
        "message_id": message.message_id,
        "message_type": type(message.body).__name__.lower(),
    }
    text = write_object(fields | _write_body(message.body, dialect))
    if len(text) > MAX_MESSAGE:
        raise BadArgument(f"a SWAP message of {len(text)} bytes: at most {MAX_MESSAGE} are allowed")
    return text


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except ProtocolError:
        return None


def _source_field(fields: dict[str, Any], dialect: Dialect) -> str:
    # The text of TS 26.113 says source, the properties of its schema say source_id.
    return dialect.source if dialect.source in fields or "source_id" not in fields else "source_id"


def _read_body(name: str, fields: dict[str, Any], dialect: Dialect) -> Body:
    read, allowed = _READERS[name]
    if dialect.strict and allowed is not None and not fields.keys() <= _COMMON | allowed:
        raise ProtocolError(f"a field that {name} does not have")
    return read(fields, dialect)


def _read_register(fields: dict[str, Any], dialect: Dialect) -> Register:
    return Register(_read_criteria(fields, dialect))


def _read_connect(fields: dict[str, Any], dialect: Dialect) -> Connect:
    return Connect(text_of(fields, "offer", 1, MAX_SDP), _read_criteria(fields, dialect))


def _read_criteria(fields: dict[str, Any], dialect: Dialect) -> tuple[Criterion, ...]:
    if dialect.criteria not in fields and not dialect.strict:
        return ()  # clause 13.2.4.4.4.1: needed only to connect by way of a SWAP server
    values = member(fields, dialect.criteria)
    if not isinstance(values, list) or len(values) > MAX_CRITERIA:
        raise ProtocolError(f"{dialect.criteria}: expected a list of at most {MAX_CRITERIA}")
    criteria = []
    for value in values:
        if not isinstance(value, dict) or (dialect.strict and not value.keys() <= {"type", "value"}):
            raise ProtocolError(f"{dialect.criteria}: expected objects of a type and a value")
        criterion = Criterion(text_of(value, "type", 1, MAX_TYPE), member(value, "value"))
        if criterion.type not in CRITERIA:
            raise ProtocolError(f"{dialect.criteria}: type is none of {', '.join(sorted(CRITERIA))}")
        criteria.append(criterion)
    return tuple(criteria)


def _read_response(fields: dict[str, Any], dialect: Dialect) -> Response:
    if dialect.strict:
        request = integer_of(fields, "response_to", 0, MAX_ID)
        status = integer_of(fields, "status", 100, 599)
        reason = text_of(fields, "reason", 0, MAX_REASON)
        if 200 <= status <= 299:
            return Response(request)
        error = fields.get("error")
        return Response(request, None, Problem.from_json(reason if error is None else error))
    request = integer_of(fields, "request", 0, MAX_ID)
    target = None if fields.get("target") is None else text_of(fields, "target", MIN_SOURCE, MAX_SOURCE)
    kind = text_of(fields, "type", 1, MAX_TYPE).lower()
    if kind not in ("ack", "error"):
        raise ProtocolError("type: expected ack or error")
    return Response(request, target, Problem.from_json(fields.get("description")) if kind == "error" else None)


def _read_accept(fields: dict[str, Any], dialect: Dialect) -> Accept:
    if fields.get("answer") is None and not dialect.strict:
        return Accept(_target(fields))
    return Accept(_target(fields), text_of(fields, "answer", 1, MAX_SDP))


def _read_update(fields: dict[str, Any], _: Dialect) -> Update:
    return Update(_target(fields), text_of(fields, "sdp", 1, MAX_SDP))


def _read_reject(fields: dict[str, Any], dialect: Dialect) -> Reject:
    if dialect.strict:
        return Reject(_target(fields), 0, Problem.from_json(text_of(fields, "reason", 1, MAX_REASON)))
    request = integer_of(fields, "request", 0, MAX_ID)
    return Reject(_target(fields), request, Problem.from_json(fields.get("description")))


def _read_close(fields: dict[str, Any], _: Dialect) -> Close:
    return Close(_target(fields))


def _read_application(fields: dict[str, Any], _: Dialect) -> Application:
    return Application(_target(fields), text_of(fields, "type", 1, MAX_TYPE), member(fields, "value"))


def _target(fields: dict[str, Any]) -> str:
    return text_of(fields, "target", MIN_SOURCE, MAX_SOURCE)


_COMMON = frozenset({"version", "source_id", "message_id", "message_type"})
# Per message type: its reader, and the fields that a strict dialect lets pass (None: any).
_READERS: dict[str, tuple[Callable[[dict[str, Any], Dialect], Body], frozenset[str] | None]] = {
    "register": (_read_register, frozenset({"criteria", "capabilities"})),
    "response": (_read_response, None),
    "connect": (_read_connect, frozenset({"offer", "criteria"})),
    "accept": (_read_accept, frozenset({"target", "answer"})),
    "update": (_read_update, frozenset({"target", "sdp"})),
    "reject": (_read_reject, frozenset({"target", "reason"})),
    "close": (_read_close, frozenset({"target"})),
    "application": (_read_application, None),
}


def _write_body(body: Body, dialect: Dialect) -> dict[str, Any]:
    match body:
        case Register(criteria):
            return {dialect.criteria: _write_criteria(criteria)}
        case Connect(offer, criteria):
            return {"offer": offer, dialect.criteria: _write_criteria(criteria)}
        case Response():
            return _write_response(body, dialect)
        case Accept(target, None):
            return {"target": target}
        case Accept(target, answer):
            return {"target": target, "answer": answer}
        case Update(target, sdp):
            return {"target": target, "sdp": sdp}
        case Reject(target, request, problem):
            document = problem.to_json()
            if dialect.strict:
                return {"target": target, "reason": json.dumps(document)}
            return {"target": target, "request": request, "error_id": problem.type, "description": document}
        case Application(target, type_, value):
            return {"target": target, "type": type_, "value": value}
    return {"target": body.target}  # of a close


def _write_criteria(criteria: tuple[Criterion, ...]) -> list[dict[str, object]]:
    return [{"type": criterion.type, "value": criterion.value} for criterion in criteria]


def _write_response(response: Response, dialect: Dialect) -> dict[str, Any]:
    problem = response.problem
    if dialect.strict:
        if problem is None:
            return {"response_to": response.request, "status": 200, "reason": "OK"}
        reason = problem.title or problem.type
        return {
            "response_to": response.request,
            "status": problem.status or 400,
            "reason": reason,
            "error": problem.to_json(),
        }
    fields: dict[str, Any] = {"type": "ack" if problem is None else "error", "request": response.request}
    if response.target is not None:
        fields["target"] = response.target
    if problem is not None:
        fields["description"] = problem.to_json()
    return fields
