from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc.peer import Peer
from rtc.reassembly import Reassembler, ReceivedFrame
from rtc.results import Result, Status, is_result, pack_result
from rtc.sender import Dropped, DropReason, LinkLoad, OutgoingFrame, SliceScheduler, UnitSender
from rtc.units import parse_unit, units_of_frame

NEVER = float("inf")
SECONDS = 20.0


def frame(frame_id: int, count: int = 2, deadline: float = NEVER) -> OutgoingFrame:
    return OutgoingFrame(frame_id, [f"{frame_id}:{index}".encode() for index in range(count)], deadline)


def drain(scheduler: SliceScheduler, now: float = 0.0) -> list[bytes]:
    return list(iter(lambda: scheduler.next_unit(now) or b"", b""))


# The scheduler


def test_nothing_to_send_at_the_start() -> None:
    scheduler = SliceScheduler()
    assert scheduler.next_unit(0.0) is None
    assert scheduler.take_dropped() == []


def test_units_go_in_order() -> None:
    scheduler = SliceScheduler()
    scheduler.offer(frame(1, 3), 0.0)
    assert drain(scheduler) == [b"1:0", b"1:1", b"1:2"]
    assert scheduler.take_dropped() == []
    counters = scheduler.counters
    assert (counters.frames_offered, counters.frames_sent, counters.slices_sent, counters.bytes_sent) == (1, 1, 3, 9)


def test_newer_frame_waits_until_the_one_going_out_is_finished() -> None:
    scheduler = SliceScheduler()
    scheduler.offer(frame(1), 0.0)
    assert scheduler.next_unit(0.0) == b"1:0"
    scheduler.offer(frame(2), 0.0)
    assert drain(scheduler) == [b"1:1", b"2:0", b"2:1"]
    assert scheduler.take_dropped() == []


def test_newer_frame_replaces_the_waiting_one() -> None:
    scheduler = SliceScheduler()
    scheduler.offer(frame(1), 0.0)
    scheduler.next_unit(0.0)
    scheduler.offer(frame(2), 0.0)
    scheduler.offer(frame(3), 0.0)
    assert scheduler.take_dropped() == [Dropped(2, DropReason.REPLACED, 0)]
    assert drain(scheduler) == [b"1:1", b"3:0", b"3:1"]
    assert scheduler.counters.dropped == {DropReason.REPLACED: 1, DropReason.EXPIRED: 0, DropReason.CLOSED: 0}


def test_newer_frame_replaces_one_of_which_nothing_was_sent() -> None:
    scheduler = SliceScheduler()
    scheduler.offer(frame(1), 0.0)
    scheduler.offer(frame(2), 0.0)
    assert scheduler.take_dropped() == [Dropped(1, DropReason.REPLACED, 0)]
    assert drain(scheduler) == [b"2:0", b"2:1"]


def test_rest_of_an_expired_frame_is_dropped() -> None:
    scheduler = SliceScheduler()
    scheduler.offer(frame(1, 3, deadline=1.0), 0.0)
    assert scheduler.next_unit(0.875) == b"1:0"
    scheduler.offer(frame(2), 0.875)
    assert scheduler.next_unit(1.0) == b"2:0"
    assert scheduler.take_dropped() == [Dropped(1, DropReason.EXPIRED, 1)]
    assert scheduler.take_dropped() == []


def test_expired_frame_makes_way_for_the_next_offer() -> None:
    scheduler = SliceScheduler()
    scheduler.offer(frame(1, deadline=1.0), 0.0)
    scheduler.next_unit(0.0)
    scheduler.offer(frame(2, deadline=1.5), 0.0)
    scheduler.offer(frame(3), 2.0)
    assert [dropped.frame_id for dropped in scheduler.take_dropped()] == [1, 2]
    assert scheduler.counters.dropped[DropReason.EXPIRED] == 2
    assert drain(scheduler, 2.0) == [b"3:0", b"3:1"]


def test_closing_drops_everything() -> None:
    scheduler = SliceScheduler()
    scheduler.offer(frame(1), 0.0)
    scheduler.next_unit(0.0)
    scheduler.offer(frame(2), 0.0)
    scheduler.close()
    assert scheduler.take_dropped() == [Dropped(1, DropReason.CLOSED, 1), Dropped(2, DropReason.CLOSED, 0)]
    assert scheduler.next_unit(0.0) is None


SLOW = 20.0  # bytes a second, for frames of three bytes each tenth of a second


def started(scheduler: SliceScheduler, backlog: float, now: float) -> bool:
    return not scheduler.pause(lambda: LinkLoad(backlog, SLOW), now) and scheduler.next_unit(now) is not None


def test_no_frame_begins_while_earlier_ones_stand_in_a_queue() -> None:
    scheduler = SliceScheduler()
    assert not scheduler.pause(lambda: LinkLoad(1.0, SLOW), 0.0)  # there is none
    scheduler.offer(frame(1), 0.0)
    assert started(scheduler, 1.0, 0.0)  # nobody knows yet when the next one comes
    assert scheduler.next_unit(0.0)
    scheduler.offer(frame(2), 0.1)
    assert scheduler.pause(lambda: LinkLoad(0.05, SLOW), 0.1) == pytest.approx(0.05 - SliceScheduler.BACKLOG)
    assert not scheduler.pause(
        lambda: LinkLoad(0.05, 10 * SLOW), 0.1
    )  # the link takes them all, whatever it looks like
    assert started(scheduler, SliceScheduler.BACKLOG, 0.11)
    assert not scheduler.pause(lambda: LinkLoad(0.05, SLOW), 0.12)  # half a frame is worth less than what it has cost


def test_a_frame_that_waited_long_makes_way_for_the_next_if_that_comes() -> None:
    scheduler = SliceScheduler()
    scheduler.offer(frame(1, 1), 0.0)
    assert started(scheduler, 0.0, 0.0)
    scheduler.offer(frame(2, 1), 0.1)
    assert scheduler.pause(lambda: LinkLoad(0.03, SLOW), 0.1)
    assert started(scheduler, 0.0, 0.12)  # a fifth of the time between two
    scheduler.offer(frame(3, 1), 0.2)
    assert scheduler.pause(lambda: LinkLoad(0.05, SLOW), 0.2)
    assert scheduler.pause(LinkLoad, 0.24) == pytest.approx(0.085)
    scheduler.offer(frame(4, 1), 0.3)
    assert drain(scheduler, 0.3) == [b"4:0"]
    scheduler.offer(frame(5, 1), 0.4)
    assert scheduler.pause(LinkLoad, 0.45)
    assert started(scheduler, 0.0, 0.53)  # the next one did not come
    assert [dropped.frame_id for dropped in scheduler.take_dropped()] == [3]


offers = st.tuples(st.just("offer"), st.integers(1, 4), st.floats(0, 3))
takes = st.tuples(st.just("take"), st.just(0), st.just(0.0))
waits = st.tuples(st.just("wait"), st.just(0), st.floats(0, 2))


@given(st.lists(st.one_of(offers, takes, takes, waits), max_size=60))
def test_every_frame_is_sent_whole_or_dropped_once(steps: list[tuple[str, int, float]]) -> None:
    scheduler = SliceScheduler()
    now = 0.0
    frames: dict[int, OutgoingFrame] = {}
    sent: list[tuple[int, int]] = []
    for action, count, seconds in steps:
        if action == "offer":
            frame_id = len(frames) + 1
            frames[frame_id] = frame(frame_id, count, now + seconds)
            scheduler.offer(frames[frame_id], now)
        elif action == "take":
            if (unit := scheduler.next_unit(now)) is not None:
                frame_id, index = map(int, unit.split(b":"))
                assert now < frames[frame_id].deadline
                sent.append((frame_id, index))
        else:
            now += seconds
    scheduler.close()
    assert sent == sorted(sent)
    dropped = {each.frame_id: each for each in scheduler.take_dropped()}
    for frame_id, each in frames.items():
        indices = [index for other, index in sent if other == frame_id]
        assert indices == list(range(len(indices)))
        if len(indices) == len(each.units):
            assert frame_id not in dropped
        else:
            assert dropped[frame_id].slices_sent == len(indices)
            assert dropped[frame_id].reason is not DropReason.REPLACED or not indices
    counters = scheduler.counters
    assert counters.frames_offered == len(frames) == counters.frames_sent + sum(counters.dropped.values())
    assert sum(counters.dropped.values()) == len(dropped)
    assert counters.slices_sent == len(sent)


# The shell, on real channels


def real_frame(frame_id: int, count: int, seconds: float = 10.0) -> OutgoingFrame:
    now = time.monotonic()
    return OutgoingFrame(frame_id, units_of_frame(1, frame_id, int(now * 1e6), [bytes(1_140)] * count), now + seconds)


class Receiver:
    """The other end of the channel: frames put together again, and their arrival as an event."""

    def __init__(self, edge: Peer) -> None:
        self.frames: asyncio.Queue[ReceivedFrame] = asyncio.Queue()
        self._reassembler = Reassembler()
        self._reassembler.set_deadline(1, 60.0)
        edge.on_intermediate = self._receive

    async def frame(self) -> ReceivedFrame:
        return await asyncio.wait_for(self.frames.get(), SECONDS)

    def _receive(self, data: bytes) -> None:
        for frame in self._reassembler.receive(parse_unit(data), time.monotonic()):
            self.frames.put_nowait(frame)


async def test_frames_arrive_whole_and_in_order(pair: tuple[Peer, Peer]) -> None:
    ue, edge = pair
    receiver = Receiver(edge)
    for frame_id in range(1, 11):
        ue.sender.offer(real_frame(frame_id, 8))
        received = await receiver.frame()
        assert (received.frame_id, received.complete, received.count) == (frame_id, True, 8)
    assert ue.sender.counters.frames_sent == 10
    assert ue.sender.counters.bytes_sent == 10 * 8 * 1_160


async def test_only_one_unit_is_handed_over_at_a_time(pair: tuple[Peer, Peer]) -> None:
    ue, edge = pair
    receiver = Receiver(edge)
    ue.sender.offer(real_frame(1, 50))
    assert ue.sender.counters.slices_sent == 1
    assert (await receiver.frame()).complete


async def test_control_message_does_not_wait_behind_a_frame(pair: tuple[Peer, Peer]) -> None:
    ue, edge = pair
    receiver = Receiver(edge)
    units_before: asyncio.Queue[int] = asyncio.Queue()
    arrived: list[bytes] = []
    collect = edge.on_intermediate

    def count(data: bytes) -> None:
        arrived.append(data)
        collect(data)

    edge.on_intermediate = count
    edge.on_control = lambda _: units_before.put_nowait(len(arrived))
    ue.sender.offer(real_frame(1, 200))
    ue.send_control("now")
    assert await asyncio.wait_for(units_before.get(), SECONDS) <= 2
    assert (await receiver.frame()).complete


async def test_tensors_that_come_back_hold_up_neither_control_nor_results(pair: tuple[Peer, Peer]) -> None:
    ue, edge = pair
    arrived: list[bytes] = []
    places: asyncio.Queue[int] = asyncio.Queue()
    ended = asyncio.Event()

    def on_result(data: bytes) -> None:
        if is_result(data):
            places.put_nowait(len(arrived))
            return
        arrived.append(data)
        if parse_unit(data).last:
            ended.set()

    ue.on_result = on_result
    ue.on_control = lambda _: places.put_nowait(len(arrived))
    edge.output_sender.offer(real_frame(1, 200))
    edge.send_control("now")
    assert edge.send_result(pack_result(Result(status=Status.LATE, frame_id=1, capture_us=0, slices=1, received=b"\0")))
    assert max([await asyncio.wait_for(places.get(), SECONDS) for _ in range(2)]) <= 3
    await asyncio.wait_for(ended.wait(), SECONDS)
    assert edge.output_sender.counters.frames_sent == 1


async def test_newest_frame_wins_while_the_channel_is_busy(pair: tuple[Peer, Peer]) -> None:
    ue, edge = pair
    receiver = Receiver(edge)
    dropped: list[Dropped] = []
    ue.on_dropped = dropped.append
    for frame_id in range(1, 11):
        ue.sender.offer(real_frame(frame_id, 8))
    assert [(await receiver.frame()).frame_id for _ in range(2)] == [1, 10]
    assert dropped == [Dropped(frame_id, DropReason.REPLACED, 0) for frame_id in range(2, 10)]


async def test_frame_offered_before_the_channel_opens_waits() -> None:
    async with Peer(bind="127.0.0.1") as ue, Peer(bind="127.0.0.1") as edge:
        answer = await edge.create_answer(await ue.create_offer())
        receiver = Receiver(edge)
        ue.sender.offer(real_frame(1, 3))
        assert ue.sender.counters.slices_sent == 0
        await ue.accept_answer(answer)
        assert (await receiver.frame()).complete
        assert ue.counters.heartbeats_sent == 0  # nor was it a heartbeat that set it going


async def test_frame_offered_after_closing_is_dropped(pair: tuple[Peer, Peer]) -> None:
    ue, _ = pair
    dropped: list[Dropped] = []
    sender = UnitSender(ue._channels[1], on_dropped=dropped.append)
    sender.close()
    sender.offer(real_frame(1, 2))
    assert dropped == [Dropped(1, DropReason.CLOSED, 0)]
    sender.close()
    assert sender.counters.slices_sent == 0


async def test_closing_reports_what_was_not_sent(pair: tuple[Peer, Peer]) -> None:
    ue, _ = pair
    dropped: list[Dropped] = []
    ue.on_dropped = dropped.append
    ue.sender.offer(real_frame(1, 8))
    await ue.close()
    assert dropped == [Dropped(1, DropReason.CLOSED, 1)]


async def test_sending_without_anybody_to_tell(pair: tuple[Peer, Peer]) -> None:
    ue, edge = pair
    receiver = Receiver(edge)
    sender = UnitSender(ue._channels[1])
    sender.offer(real_frame(1, 2))
    sender.offer(real_frame(2, 2))
    sender.offer(real_frame(3, 2))
    assert [(await receiver.frame()).frame_id for _ in range(2)] == [1, 3]
    assert sender.counters.dropped[DropReason.REPLACED] == 1


async def test_a_frame_waits_until_the_link_has_room(pair: tuple[Peer, Peer]) -> None:
    ue, edge = pair
    receiver = Receiver(edge)
    loads = [LinkLoad(0.015, 1.0), LinkLoad(0.01, 1.0), LinkLoad()]
    sender = UnitSender(ue._channels[1], load=lambda: loads.pop(0) if len(loads) > 1 else loads[0])
    sender.offer(real_frame(1, 3))
    assert (await receiver.frame()).complete  # it is the first
    loads = [LinkLoad(0.015, 1.0), LinkLoad(0.01, 1.0), LinkLoad()]
    sender.offer(real_frame(2, 3))
    assert sender.counters.slices_sent == 3
    assert (await receiver.frame()).complete
    loads = [LinkLoad(10.0, 1.0)]
    sender.offer(real_frame(3, 3))
    sender.close()
    assert sender._timer is None


async def test_expiry_is_noticed_when_asked_for_though_nothing_moves() -> None:
    now = 0.0
    dropped: list[Dropped] = []
    async with Peer(bind="127.0.0.1") as ue:
        await ue.create_offer()
        sender = UnitSender(ue._channels[1], clock=lambda: now, on_dropped=dropped.append)
        sender.offer(OutgoingFrame(1, [b"unit"], deadline=1.0))
        sender.expire()
        assert dropped == []
        now = 1.0
        sender.expire()
        assert dropped == [Dropped(1, DropReason.EXPIRED, 0)]
