from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.limits import CONNECT_BURST, ConnectLimiter


def test_an_address_may_come_in_a_burst_and_then_at_the_rate() -> None:
    limiter = ConnectLimiter(2.0)
    burst = int(2 * CONNECT_BURST)
    assert [limiter.admit("192.0.2.1", 0.0) for _ in range(burst)] == [0.0] * burst
    assert limiter.admit("192.0.2.1", 0.0) == 0.5
    assert limiter.admit("192.0.2.1", 0.25) == 0.25
    assert limiter.admit("192.0.2.1", 0.5) == 0.0
    assert limiter.admit("192.0.2.2", 0.5) == 0.0


def test_a_rate_below_one_a_burst_lets_one_in() -> None:
    limiter = ConnectLimiter(0.01)
    assert limiter.admit("192.0.2.1", 0.0) == 0.0
    assert limiter.admit("192.0.2.1", 0.0) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        (None, "", True),
        ("unix:", None, True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_what_counts_as_one_address(one: str | None, other: str | None, same: bool) -> None:
    limiter = ConnectLimiter(0.01)
    assert limiter.admit(one, 0.0) == 0.0
    assert (limiter.admit(other, 0.0) > 0) is same


def test_quiet_addresses_are_forgotten() -> None:
    limiter = ConnectLimiter(1.0)
    for number in range(50):
        limiter.admit(f"192.0.2.{number}", 0.0)
    assert len(limiter) == 50
    limiter.admit("198.51.100.1", 60.0)
    assert len(limiter) == 1


def test_of_too_many_the_one_that_was_quiet_longest_goes_first() -> None:
    limiter = ConnectLimiter(0.01, max_addresses=2)
    for address in ("a1", "192.0.2.1", "192.0.2.2"):
        limiter.admit(address, 0.0)
    assert len(limiter) == 2
    assert limiter.admit("192.0.2.2", 0.0) > 0
    assert limiter.admit("192.0.2.3", 0.0) == 0.0
    assert limiter.admit("192.0.2.2", 0.0) > 0
    assert limiter.admit("192.0.2.1", 0.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1)), max_size=100))
def test_memory_is_bounded(visits: list[tuple[int, float]]) -> None:
    limiter = ConnectLimiter(5.0, max_addresses=8)
    now = 0.0
    for number, step in visits:
        now += step
        assert 0 <= limiter.admit(f"2001:db8:{number:x}::1", now) <= 0.2 + 1e-9
        assert len(limiter) <= 8
