from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.strictjson import integer_of, member, printable, read_object, text_of, write_object
from splitrtc_errors import ProtocolError

LIMIT = 4_096

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_what_is_written_can_be_read(value: dict[str, object]) -> None:
    text = write_object(value)
    assert text.isascii()
    assert read_object(text, 10**6) == value


@given(st.text())
def test_any_text_is_an_object_or_a_protocol_error(text: str) -> None:
    try:
        value = read_object(text, LIMIT)
    except ProtocolError:
        return
    assert value == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON: Expecting value at 0"),
        ("[]", "not a JSON object"),
        ("1", "not a JSON object"),
        ('{"a": 1} {}', "Extra data"),
        ('{"a": 1, "a": 2}', "a key twice"),
        ('{"a": {"b": 1, "b": 1}}', "a key twice"),
        ('{"a": NaN}', "NaN is not a JSON value"),
        ('{"a": -Infinity}', "-Infinity is not a JSON value"),
        ('{"a": 1e999}', "beyond the range"),
        ('{"a": ' + "9" * 3_000 + "." + "9" * 400 + "e500}", "beyond the range"),
        ('{"a": ' + "1" * 5_000 + "}", "a number is too long"),
        ('{"a": ' + "[" * 100_000 + "}", "nested too deeply"),
        ("{'a': 1}", "not JSON"),
        ('{"a": "\ud800"}', "not Unicode"),
        ('{"a": "' + "x" * 200_000 + '"}', "more than 150000 bytes"),
        ('{"a": "' + "\N{SNOWMAN}" * 60_000 + '"}', "more than 150000 bytes"),
    ],
)
def test_what_is_not_one_plain_object_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        read_object(text, 150_000)


def test_the_limit_counts_bytes_and_is_inclusive() -> None:
    text = '{"a":"\N{SNOWMAN}"}'
    assert read_object(text, len(text.encode())) == {"a": "\N{SNOWMAN}"}
    with pytest.raises(ProtocolError):
        read_object(text, len(text.encode()) - 1)


def test_errors_do_not_quote_the_message() -> None:
    for text in ('{"secret": oops}', '{"a": 1, "a": "secret"}', '["secret"]'):
        with pytest.raises(ProtocolError) as raised:
            read_object(text, LIMIT)
        assert "secret" not in str(raised.value)
        assert raised.value.__cause__ is None


def test_members_are_checked() -> None:
    fields = {"text": "abc", "number": 3, "yes": True, "half": 0.5, "lone": "\ud800", "list": []}
    assert member(fields, "list") == []
    assert text_of(fields, "text", 3, 3) == "abc"
    assert integer_of(fields, "number", 3, 3) == 3
    for name, low, high in (("text", 4, 9), ("text", 0, 2), ("number", 0, 9), ("lone", 0, 9), ("absent", 0, 9)):
        with pytest.raises(ProtocolError, match=name):
            text_of(fields, name, low, high)
    for name, low, high in (("number", 4, 9), ("number", 0, 2), ("yes", 0, 9), ("half", 0, 9), ("absent", 0, 9)):
        with pytest.raises(ProtocolError, match=name):
            integer_of(fields, name, low, high)


def test_numbers_that_are_no_json_are_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_object({"a": math.nan})


@given(st.text())
def test_printable_text_is_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
    printable(text).encode()


def test_printable_keeps_what_is_harmless() -> None:
    assert printable("Grüße, 世界") == "Grüße, 世界"
    assert printable("a\x1b[31m\n") == "a\ufffd[31m\ufffd"
