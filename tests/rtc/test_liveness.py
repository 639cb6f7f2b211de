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


def test_who_stood_still_himself_gives_the_peer_another_chance() -> None:
    life = Liveness(0.0)
    life.woke(10.0)  # it should have been 0.5
    assert not life.lost(10.0)
    assert life.heartbeat_due(10.0)
    life.woke(life.next_event())
    assert life.lost(12.0)


def test_who_is_only_a_little_late_gives_none() -> None:
    life = Liveness(0.0)
    life.sent(1.5)
    life.woke(2.2)
    assert life.lost(2.2)


def test_a_clock_that_jumps_back_keeps_nobody_from_heartbeats_and_from_noticing_silence() -> None:
    life = Liveness(1000.0)
    life.woke(10.0)
    assert life.next_event() == 10.0 + HEARTBEAT
    assert not life.lost(10.0 + TIMEOUT - 0.01)
    assert life.lost(10.0 + TIMEOUT)
