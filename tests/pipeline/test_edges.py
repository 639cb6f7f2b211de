from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.edges import MARGIN, Seen, rank

STATES = (None, "ready", "warming", "draining", "full")
SEEN = st.lists(
    st.builds(
        Seen,
        url=st.text("abc", min_size=1, max_size=3),
        rtt=st.none() | st.floats(0, 2),
        state=st.sampled_from(STATES),
        load=st.floats(0, 3),
        tail=st.none() | st.floats(0, 1),
        wait=st.just(0.0) | st.floats(0, 1e5),
        lost=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda one: one.url,
)


def chosen(seen: list[Seen]) -> Seen:
    """The model: the one that comes first, found by leaving out all that something speaks against."""
    left = [one for one in seen if one.rtt is not None] or seen
    if left[0].rtt is None:
        return min(left, key=lambda one: one.wait)
    good = [one for one in left if not one.wait and one.state not in {"full", "draining"}]
    if not good:
        return min(left, key=lambda one: one.wait)
    good = [one for one in good if not one.lost] or good
    if all(one.lost for one in good):
        return good[0]
    good = [one for one in good if one.state != "warming"] or good
    if all(one.state == "warming" for one in good):
        return good[0]
    slowest = max((one.tail for one in seen if one.tail is not None), default=0.0)

    def seconds(one: Seen) -> float:
        assert one.rtt is not None
        return one.rtt + (slowest if one.tail is None else one.tail) / (1 - min(one.load, 0.95))

    best = min(map(seconds, good))
    return next(one for one in good if seconds(one) <= best + MARGIN)


@given(SEEN)
def test_the_first_one_is_that_of_the_model(seen: list[Seen]) -> None:
    ranked = rank(seen)
    assert sorted(one.url for one in ranked) == sorted(one.url for one in seen)
    assert all(one.reason for one in ranked)
    if seen:
        assert ranked[0].url == chosen(seen).url


@given(SEEN)
def test_among_equals_the_user_decides(seen: list[Seen]) -> None:
    equal = [Seen(one.url, rtt=0.01, state="ready", load=0.2, tail=0.005) for one in seen]
    assert [one.url for one in rank(equal)] == [one.url for one in seen]
    silent = [Seen(one.url) for one in seen]
    assert [one.url for one in rank(silent)] == [one.url for one in seen]


def order(*seen: Seen) -> str:
    return "".join(one.url for one in rank(seen))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ((Seen("a", 0.05), Seen("b", 0.01)), "ba"),
        ((Seen("a", 0.014), Seen("b", 0.01)), "ab"),  # not worth leaving the user's order
        ((Seen("a", 0.01, "ready", 0.0, 0.1), Seen("b", 0.05, "ready", 0.0, 0.01)), "ba"),
        ((Seen("a", 0.01, "ready", 0.9, 0.01), Seen("b", 0.02, "ready", 0.0, 0.01)), "ba"),  # 110 against 30 ms
        ((Seen("a", 0.01, "ready", 7.0, 0.01), Seen("b", 0.3, "ready", 0.0, 0.01)), "ab"),  # never infinitely slow
        ((Seen("a", 0.01), Seen("b", 0.02, "ready", 0.5, 0.05)), "ab"),  # not measured: as slow as the slowest
        ((Seen("a", 0.01, "warming"), Seen("b", 0.5)), "ba"),
        ((Seen("a", 0.01, lost=True), Seen("b", 0.5, "warming")), "ba"),
        ((Seen("a", 0.01, "full"), Seen("b", 0.5, lost=True)), "ba"),
        ((Seen("a", 0.01, "draining", wait=3.0), Seen("b", 0.5, "ready", wait=2.0), Seen("c", 0.5, "full")), "cba"),
        ((Seen("a"), Seen("b", 0.01, "draining", wait=1e4)), "ba"),
    ],
)
def test_what_comes_first(seen: tuple[Seen, ...], expected: str) -> None:
    assert order(*seen) == expected


def test_reasons() -> None:
    seen = (
        Seen("a", 0.01, "ready", 0.5, 0.01),
        Seen("b", 0.01, "warming"),
        Seen("c", 0.01, lost=True),
        Seen("d", 0.01, "full"),
        Seen("e", 0.01, wait=3.04),
        Seen("f"),
    )
    assert [one.reason for one in rank(seen)] == [
        "about 30 ms: 10 ms away, 50% taken",
        "is warming",
        "was just lost",
        "is full",
        "asked to be left alone for 3.0 s",
        "did not answer in time",
    ]
