from __future__ import annotations

from rtc.liveness import HEARTBEAT, TIMEOUT, Liveness


def test_nothing_is_due_at_the_start() -> None:
    life = Liveness(100.0)
    assert not life.heartbeat_due(100.0)
    assert not life.lost(100.0)
    assert life.next_event() == 100.0 + HEARTBEAT


def test_heartbeat_is_due_half_a_second_after_sending() -> None:
    life = Liveness(0.0)
    life.sent(1.0)
    assert not life.heartbeat_due(1.49)
    assert life.heartbeat_due(1.5)


def test_hearing_does_not_spare_the_heartbeat() -> None:
    life = Liveness(0.0)
    life.heard(0.5)
    assert life.heartbeat_due(0.5)


def test_lost_after_two_seconds_of_silence() -> None:
    life = Liveness(0.0)
    life.heard(1.0)
    assert not life.lost(2.99)
    assert life.lost(3.0)


def test_sending_does_not_keep_the_peer_alive() -> None:
    life = Liveness(0.0)
    life.sent(1.9)
    assert life.lost(TIMEOUT)


def test_next_event_is_the_earlier_of_heartbeat_and_loss() -> None:
    life = Liveness(0.0, timeout=2.0, heartbeat=0.5)
    life.sent(1.75)
    assert life.next_event() == 2.0
    assert life.lost(life.next_event())
    life.heard(1.0)
    assert life.next_event() == 2.25
    assert life.heartbeat_due(life.next_event())


def test_periods_can_be_chosen() -> None:
    life = Liveness(0.0, timeout=0.25, heartbeat=0.125)
    assert life.heartbeat_due(0.125)
    assert life.lost(0.25)
