from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from signaling.problems import EDGE_FULL, MESSAGE_MALFORMATTED, MESSAGE_UNKNOWN, Problem, make_problem
from signaling.swap import (
    CRITERIA,
    MAX_CRITERIA,
    MAX_ID,
    MAX_MESSAGE,
    SECOND,
    STANDARD,
    Dialect,
    MalformedMessage,
    parse,
    serialise,
)
from splitrtc_errors import BadArgument

ME = "source-of-the-tests"
YOU = "target-of-the-tests"

SOURCES = st.text(min_size=10, max_size=128)
TEXTS = st.text(min_size=1, max_size=50)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
ALL_CRITERIA = st.lists(st.builds(Criterion, st.sampled_from(sorted(CRITERIA)), VALUES), max_size=3).map(tuple)
PROBLEMS = st.sampled_from([make_problem(EDGE_FULL, "wait", retry_after=3.0), Problem("urn:x", "t", 418, "d", ("a",))])
IDS = st.integers(0, MAX_ID)


def bodies(dialect: Dialect) -> st.SearchStrategy[Body]:
    """Every body that the dialect can carry whole."""
    strict = dialect is SECOND
    return st.one_of(
        st.builds(Register, ALL_CRITERIA),
        st.builds(Connect, TEXTS, ALL_CRITERIA),
        st.builds(Response, IDS, st.none() if strict else st.none() | SOURCES, st.none() | PROBLEMS),
        st.builds(Accept, SOURCES, TEXTS if strict else TEXTS | st.none()),
        st.builds(Update, SOURCES, TEXTS),
        st.builds(Reject, SOURCES, st.just(0) if strict else IDS, PROBLEMS),
        st.builds(Close, SOURCES),
        st.builds(Application, SOURCES, TEXTS, VALUES),
    )


def messages(dialect: Dialect) -> st.SearchStrategy[Message]:
    return st.builds(Message, SOURCES, st.integers(1, MAX_ID), bodies(dialect))


EITHER = st.sampled_from([STANDARD, SECOND])


@given(EITHER.flatmap(lambda dialect: st.tuples(messages(dialect), st.just(dialect))))
def test_what_is_written_can_be_read(case: tuple[Message, Dialect]) -> None:
    message, dialect = case
    text = serialise(message, dialect)
    assert parse(text) == (message, dialect)
    assert parse(text, dialect) == (message, dialect)


def attempt(text: str | bytes, dialect: Dialect | None = None) -> Message | MalformedMessage:
    """Parse; anything but these two outcomes fails the test."""
    try:
        return parse(text, dialect)[0]
    except MalformedMessage as error:
        return error


@given(EITHER.flatmap(messages), EITHER, st.data())
def test_mutated_messages_are_read_or_refused(message: Message, dialect: Dialect, data: st.DataObject) -> None:
    text = serialise(message, dialect)
    fields: dict[str, Any] = json.loads(text)
    name = data.draw(st.sampled_from(sorted(fields)))
    match data.draw(st.sampled_from(["drop", "replace", "add", "cut", "splice"])):
        case "drop":
            del fields[name]
        case "replace":
            fields[name] = data.draw(VALUES)
        case "add":
            fields[data.draw(TEXTS)] = data.draw(VALUES)
        case "cut":
            attempt(text[: data.draw(st.integers(0, len(text)))])
            return
        case "splice":
            at = data.draw(st.integers(0, len(text)))
            attempt(text[:at] + data.draw(st.text(max_size=4)) + text[at + data.draw(st.integers(0, 4)) :])
            return
    for spoken in (None, STANDARD, SECOND):
        outcome = attempt(json.dumps(fields), spoken)
        if isinstance(outcome, MalformedMessage):
            assert 0 <= outcome.request <= MAX_ID
            assert outcome.problem.type in (MESSAGE_MALFORMATTED, MESSAGE_UNKNOWN)


@given(st.text() | st.binary(), st.sampled_from([None, STANDARD, SECOND]))
def test_anything_at_all_is_read_or_refused(data: str | bytes, dialect: Dialect | None) -> None:
    assert isinstance(attempt(data, dialect), MalformedMessage)


def fields_of(body: Body, dialect: Dialect = STANDARD) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(serialise(Message(ME, 7, body), dialect))
    return fields


def read(fields: dict[str, Any], dialect: Dialect | None = None) -> Body:
    return parse(json.dumps(fields), dialect)[0].body


def refused(fields: dict[str, Any], reason: str, dialect: Dialect | None = None) -> MalformedMessage:
    with pytest.raises(MalformedMessage, match=reason) as raised:
        read(fields, dialect)
    return raised.value


# The bytes of both dialects, as the two sources write them.


def test_the_standard_dialect_is_written_as_in_ts_26_113() -> None:
    assert fields_of(Connect("v=0", (Criterion("service", "split"),))) == {
        "version": 1,
        "source": ME,
        "message_id": 7,
        "message_type": "connect",
        "offer": "v=0",
        "matching_criteria": [{"type": "service", "value": "split"}],
    }
    assert fields_of(Response(3, YOU)) | {"source": ""} == {
        "version": 1,
        "source": "",
        "message_id": 7,
        "message_type": "response",
        "type": "ack",
        "target": YOU,
        "request": 3,
    }
    problem = make_problem(EDGE_FULL, "wait", retry_after=5)
    reject = fields_of(Reject(YOU, 3, problem))
    assert (reject["target"], reject["request"], reject["error_id"]) == (YOU, 3, EDGE_FULL)
    assert reject["description"] == {
        "type": EDGE_FULL,
        "title": "The edge has no free slot",
        "status": 503,
        "detail": "wait",
        "retry_after": 5,
    }


def test_the_second_dialect_is_written_as_its_schema_wants() -> None:
    common = {"version": 1, "source_id": ME, "message_id": 7}
    assert fields_of(Connect("v=0"), SECOND) == common | {"message_type": "connect", "offer": "v=0", "criteria": []}
    assert fields_of(Response(3, YOU), SECOND) == common | {
        "message_type": "response",
        "response_to": 3,
        "status": 200,
        "reason": "OK",
    }
    error = fields_of(Response(3, YOU, make_problem(MESSAGE_UNKNOWN)), SECOND)
    assert (error["status"], error["reason"], error["error"]["type"]) == (400, "Message type unknown", MESSAGE_UNKNOWN)
    reject = fields_of(Reject(YOU, 3, make_problem(EDGE_FULL)), SECOND)
    assert reject.keys() == {*common, "message_type", "target", "reason"}
    assert json.loads(reject["reason"])["type"] == EDGE_FULL


def test_a_problem_without_title_and_status_still_makes_a_response_of_the_second_dialect() -> None:
    error = fields_of(Response(3, None, Problem("urn:x")), SECOND)
    assert (error["status"], error["reason"]) == (400, "urn:x")


# What the standard dialect forgives.


def test_the_source_may_stand_in_either_field() -> None:
    fields = fields_of(Close(YOU))
    del fields["source"]
    fields["source_id"] = ME
    assert parse(json.dumps(fields), STANDARD)[0].source == ME
    assert parse(json.dumps(fields))[1] is SECOND
    assert parse(json.dumps(fields | {"source": "source-proper"}))[0].source == "source-proper"


def test_the_case_of_message_types_does_not_matter() -> None:
    assert read(fields_of(Close(YOU)) | {"message_type": "CLOSE"}) == Close(YOU)


def test_unknown_fields_are_ignored() -> None:
    assert read(fields_of(Close(YOU)) | {"extensions": {}}) == Close(YOU)


def test_criteria_and_answers_may_be_absent() -> None:
    fields = fields_of(Connect("v=0"))
    del fields["matching_criteria"]
    assert read(fields) == Connect("v=0")
    assert read(fields_of(Accept(YOU)) | {"answer": None}) == Accept(YOU)


def test_a_description_may_be_a_text_or_be_absent() -> None:
    fields = fields_of(Reject(YOU, 3, Problem()))
    assert read(fields | {"description": "busy"}) == Reject(YOU, 3, Problem(detail="busy"))
    del fields["description"]
    assert read(fields) == Reject(YOU, 3, Problem())
    assert read(fields_of(Response(3)) | {"type": "ERROR", "description": "bad"}) == Response(
        3, None, Problem(detail="bad")
    )


# What the second dialect refuses, and what it lets pass.


@pytest.mark.parametrize("body", [Register(), Connect("v=0"), Accept(YOU, "v=0"), Update(YOU, "v=0"), Close(YOU)])
def test_the_second_dialect_refuses_unknown_fields(body: Body) -> None:
    refused(fields_of(body, SECOND) | {"extra": 1}, "a field that")


def test_the_second_dialect_lets_some_fields_pass() -> None:
    assert read(fields_of(Register(), SECOND) | {"capabilities": {}}) == Register()
    assert read(fields_of(Response(3), SECOND) | {"extra": 1}) == Response(3)
    assert read(fields_of(Application(YOU, "urn:x", 1), SECOND) | {"extra": 1}) == Application(YOU, "urn:x", 1)


def test_the_second_dialect_wants_everything_as_in_its_schema() -> None:
    fields = fields_of(Connect("v=0"), SECOND)
    refused(fields | {"message_type": "Connect"}, "Message type unknown")
    refused(fields | {"criteria": [{"type": "app", "value": 1, "more": 1}]}, "criteria")
    del fields["criteria"]
    refused(fields, "criteria is missing")
    refused(fields_of(Accept(YOU), SECOND), "answer is missing")


def test_an_error_of_the_second_dialect_may_come_without_a_problem() -> None:
    fields = fields_of(Response(3), SECOND) | {"status": 404, "reason": "nobody there", "error": None}
    assert read(fields) == Response(3, None, Problem(detail="nobody there"))


# What both refuse.


@pytest.mark.parametrize("dialect", [STANDARD, SECOND], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version"),
        ({"version": "1"}, "version"),
        ({"version": True}, "version"),
        ({"message_id": 0}, "message_id"),
        ({"message_id": -1}, "message_id"),
        ({"message_id": MAX_ID + 1}, "message_id"),
        ({"message_id": 1.0}, "message_id"),
        ({"message_type": "hello"}, "Message type unknown"),
        ({"message_type": None}, "message_type"),
        ({"message_type": ""}, "message_type"),
        ({"offer": ""}, "offer"),
        ({"offer": 7}, "offer"),
        ({"offer": "\ud800"}, "offer is not Unicode"),
        ({"offer": "x" * 131_073}, "offer"),
    ],
)
def test_fields_outside_their_limits_are_refused(change: dict[str, Any], reason: str, dialect: Dialect) -> None:
    refused(fields_of(Connect("v=0"), dialect) | change, reason)


@pytest.mark.parametrize("dialect", [STANDARD, SECOND], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("source", ["", "123456789", "x" * 129, None, 1_234_567_890])
def test_sources_and_targets_have_10_to_128_characters(source: object, dialect: Dialect) -> None:
    refused(fields_of(Close(YOU), dialect) | {dialect.source: source}, "source")
    refused(fields_of(Close(YOU), dialect) | {"target": source}, "target")


@pytest.mark.parametrize(
    "criteria",
    [
        None,
        "service",
        {},
        [1],
        [{"type": "app"}],
        [{"value": 1}],
        [{"type": "unheard", "value": 1}],
        [{"type": "app", "value": 1}] * (MAX_CRITERIA + 1),
    ],
)
def test_criteria_are_a_short_list_of_types_and_values(criteria: object) -> None:
    refused(fields_of(Connect("v=0")) | {"matching_criteria": criteria}, "type|matching_criteria|value")


@pytest.mark.parametrize("kind", ["maybe", "", None])
def test_a_response_is_an_ack_or_an_error(kind: object) -> None:
    assert refused(fields_of(Response(3)) | {"type": kind}, "type").is_response


@pytest.mark.parametrize("status", [99, 600, "200", True])
def test_a_response_of_the_second_dialect_has_an_http_status(status: object) -> None:
    assert refused(fields_of(Response(3), SECOND) | {"status": status}, "status").is_response


def test_binary_messages_are_refused() -> None:
    error = attempt(b"{}")
    assert isinstance(error, MalformedMessage)
    assert "binary" in str(error)
    assert (error.request, error.source, error.dialect, error.is_response) == (0, None, None, False)


def test_a_refusal_knows_what_it_needs_to_be_answered() -> None:
    error = refused(fields_of(Close(YOU), SECOND) | {"target": "short"}, "target")
    assert (error.request, error.source, error.dialect, error.is_response) == (7, ME, SECOND, False)
    error = refused({"source": ME, "message_id": 3, "message_type": "Response"}, "version")
    assert (error.request, error.source, error.dialect, error.is_response) == (3, ME, STANDARD, True)


def test_a_message_larger_than_the_limit_is_neither_read_nor_written() -> None:
    body = Application(YOU, "urn:x", "y" * MAX_MESSAGE)
    with pytest.raises(BadArgument, match="at most 262144"):
        serialise(Message(ME, 1, body), STANDARD)
    fields = fields_of(Application(YOU, "urn:x", ""))
    room = MAX_MESSAGE - len(json.dumps(fields))
    assert isinstance(read(fields | {"value": "y" * room}), Application)
    refused(fields | {"value": "y" * (room + 1)}, "more than 262144 bytes")
