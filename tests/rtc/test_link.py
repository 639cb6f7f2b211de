from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rtc.link
from rtc.link import MAX_BYTES, MAX_PACKETS, PACKET_OVERHEAD, REORDER_HOLD, Link, LinkCounters
from rtc.link_settings import LinkSettings, LinkTrace, QueueLimit, parse_link

Arrival = tuple[float, bytes]
Offered = list[tuple[float, bytes]]


def run(link: Link, offered: Offered) -> list[Arrival]:
    """Offer packets at their times and take each at the very time at which it arrives."""
    arrivals: list[Arrival] = []

    def take(until: float) -> None:
        while (due := link.next_event()) is not None and due <= until:
            arrivals.extend((due, packet) for packet in link.pop(due))

    for at, packet in offered:
        take(at)
        link.push(packet, at)
    take(math.inf)
    return arrivals


def stream(count: int, interval: float = 0.001, size: int = 100) -> Offered:
    """Packets that begin with their numbers."""
    return [(number * interval, number.to_bytes(4, "big").ljust(size, b".")) for number in range(count)]


def numbers(arrivals: list[Arrival]) -> list[int]:
    return [int.from_bytes(packet[:4], "big") for _, packet in arrivals]


# What any link does


@st.composite
def links(draw: st.DrawFn) -> LinkSettings:
    text = "rtt={},jitter={},loss={}%,reorder={}%,duplicate={}%,corrupt={}%,queue={}".format(
        draw(st.integers(0, 80)),
        draw(st.integers(0, 30)),
        *(draw(st.sampled_from([0, 0, 5, 50])) for _ in range(4)),
        draw(st.sampled_from(["20ms", "5packets", "4000bytes"])),
    )
    text += draw(st.sampled_from(["", ",burst=2.5"])) + draw(st.sampled_from(["", ",outage=0.02-0.05"]))
    rate = draw(st.sampled_from([None, 100e3, 5e6]))
    trace = draw(st.sampled_from([None, "0.03 rate=2M,rtt=10\n0.06 rate=50k", "0.01 loss=40%,rate=1G"]))
    return replace(parse_link(text), rate=rate, trace=None if trace is None else LinkTrace.parse(trace, "t"))


packets = st.lists(
    st.tuples(st.floats(0, 0.02).map(lambda gap: gap * (gap > 0.005)), st.binary(max_size=1_400)), max_size=40
)


def absolute(gaps: Offered) -> Offered:
    at, offered = 0.0, []
    for gap, packet in gaps:
        at += gap
        offered.append((at, packet))
    return offered


@given(links(), packets, st.integers(0, 3))
def test_every_packet_is_accounted_for_and_the_seed_decides(settings: LinkSettings, gaps: Offered, seed: int) -> None:
    offered = absolute(gaps)
    link, again = Link(settings, seed), Link(settings, seed)
    for at, packet in offered:
        link.push(packet, at)
        count = link.counters
        lost = count.lost + count.outage + count.dropped + count.overflow
        assert count.offered + count.duplicated == count.delivered + lost + link.held
    # Whether packets are taken as they come or all at the end makes no difference.
    everything = link.pop(math.inf)
    assert [packet for _, packet in run(again, offered)] == everything
    assert link.counters == again.counters
    assert link.held == 0
    assert link.counters.offered == len(offered)
    assert link.counters.offered_bytes == sum(len(packet) for _, packet in offered)
    assert link.counters.delivered_bytes == sum(map(len, everything))


@given(links(), packets)
def test_without_reordering_the_order_stays_and_nothing_comes_early(settings: LinkSettings, gaps: Offered) -> None:
    settings = replace(settings, reorder=0, corrupt=0)
    offered = [(at, number.to_bytes(2, "big") + packet) for number, (at, packet) in enumerate(absolute(gaps))]
    arrivals = run(Link(settings), offered)
    order = [int.from_bytes(packet[:2], "big") for _, packet in arrivals]
    assert order == sorted(order)
    least = min(step.delay for _, step in settings.steps())
    for (at, packet), number in zip(arrivals, order, strict=True):
        assert packet == offered[number][1]
        assert at >= offered[number][0] + least


@given(links(), packets)
def test_no_window_carries_more_than_the_rate(settings: LinkSettings, gaps: Offered) -> None:
    rate = 1e6
    settings = replace(settings, rate=rate, trace=None)
    arrivals = run(Link(settings), absolute(gaps))
    # Jitter and holding back move what was sent in a longer window into a shorter one.
    spread = settings.jitter + (REORDER_HOLD if settings.reorder else 0)
    # And the packet that is complete when the window begins counts, too.
    spare = max((len(packet) + PACKET_OVERHEAD) * 8 for _, packet in arrivals) if arrivals else 0
    for first, (begin, _) in enumerate(arrivals):
        bits = 0
        for end, packet in arrivals[first:]:
            bits += (len(packet) + PACKET_OVERHEAD) * 8
            assert bits <= (rate * (end - begin + spread) + spare) * (1 + 1e-9)


# What each setting does


def test_a_link_without_settings_passes_everything_on_at_once() -> None:
    offered = stream(50)
    assert run(Link(LinkSettings()), offered) == offered


def test_delay() -> None:
    offered = stream(50)
    arrivals = run(Link(parse_link("rtt=40")), offered)
    assert [at for at, _ in arrivals] == pytest.approx([at + 0.02 for at, _ in offered])
    assert numbers(arrivals) == list(range(50))


def test_nothing_arrives_before_it_is_due() -> None:
    link = Link(parse_link("rtt=40"))
    assert link.next_event() is None
    link.push(b"a", 1.0)
    assert link.pop(1.0199) == []
    assert link.next_event() == pytest.approx(1.02)
    assert link.pop(1.0201) == [b"a"]
    assert link.next_event() is None


def test_jitter_is_even_where_packets_do_not_wait_for_each_other() -> None:
    offered = stream(20_000, interval=0.02)
    arrivals = run(Link(parse_link("rtt=40,jitter=10")), offered)
    late = [at - sent for (at, _), (sent, _) in zip(arrivals, offered, strict=True)]
    assert min(late) >= 0.02 - 1e-9
    assert max(late) <= 0.03 + 1e-9
    assert sum(late) / len(late) == pytest.approx(0.025, rel=0.01)
    assert sum(each < 0.0225 for each in late) / len(late) == pytest.approx(0.25, abs=0.01)


def losses(settings: LinkSettings, count: int) -> tuple[float, float]:
    """The share of packets lost, and the mean number of them lost in a row."""
    link = Link(settings, seed=1)
    lost = []
    for _ in range(count):
        link.push(b"", 0.0)
        lost.append(not link.pop(0.0))
    assert link.counters.lost == sum(lost)
    runs = [len(list(group)) for value, group in groupby(lost) if value]
    return sum(lost) / count, sum(runs) / len(runs)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_random_loss_has_its_share_and_no_memory(share: float) -> None:
    count = 50_000
    measured, in_a_row = losses(LinkSettings(loss=share), count)
    assert measured == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / count))  # four standard deviations
    assert in_a_row == pytest.approx(1 / (1 - share), rel=0.05)


@pytest.mark.parametrize(("share", "burst"), [(0.02, 3), (0.05, 4), (0.2, 8), (0.5, 1)])
def test_burst_loss_has_its_share_and_its_mean_length(share: float, burst: float) -> None:
    measured, in_a_row = losses(LinkSettings(loss=share, burst=burst), 60_000)
    assert measured == pytest.approx(share, rel=0.15)
    assert in_a_row == pytest.approx(burst, rel=0.15)


def test_the_same_packets_are_lost_whatever_else_happens_to_them() -> None:
    plain = numbers(run(Link(parse_link("loss=10%"), seed=5), stream(500)))
    busy = Link(parse_link("loss=10%,rtt=40,jitter=30,rate=5M"), seed=5)
    assert numbers(run(busy, stream(500, interval=0.003))) == plain
    assert numbers(run(Link(parse_link("loss=10%"), seed=6), stream(500))) != plain


def test_all_is_lost_from_the_first_packet_on() -> None:
    link = Link(parse_link("loss=100%"))
    assert run(link, stream(100)) == []
    assert link.counters == LinkCounters(offered=100, offered_bytes=10_000, lost=100)


def test_reordered_packets_are_overtaken() -> None:
    link = Link(parse_link("rtt=40,reorder=5%"), seed=3)
    offered = stream(2_000)
    arrivals = run(link, offered)
    order = numbers(arrivals)
    assert sorted(order) == list(range(2_000))
    late = {number for (at, _), number in zip(arrivals, order, strict=True) if at > offered[number][0] + 0.0201}
    assert len(late) == link.counters.reordered
    assert link.counters.reordered / 2_000 == pytest.approx(0.05, rel=0.3)
    # Each later one is overtaken by those sent meanwhile; the others keep their order.
    assert [number for number in order if number not in late] == [n for n in range(2_000) if n not in late]
    assert sum(earlier > later for earlier, later in pairwise(order)) >= len(late) * 0.9


def test_duplicates_follow_their_originals() -> None:
    link = Link(parse_link("duplicate=10%"), seed=4)
    order = numbers(run(link, stream(2_000)))
    assert order == sorted(order)
    assert set(order) == set(range(2_000))
    assert len(order) == 2_000 + link.counters.duplicated
    assert link.counters.duplicated == pytest.approx(200, rel=0.25)


def test_corruption_turns_over_one_bit_anywhere() -> None:
    link = Link(parse_link("corrupt=50%"), seed=5)
    places = set()
    for at in range(1_000):
        link.push(bytes(16), at)
        (packet,) = link.pop(at)
        value = int.from_bytes(packet, "big")
        assert len(packet) == 16
        assert value.bit_count() <= 1
        places.add(value)
    assert link.counters.corrupted == pytest.approx(500, rel=0.15)
    assert len(places - {0}) > 100  # of 128


def test_an_empty_packet_cannot_be_damaged() -> None:
    link = Link(parse_link("corrupt=100%"))
    link.push(b"", 0)
    assert link.pop(0) == [b""]
    assert link.counters.corrupted == 0


def test_rate_spaces_packets() -> None:
    size = 1_000 - PACKET_OVERHEAD
    arrivals = run(Link(parse_link("rtt=20,rate=8M")), [(0.0, bytes(size))] * 5)
    assert [at for at, _ in arrivals] == pytest.approx([0.011, 0.012, 0.013, 0.014, 0.015])


def test_goodput_of_a_full_link() -> None:
    link = Link(parse_link("rate=5M,queue=50ms"))
    arrivals = run(link, stream(20_000, interval=0.001, size=1_222))  # 10 Mbit/s offered
    carried = sum(len(packet) + PACKET_OVERHEAD for _, packet in arrivals) * 8
    assert carried / arrivals[-1][0] == pytest.approx(5e6, rel=0.001)
    assert link.counters.dropped == 20_000 - len(arrivals)


@pytest.mark.parametrize(
    ("queue", "kept"),
    [
        ("10packets", 10),
        ("10000bytes", 10),
        ("10999bytes", 10),
        ("0ms", 1),
        ("10.5ms", 11),  # the last one waits 10 ms until it is sent
    ],
)
def test_a_full_queue_drops_the_newest(queue: str, kept: int) -> None:
    # A packet of 1000 bytes takes a millisecond.
    link = Link(LinkSettings(rate=(1_000 + PACKET_OVERHEAD) * 8_000.0, queue=parse_link(f"queue={queue}").queue))
    burst = [(0.0, packet) for _, packet in stream(20, size=1_000)]
    # Taken together at the end, when the queue has emptied and another one finds room again.
    assert numbers(run(link, [*burst, (1.0, bytes(1_000))])) == [*range(kept), 0]
    assert link.counters.dropped == 20 - kept
    assert link.counters.queue_peak == kept
    assert link.counters.queue_peak_bytes == kept * 1_000


def test_a_packet_larger_than_the_queue_passes_alone() -> None:
    link = Link(LinkSettings(rate=1e6, queue=QueueLimit(1_500, "bytes")))
    assert len(run(link, [(0.0, bytes(9_000)), (0.0, b"no"), (1.0, bytes(9_000))])) == 2


def test_an_outage_loses_what_would_be_sent_during_it_and_no_more() -> None:
    link = Link(parse_link("rtt=40,outage=0.1-0.2,outage=0.3-0.31"), start=50.0)
    arrivals = run(link, [(50 + at, packet) for at, packet in stream(400)])
    assert numbers(arrivals) == [*range(100), *range(200, 300), *range(310, 400)]
    assert link.counters.outage == 110


def test_a_trace_changes_rate_and_delay_at_its_times() -> None:
    trace = LinkTrace.parse("1 rate=4M\n2 rate=16M,rtt=100", "t")
    link = Link(replace(parse_link("rtt=20,rate=8M,queue=10s"), trace=trace), start=100.0)
    packet = bytes(1_000_000 - PACKET_OVERHEAD)  # 8 Mbit: one second at first
    arrivals = run(link, [(100.5, packet), (100.5, packet), (102.5, packet)])
    # The first is sent half at 8 Mbit/s and half at 4, the second at 16 from second 2 on.
    assert [at - 100 for at, _ in arrivals] == pytest.approx([2.01, 2.51, 3.05])


def test_a_shorter_delay_lets_nothing_overtake() -> None:
    link = Link(replace(parse_link("rtt=200"), trace=LinkTrace.parse("0.01 rtt=20", "t")))
    arrivals = run(link, stream(20))
    assert numbers(arrivals) == list(range(20))
    assert [at for at, _ in arrivals] == pytest.approx([0.1 + 0.001 * n for n in range(10)] + [0.109] * 10)


def test_settings_can_be_changed_under_way() -> None:
    link = Link(parse_link("rtt=40"))
    link.push(b"before", 0.0)
    link.change(parse_link("loss=100%"))
    link.push(b"after", 0.0)
    assert link.pop(1.0) == [b"before"]
    assert link.counters.lost == 1


def test_packets_before_the_start_get_the_first_settings() -> None:
    link = Link(replace(parse_link("rtt=40"), trace=LinkTrace.parse("1 rtt=80", "t")), start=10.0)
    assert run(link, [(9.0, b"early")]) == [(9.02, b"early")]


# Bounds


def test_what_nobody_takes_is_bounded_in_number() -> None:
    link = Link(parse_link("rtt=40"))
    for _ in range(MAX_PACKETS + 10):
        link.push(b"", 0.0)
    assert link.held == MAX_PACKETS
    assert link.counters.overflow == 10


def test_what_nobody_takes_is_bounded_in_bytes() -> None:
    link = Link(parse_link("rtt=40"))
    for _ in range(MAX_BYTES // 65_536 + 10):
        link.push(bytes(65_536), 0.0)
    assert link.held == MAX_BYTES // 65_536
    assert link.counters.overflow == 10
    link.pop(1.0)
    link.push(b"again", 1.0)
    assert link.counters.overflow == 10


def test_the_queue_is_bounded_even_if_all_in_it_will_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtc.link, "MAX_PACKETS", 50)
    link = Link(parse_link("loss=100%,rate=1M,queue=10s"))
    run(link, [(0.0, b"x")] * 60)
    assert link.counters.queue_peak == 50
    assert link.counters.overflow == 10
