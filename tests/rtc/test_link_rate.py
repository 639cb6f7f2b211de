from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc.link_rate import LinkRate

CHUNK = 1_000


class Path:
    """Sends trains of chunks through a path of some rate and tells when they arrive."""

    def __init__(self) -> None:
        self.rate = LinkRate()
        self.now = 100.0

    def send(self, chunks: int, rate: float, pause: float = 0.1, stall: float = 0.0) -> float:
        self.now += pause
        trains = [self.rate.sent(False, self.now + 1e-4 * chunk) for chunk in range(chunks)]
        assert len(set(trains)) == 1
        for chunk, train in enumerate(trains):
            self.now += CHUNK / rate + stall * (chunk == 1)
            self.rate.acknowledged(train, 1, CHUNK, self.now)
        return self.rate.rate


@pytest.fixture
def path() -> Path:
    return Path()


def test_nothing_is_known_before_a_train_has_arrived(path: Path) -> None:
    assert path.rate.rate == math.inf
    assert path.send(LinkRate.LEAST, 1e6) == math.inf
    assert path.send(LinkRate.LEAST, 1e6) == math.inf  # too few chunks


def test_a_train_tells_the_rate_when_the_next_begins_or_it_is_long(path: Path) -> None:
    path.send(6, 1e6)
    assert path.rate.rate == math.inf
    assert path.send(1, 1e6) == pytest.approx(1e6)
    assert path.send(LinkRate.MOST + 1, 5e5) == pytest.approx(5e5)


def test_chunks_that_waited_for_the_window_belong_together() -> None:
    rate = LinkRate()
    first = rate.sent(False, 1.0)
    assert rate.sent(True, 2.0) == first
    assert rate.sent(False, 3.0) == first + 1


def test_a_stall_changes_nothing(path: Path) -> None:
    for _ in range(5):
        path.send(9, 1e6, pause=0.02)
    assert path.send(9, 1e6, stall=0.05, pause=0.02) == pytest.approx(1e6)
    # Nor do acknowledgements that were held up and come all at once.
    assert path.send(9, 1e9, pause=0.02) == pytest.approx(1e6)


def test_a_path_that_got_slower_is_believed_when_the_faster_trains_are_old(path: Path) -> None:
    for _ in range(5):
        path.send(9, 1e6, pause=0.02)
    rates = [path.send(9, 1e5) for _ in range(4)]
    assert rates[0] == pytest.approx(1e6)
    assert rates[-1] == pytest.approx(1e5)


def test_overtaken_acknowledgements_say_nothing(path: Path) -> None:
    train = path.rate.sent(False, 100.0)
    path.send(9, 1e6)
    path.rate.acknowledged(train, 9, 9 * CHUNK, path.now + 1e-6)
    assert path.send(9, 1e6) == pytest.approx(1e6)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.integers(-2, 0), st.integers(1, 9)), max_size=60))
def test_whatever_comes_the_rate_is_positive(steps: list[tuple[bool, float, int, int]]) -> None:
    rate, now = LinkRate(), 0.0
    for waited, passed, behind, chunks in steps:
        now += passed
        train = rate.sent(waited, now)
        rate.acknowledged(max(train + behind, 0), chunks, chunks * CHUNK, now)
        assert rate.rate > 0
