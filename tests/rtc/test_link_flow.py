from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc.link import Link
from rtc.link_flow import (
    FIRST_TIMEOUT,
    INITIAL_WINDOW,
    MAX_TIMEOUT,
    MAX_UNACKNOWLEDGED,
    SEGMENT,
    FlowReceiver,
    FlowSender,
    Kind,
    Segment,
)
from rtc.link_settings import LinkSettings, parse_link


def carried(data: bytes, settings: LinkSettings, seed: int = 1) -> tuple[bytes, float, FlowSender]:
    """Send bytes over a link in virtual time; returns what arrived, when the end had arrived, and the sender."""
    there, back = Link(settings, f"{seed}/there"), Link(settings, f"{seed}/back")
    sender, receiver = FlowSender(opens=True), FlowReceiver()
    on_link: dict[bytes, Segment] = {}
    arrived, ended, now = bytearray(), 0.0, 0.0
    sender.write(data)
    sender.finish()
    for number in range(1_000_000):
        for segment in sender.take(now):
            name = f"{segment.offset}".encode().ljust(len(segment.payload) + 24)
            on_link[name] = segment
            there.push(name, now)
        for packet in there.pop(now):
            segment = on_link[packet]
            ready = receiver.receive(segment)
            assert ready is not None
            back.push(f"{segment.offset}".encode(), now)
            for piece in ready:
                arrived += piece.payload
                ended = now if piece.kind is Kind.END else ended
        for packet in back.pop(now):
            sender.acknowledged(int(packet), now)
        sender.time_out(now)
        if sender.done:
            return bytes(arrived), ended, sender
        due = [at for at in (there.next_event(), back.next_event(), sender.next_timeout()) if at is not None]
        now = max(now, min(due, default=now))
        assert number < 999_999, "it does not come to an end"
    raise AssertionError


@given(
    size=st.integers(0, 60_000),
    loss=st.floats(0, 0.3),
    reorder=st.floats(0, 0.3),
    duplicate=st.floats(0, 0.3),
    seed=st.integers(0, 2**32),
)
def test_every_byte_arrives_in_order_whatever_the_link_does(
    size: int, loss: float, reorder: float, duplicate: float, seed: int
) -> None:
    data = bytes(number % 251 for number in range(size))
    settings = LinkSettings(delay=0.01, loss=loss, reorder=reorder, duplicate=duplicate, rate=1e7)
    arrived, _, sender = carried(data, settings, seed)
    assert arrived == data
    assert sender.unacknowledged == 0


def test_a_transfer_takes_as_long_as_slow_start_and_the_rate_say() -> None:
    # The opening, then 10, 20, 40, ... segments a round trip: 100 of them in the fourth.
    _, took, _ = carried(bytes(100 * SEGMENT), parse_link("rtt=100"))
    assert took == pytest.approx(0.1 + 0.3 + 0.05, abs=0.01)
    megabytes = bytes(5_000_000)
    _, took, _ = carried(megabytes, parse_link("rtt=20,rate=20M"))
    assert took == pytest.approx(2.1, abs=0.25)


def test_one_lost_segment_is_sent_again_after_a_round_trip_and_halves_the_window() -> None:
    sender = opened()
    sender.write(bytes(20 * SEGMENT))
    first = sender.take(1.0)
    assert len(first) == INITIAL_WINDOW + 2, "two were acknowledged"
    again: list[Segment] = []
    for segment in first[1:]:
        sender.acknowledged(segment.offset, 1.05)
        again += [one for one in sender.take(1.05) if one.offset == first[0].offset]
    assert again == [first[0]]
    sender.acknowledged(first[0].offset, 1.1)
    rest = sender.take(1.1)
    assert len(rest) <= 12
    assert sender.next_timeout() is not None


def opened() -> FlowSender:
    sender = FlowSender(opens=True)
    assert sender.take(0.0) == [Segment(0, Kind.OPEN)]
    sender.write(b"early")
    assert sender.take(0.5) == [], "nothing before the opening is acknowledged"
    sender.acknowledged(0, 0.9)
    assert sender.take(0.9) == [Segment(1, Kind.DATA, b"early")]
    sender.acknowledged(1, 0.95)
    return sender


def test_what_is_never_acknowledged_is_sent_again_and_again_but_ever_more_rarely() -> None:
    sender = FlowSender(opens=False)
    sender.write(b"x")
    times: list[float] = []
    now = 0.0
    for _ in range(8):
        assert len(sender.take(now)) == 1
        times.append(now)
        sender.time_out(now + 0.001)
        due = sender.next_timeout()
        assert due is not None
        now = due
        sender.time_out(now)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps == [FIRST_TIMEOUT, 2.0, 4.0, *[MAX_TIMEOUT] * 4]
    assert sender.next_timeout() is None
    sender.time_out(now)
    assert sender.unacknowledged == 1
    assert not sender.done


def test_an_unknown_acknowledgement_changes_nothing() -> None:
    sender = FlowSender(opens=False)
    sender.acknowledged(17, 0.0)
    assert sender.take(0.0) == []
    assert sender.next_timeout() is None


def test_a_receiver_keeps_no_more_than_its_limit_of_what_came_early() -> None:
    receiver = FlowReceiver()
    piece = bytes(MAX_UNACKNOWLEDGED // 4)
    offsets: Iterator[int] = iter(range(1, 10**9, len(piece)))
    answers = [receiver.receive(Segment(next(offsets), Kind.DATA, piece)) for _ in range(6)]
    assert answers == [[], [], [], [], None, None]
    ready = receiver.receive(Segment(0, Kind.OPEN))
    assert ready is not None
    assert len(ready) == 5


@pytest.mark.parametrize("again", [lambda segment: segment, lambda segment: Segment(0, Kind.DATA, b"other")])
def test_what_came_already_is_acknowledged_and_not_handed_over_again(again: Callable[[Segment], Segment]) -> None:
    receiver = FlowReceiver()
    segment = Segment(0, Kind.DATA, b"abc")
    assert receiver.receive(segment) == [segment]
    assert receiver.receive(again(segment)) == []
