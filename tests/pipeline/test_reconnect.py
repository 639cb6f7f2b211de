from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import splitrtc_errors as errors
from pipeline.reconnect import FIRST_DELAY, GROWTH, LONGEST_DELAY, STEADY, Backoff, Outages, worth_retrying


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (errors.Unreachable(""), True),
        (errors.NegotiationTimeout(""), True),
        (errors.ConnectionLost(""), True),
        (errors.EdgeFull(""), True),
        (errors.Rejected("the edge failed"), True),
        (errors.Unauthorized(""), False),
        (errors.NoCommonOperatingPoint(""), False),
        (errors.ProtocolError(""), False),
        (errors.ModelFileError(""), False),
        (errors.BadArgument(""), False),
        (errors.MissingDependency(""), False),
        (ZeroDivisionError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_time_may_mend(error: Exception, worth: bool) -> None:
    assert worth_retrying(error) is worth


def test_each_delay_may_be_longer_than_the_last_one_up_to_a_limit() -> None:
    backoff = Backoff(random.Random(1))
    step = FIRST_DELAY
    for _ in range(12):
        assert step / 2 <= backoff.delay() <= step
        step = min(GROWTH * step, LONGEST_DELAY)
    assert step == LONGEST_DELAY


def test_neighbours_do_not_all_leave_at_once() -> None:
    found = [Backoff(random.Random(seed)).some_of(2.0) for seed in range(50)]
    assert 0 <= min(found) < 0.5
    assert 1.5 < max(found) <= 2.0


def test_the_same_seed_gives_the_same_delays_and_another_one_others() -> None:
    first, same, other = (Backoff(random.Random(seed)) for seed in (1, 1, 2))
    delays = [first.delay() for _ in range(5)]
    assert delays == [same.delay() for _ in range(5)]
    assert delays != [other.delay() for _ in range(5)]


def test_unseeded_ones_differ() -> None:
    assert Backoff().delay() != Backoff().delay()


def test_what_the_peer_asked_for_comes_on_top() -> None:
    assert 30.0 + FIRST_DELAY / 2 <= Backoff().delay(30.0) <= 30.0 + FIRST_DELAY


def test_only_what_worked_for_a_while_begins_anew() -> None:
    backoff = Backoff(random.Random(1))
    for _ in range(10):
        backoff.delay()
    backoff.worked(STEADY - 0.1)
    assert backoff.delay() >= LONGEST_DELAY / 2
    backoff.worked(STEADY)
    assert backoff.delay() <= FIRST_DELAY


class BackoffMachine(RuleBasedStateMachine):
    """Whatever happens, in whatever order: a delay is never too long, and never nearly nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.backoff = Backoff(random.Random(3))
        self.last = 0.0

    @rule(at_least=st.none() | st.floats(0, 100))
    def fail(self, at_least: float | None) -> None:
        self.last = self.backoff.delay(at_least) - (at_least or 0.0)
        assert FIRST_DELAY / 2 - 1e-9 <= self.last <= LONGEST_DELAY + 1e-9

    @rule(seconds=st.floats(0, 1000))
    def work(self, seconds: float) -> None:
        self.backoff.worked(seconds)
        if seconds >= STEADY:
            assert self.backoff.delay() <= FIRST_DELAY


TestBackoff = BackoffMachine.TestCase


def test_an_outage_is_counted_when_it_is_over_and_timed_while_it_lasts() -> None:
    outages = Outages()
    assert outages.to_json(5.0) == {"reconnects": 0, "disconnected_s": 0.0, "disconnected": None}
    outages.begin("nothing heard", 10.0)
    outages.begin("nobody there", 11.0)  # the same outage, by another reason
    assert outages.to_json(12.5) == {"reconnects": 0, "disconnected_s": 2.5, "disconnected": "nobody there"}
    assert outages.end(13.0) == 3.0
    outages.begin("nothing heard", 20.0)
    assert outages.end(21.0) == 1.0
    assert outages.to_json(99.0) == {"reconnects": 2, "disconnected_s": 4.0, "disconnected": None}


class OutagesMachine(RuleBasedStateMachine):
    """Against a model that keeps every second with its state."""

    def __init__(self) -> None:
        super().__init__()
        self.outages = Outages()
        self.now = 0
        self.away = False
        self.seconds = 0
        self.reconnects = 0

    @rule(seconds=st.integers(0, 100))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.seconds += seconds if self.away else 0

    @rule()
    def lose(self) -> None:
        self.outages.begin("lost", float(self.now))
        self.away = True

    @rule()
    def come_back(self) -> None:
        if self.away:
            self.outages.end(float(self.now))
            self.away = False
            self.reconnects += 1

    @invariant()
    def agree(self) -> None:
        assert self.outages.to_json(float(self.now)) == {
            "reconnects": self.reconnects,
            "disconnected_s": float(self.seconds),
            "disconnected": "lost" if self.away else None,
        }


TestOutages = OutagesMachine.TestCase


@given(st.integers(0, 2**32))
def test_a_hundred_devices_do_not_come_at_once(seed: int) -> None:
    rng = random.Random(seed)
    delays = [Backoff(random.Random(rng.getrandbits(64))).delay() for _ in range(100)]
    assert max(delays) - min(delays) > FIRST_DELAY / 4
