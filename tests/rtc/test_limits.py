from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rtc.limits import TokenBucket


def test_the_burst_is_there_at_once_and_the_rate_after_it() -> None:
    bucket = TokenBucket(10.0, 3.0, 0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(0.09)
    assert bucket.take(0.11)
    assert not bucket.take(0.11)


def test_it_never_holds_more_than_the_burst() -> None:
    bucket = TokenBucket(10.0, 3.0, 0.0)
    assert bucket.is_full(1000.0)
    assert bucket.take(1000.0, 3.0)
    assert not bucket.take(1000.0)


def test_what_is_refused_takes_nothing() -> None:
    bucket = TokenBucket(1.0, 2.0, 0.0)
    assert not bucket.take(0.0, 2.5)
    assert bucket.take(0.0, 2.0)


def test_the_wait_is_until_the_token_is_there() -> None:
    bucket = TokenBucket(4.0, 1.0, 0.0)
    assert bucket.wait(0.0) == 0
    bucket.take(0.0)
    assert bucket.wait(0.125) == 0.125
    assert not bucket.is_full(0.125)
    assert bucket.take(0.25)


def test_a_clock_that_runs_backwards_brings_and_takes_nothing() -> None:
    bucket = TokenBucket(1.0, 1.0, 100.0)
    assert bucket.take(50.0)
    assert not bucket.take(50.0)
    assert not bucket.take(100.5)
    assert bucket.take(101.0)


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 5)), max_size=60))
def test_over_any_time_no_more_than_burst_and_rate_allow(steps: list[tuple[float, float]]) -> None:
    bucket = TokenBucket(3.0, 4.0, 0.0)
    now = taken = 0.0
    for step, tokens in steps:
        now += step
        if bucket.take(now, tokens):
            taken += tokens
        assert taken <= 4.0 + 3.0 * now + 1e-6
