from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.problems import (
    DRAINING,
    EDGE_FAILURE,
    EDGE_FULL,
    MAX_ACCEPTABLE,
    MAX_ACCEPTABLE_LINE,
    MAX_TEXT,
    MESSAGE_MALFORMATTED,
    MESSAGE_UNKNOWN,
    NO_COMMON_OPERATING_POINT,
    TARGET_UNKNOWN,
    UNAUTHORIZED,
    Problem,
    make_problem,
    problem_of,
    rejection,
)
from splitrtc_errors import (
    CodecError,
    EdgeFull,
    NoCommonOperatingPoint,
    ProtocolError,
    Rejected,
    Unauthorized,
)

TYPES = [
    MESSAGE_UNKNOWN,
    MESSAGE_MALFORMATTED,
    TARGET_UNKNOWN,
    UNAUTHORIZED,
    NO_COMMON_OPERATING_POINT,
    EDGE_FULL,
    DRAINING,
    EDGE_FAILURE,
]

PRINTABLE = st.text().filter(str.isprintable)
PROBLEMS = st.builds(
    Problem,
    type=PRINTABLE.filter(bool),
    title=PRINTABLE,
    status=st.just(0) | st.integers(100, 599),
    detail=PRINTABLE,
    acceptable=st.lists(PRINTABLE, max_size=3).map(tuple),
    retry_after=st.none() | st.floats(0, 86_400),
)


@given(PROBLEMS)
def test_a_problem_survives_its_json(problem: Problem) -> None:
    assert Problem.from_json(problem.to_json()) == problem
    assert Problem.from_json(json.dumps(problem.to_json())) == problem


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_any_value_reads_as_a_problem_that_can_be_shown(value: object) -> None:
    for name in ("type", "title", "status", "detail", "acceptable", "retry_after"):
        problem = Problem.from_json({name: value})
        assert str(problem).isprintable()
        assert Problem.from_json(problem.to_json()) == problem
    assert str(Problem.from_json(value)).isprintable()


def test_a_text_is_read_as_the_detail() -> None:
    assert Problem.from_json("no such model") == Problem(detail="no such model")
    assert Problem.from_json("[1, 2]") == Problem(detail="[1, 2]")
    assert Problem.from_json("[" * 50_000).detail == "[" * MAX_TEXT
    assert Problem.from_json("") == Problem()


@pytest.mark.parametrize(
    "fields",
    [
        {"type": 3},
        {"status": True},
        {"status": 99},
        {"status": "400"},
        {"retry_after": -1},
        {"retry_after": True},
        {"retry_after": float("nan")},
        {"retry_after": 10**400},
        {"acceptable": "model=a"},
        {"acceptable": [1, None, "\n", "x" * (MAX_ACCEPTABLE_LINE + 1)]},
        {"other": 1},
    ],
)
def test_members_of_the_wrong_kind_count_as_absent(fields: dict[str, Any]) -> None:
    assert Problem.from_json(fields) == Problem()


def test_what_a_peer_can_make_us_keep_is_bounded() -> None:
    problem = Problem.from_json({"detail": "x" * 10**6, "acceptable": ["y"] * 10**5})
    assert len(problem.detail) == MAX_TEXT
    assert len(problem.acceptable) == MAX_ACCEPTABLE


@pytest.mark.parametrize("type_", TYPES)
def test_known_types_have_a_title_and_a_status(type_: str) -> None:
    problem = make_problem(type_, "because")
    assert problem.title
    assert 400 <= problem.status <= 599
    assert str(problem) == f"{problem.title}: because"


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        (UNAUTHORIZED, Unauthorized),
        (EDGE_FULL, EdgeFull),
        (DRAINING, EdgeFull),
        (NO_COMMON_OPERATING_POINT, NoCommonOperatingPoint),
        (EDGE_FAILURE, Rejected),
        ("urn:other", Rejected),
    ],
)
def test_a_rejection_carries_its_problem(type_: str, kind: type[Rejected]) -> None:
    problem = Problem(type_, "Title", 503, "detail", ("model=a",), 2.5)
    error = rejection(problem)
    assert type(error) is kind
    assert error.retry_after == 2.5
    assert error.problem["acceptable"] == ["model=a"]
    assert problem_of(error) == problem
    assert str(error) == "the peer refused: Title: detail; try again in 2.5 s"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Unauthorized("no"), make_problem(UNAUTHORIZED)),
        (EdgeFull("full", {"retry_after": 3}), make_problem(EDGE_FULL, retry_after=3.0)),
        (NoCommonOperatingPoint("none"), make_problem(NO_COMMON_OPERATING_POINT)),
        (Rejected("no"), make_problem(EDGE_FAILURE)),
        (ProtocolError("line 3\n"), make_problem(MESSAGE_MALFORMATTED, "line 3\ufffd")),
        (CodecError("/home/somebody/model.onnx"), make_problem(EDGE_FAILURE, "CodecError")),
        (ValueError("/home/somebody/model.onnx"), make_problem(EDGE_FAILURE)),
    ],
)
def test_an_error_becomes_a_problem_that_gives_nothing_away(error: Exception, expected: Problem) -> None:
    assert problem_of(error) == expected
