from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc.congestion import AckPolicy, CongestionWindow, RoundTrip

RENO = 3.0


class Path:
    """Feeds a window with acknowledgements, one each 10 ms."""

    def __init__(self) -> None:
        self.window = CongestionWindow()
        self.now = 100.0

    def acknowledge(self, times: int, round_trip: float | None, chunks: int = 1, limited: bool = True) -> float:
        for _ in range(times):
            self.now += 0.01
            self.window.acknowledged(chunks, round_trip, limited, 0.04, self.now)
        return self.window.window(RENO)


@pytest.fixture
def path() -> Path:
    return Path()


# Round trips


def test_timeouts_before_the_first_sample() -> None:
    trip = RoundTrip()
    assert (trip.rto, trip.chunk_timeout, trip.pause, trip.smoothed) == (1.0, 1.0, 0.0, None)


def test_timeouts_follow_the_round_trip() -> None:
    trip = RoundTrip()
    trip.sample(0.1)
    assert trip.rto == pytest.approx(0.3)
    for _ in range(100):
        trip.sample(0.04)
    assert trip.rto == RoundTrip.RTO_MIN
    assert trip.chunk_timeout == pytest.approx(0.055, abs=1e-4)
    assert trip.pause == pytest.approx(0.04, abs=1e-4)


def test_timeouts_double_until_a_sample_comes() -> None:
    trip = RoundTrip()
    trip.sample(0.1)
    first = trip.chunk_timeout, trip.rto
    trip.expired()
    assert (trip.chunk_timeout, trip.rto) == (2 * first[0], 2 * first[1])
    assert not trip.is_silent
    for _ in range(20):
        trip.expired()
    assert trip.is_silent
    assert trip.chunk_timeout == RoundTrip.TAIL_MAX
    assert trip.rto == RoundTrip.RTO_MAX
    trip.sample(0.1)
    assert not trip.is_silent
    assert trip.chunk_timeout < 2 * first[0]


def test_the_slowest_of_late_round_trips_counts_for_a_while() -> None:
    trip = RoundTrip()
    for _ in range(100):
        trip.sample(0.04)
    trip.sample(0.14)  # a queue has filled: the average knows of a tenth of it
    assert trip.smoothed == pytest.approx(0.0525)
    assert trip.chunk_timeout >= 0.14 + RoundTrip.MARGIN
    for _ in range(100):
        trip.sample(0.04)
    assert trip.chunk_timeout == pytest.approx(0.055, abs=1e-3)


# The window


def test_it_starts_with_ten_chunks_and_grows_while_it_is_used(path: Path) -> None:
    assert path.window.window(RENO) == 10
    assert path.acknowledge(3, 0.04, limited=False) == 10
    assert path.acknowledge(3, 0.04) == 13
    assert path.acknowledge(1_000, 0.04) == CongestionWindow.CEILING


def test_it_stays_with_a_little_queue(path: Path) -> None:
    path.acknowledge(1, 0.04)
    path.acknowledge(60, 0.055)  # until the short one has left the last moment
    before = path.window.window(RENO)
    assert path.acknowledge(10, 0.055) == before


def test_it_shrinks_once_per_round_trip_down_to_its_floor(path: Path) -> None:
    path.acknowledge(1, 0.04, limited=False)
    while path.window.window(RENO) == 10:  # until the short one has left the last moment
        path.acknowledge(1, 0.075, limited=False)
    assert path.acknowledge(3, 0.075) == pytest.approx(7)
    assert path.acknowledge(2, 0.075) == pytest.approx(4.9)
    assert path.acknowledge(200, 0.075) == CongestionWindow.FLOOR
    assert not path.window.uses_reno


def test_a_burst_that_drains_is_no_queue(path: Path) -> None:
    for _ in range(50):
        path.acknowledge(1, 0.04, limited=False)
        path.acknowledge(20, 0.09, limited=False)
    assert path.window.window(RENO) == 10


def test_delays_that_vary_are_no_queue(path: Path) -> None:
    for round_trip in [0.04, 0.12, 0.09, 0.07, 0.11, 0.055, 0.10, 0.08] * 30:
        path.acknowledge(1, round_trip, limited=False)
    assert path.window.window(RENO) == 10


def test_the_more_round_trips_differ_the_more_may_be_chance(path: Path) -> None:
    path.acknowledge(1, 0.04, limited=False)
    for _ in range(100):
        path.acknowledge(1, 0.07, limited=False)
        path.acknowledge(1, 0.11, limited=False)
    assert path.window.window(RENO) == 10
    assert path.acknowledge(100, 0.07) < 10


def test_it_does_not_grow_into_a_queue_that_has_just_begun(path: Path) -> None:
    path.acknowledge(1, 0.04)
    before = path.window.window(RENO)
    assert path.acknowledge(10, 0.04 + CongestionWindow.ROOM) == before


def test_a_slow_path_bounds_it(path: Path) -> None:
    path.acknowledge(20, 0.05)
    assert path.window.window(RENO) > 20
    assert path.window.window(RENO, rate=100.0) == pytest.approx(10)
    assert path.window.window(RENO, rate=1.0) == CongestionWindow.FLOOR


def test_after_shrinking_it_grows_slowly(path: Path) -> None:
    path.acknowledge(1, 0.04)
    path.acknowledge(150, 0.075)
    path.acknowledge(1, 0.04)  # the queue is gone
    assert path.acknowledge(7, 0.04) <= 6
    assert path.acknowledge(4, 0.04) <= 7


def test_loss_in_each_round_trip_shrinks_it_if_it_is_much(path: Path) -> None:
    def lose(share: float, rounds: int) -> float:
        for _ in range(rounds):
            path.window.lost(round(share * 100))
            for _ in range(4):  # a round trip
                path.acknowledge(1, 0.04, chunks=round((1 - share) * 25))
        return path.window.window(RENO)

    assert lose(0.03, 60) > 100
    assert path.window.loss == pytest.approx(0.03, abs=0.01)
    lose(0.07, 60)
    held = path.window.window(RENO)
    assert lose(0.07, 10) == held
    assert lose(0.3, 10) < held
    assert lose(0.3, 60) == CongestionWindow.FLOOR
    assert not path.window.uses_reno


def test_loss_in_bursts_is_noise(path: Path) -> None:
    for _ in range(100):
        path.window.lost(60)
        path.acknowledge(20, 0.04, chunks=10)
    assert path.window.loss > CongestionWindow.SHRINK_LOSS
    assert path.window.window(RENO) > 100


def test_somebody_else_fills_the_queue(path: Path) -> None:
    path.acknowledge(1, 0.04)
    path.acknowledge(150, 0.14)
    assert path.window.uses_reno
    assert path.window.window(7.0) == 7
    assert path.window.window(0.5) == 1
    # The own window is tried again, and as nothing has changed, given up again.
    path.acknowledge(500, 0.14)
    assert path.window.uses_reno
    tried = CongestionWindow.FLOOR
    path.now += CongestionWindow.PROBE
    assert path.acknowledge(1, 0.14) == tried
    assert path.acknowledge(40, 0.14) == RENO


def test_when_the_queue_is_gone_it_goes_on_from_there(path: Path) -> None:
    path.acknowledge(1, 0.04)
    path.acknowledge(150, 0.14)
    assert path.window.window(20.0) == 20
    path.now += 0.1
    path.window.acknowledged(1, 0.04, False, 0.04, path.now)
    assert not path.window.uses_reno
    assert path.window.window(RENO) == 20


def test_a_path_that_got_longer_is_believed_in_the_end(path: Path) -> None:
    path.acknowledge(1, 0.04, limited=False)
    path.acknowledge(60, 0.09)
    assert path.acknowledge(20, 0.09) < 10
    path.acknowledge(2_000, 0.09)
    assert not path.window.uses_reno
    before = path.window.window(RENO)
    assert path.acknowledge(100, 0.09) > before


def test_it_starts_again_after_a_timeout(path: Path) -> None:
    path.window.timed_out()
    assert path.window.window(RENO) == 1
    assert path.acknowledge(1, None) == CongestionWindow.FLOOR + 1


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.none() | st.floats(0, 10),
            st.booleans(),
            st.floats(0, 30),
            st.sampled_from(["", "lost", "timed_out"]),
        ),
        max_size=100,
    )
)
def test_whatever_comes_the_window_has_bounds(
    steps: list[tuple[int, float | None, bool, float, str]],
) -> None:
    window, now = CongestionWindow(), 0.0
    for chunks, round_trip, limited, passed, also in steps:
        now += passed
        if also:
            getattr(window, also)()
        window.acknowledged(chunks, round_trip, limited, 0.05, now)
        assert CongestionWindow.FLOOR <= window.window(5.0) <= CongestionWindow.CEILING
        assert 0 <= window.loss < 1


# Acknowledgements


def test_the_first_packets_are_acknowledged_one_by_one_then_several_together() -> None:
    policy = AckPolicy()
    for _ in range(AckPolicy.FIRST):
        assert policy.received(False)
        policy.acknowledged()
    for _ in range(2):
        assert [policy.received(False) for _ in range(AckPolicy.EVERY)] == [False, False, False, True]
        policy.acknowledged()
    assert not policy.received(False)
    assert policy.received(True)
