from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.ranges import Span, chosen_coding, span_of

TAG = '"0123"'


@pytest.mark.parametrize(
    ("range_", "expected"),
    [
        (None, Span(200, 0, 10)),
        ("bytes=0-", Span(206, 0, 10)),
        ("bytes=3-", Span(206, 3, 10)),
        ("BYTES=3-5", Span(206, 3, 6)),
        (" bytes=3-99 ", Span(206, 3, 10)),
        ("bytes=-4", Span(206, 6, 10)),
        ("bytes=-99", Span(206, 0, 10)),
        ("bytes=-0", Span(416)),
        ("bytes=10-", Span(416)),
        ("bytes=99-100", Span(416)),
        ("bytes=5-3", Span(200, 0, 10)),
        ("bytes=-", Span(200, 0, 10)),
        ("bytes=0-1,3-4", Span(200, 0, 10)),
        ("lines=0-1", Span(200, 0, 10)),
        ("bytes=a-b", Span(200, 0, 10)),
        ("bytes=" + "9" * 30 + "-", Span(200, 0, 10)),
    ],
)
def test_ranges(range_: str | None, expected: Span) -> None:
    assert span_of(10, TAG, range_=range_) == expected


def test_a_range_of_other_bytes_is_none() -> None:
    assert span_of(10, TAG, range_="bytes=3-", if_range=TAG) == Span(206, 3, 10)
    for other in ('"4567"', f"W/{TAG}", "Sat, 01 Jan 2000 00:00:00 GMT"):
        assert span_of(10, TAG, range_="bytes=3-", if_range=other) == Span(200, 0, 10)


@pytest.mark.parametrize("header", [TAG, f"W/{TAG}", f'"x", {TAG}', "*"])
def test_who_has_the_file_gets_nothing(header: str) -> None:
    assert span_of(10, TAG, range_="bytes=3-", if_none_match=header) == Span(304)
    assert span_of(10, '"other"', if_none_match=header).status == (304 if header == "*" else 200)


def test_content_range() -> None:
    assert Span(206, 3, 6).content_range(10) == "bytes 3-5/10"
    assert Span(416).content_range(10) == "bytes */10"
    assert Span(200, 0, 10).content_range(10) is None


@given(st.integers(0, 2**40), *(st.none() | st.text(max_size=40),) * 3)
def test_whatever_is_asked_for_lies_within_the_file(
    size: int, range_: str | None, if_range: str | None, if_none_match: str | None
) -> None:
    span = span_of(size, TAG, range_=range_, if_range=if_range, if_none_match=if_none_match)
    assert 0 <= span.start <= span.stop <= size
    assert span.status in (200, 206, 304, 416)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("zstd", "zstd"),
        ("gzip, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("GZIP", "gzip"),
        ("zstd;q=0", None),
        ("zstd;q=0, gzip;q=0.1", "gzip"),
        ("*", "zstd"),
        ("*;q=0", None),
        ("br", None),
    ],
)
def test_codings(accept: str | None, expected: str | None) -> None:
    assert chosen_coding(accept, ("zstd", "gzip")) == expected
    assert chosen_coding(accept, ()) is None


@given(st.text(max_size=200))
def test_any_header_chooses_something_that_is_there(accept: str) -> None:
    assert chosen_coding(accept, ("zstd", "gzip")) in ("zstd", "gzip", None)
