from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rtc.reassembly import MAX_FRAMES, Reassembler, ReceivedFrame
from rtc.units import Unit, heartbeat_unit, parse_unit, units_of_frame

DEADLINE = 0.25


def units(frame_id: int, count: int = 3, **changes: Any) -> list[Unit]:
    """The units of a frame whose slice i is `frame_id:i`, as a receiver reads them."""
    slices = [f"{frame_id}:{index}".encode() for index in range(count)]
    made = [parse_unit(message) for message in units_of_frame(1, frame_id, frame_id * 1_000, slices)]
    return [replace(unit, **changes) for unit in made]


def unit(frame_id: int, index: int = 0, count: int = 3, **changes: Any) -> Unit:
    return units(frame_id, count, **changes)[index]


def contents(frame: ReceivedFrame) -> list[bytes | None]:
    return [None if part is None else bytes(part) for part in frame.slices]


def ids(frames: list[ReceivedFrame]) -> list[int]:
    return [frame.frame_id for frame in frames]


@pytest.fixture
def reassembler() -> Reassembler:
    made = Reassembler()
    made.set_deadline(1, DEADLINE)
    return made


def test_frame_comes_out_when_its_last_slice_arrives(reassembler: Reassembler) -> None:
    first, second, third = units(7)
    assert reassembler.receive(third, 1.0) == []
    assert reassembler.receive(first, 1.125) == []
    (frame,) = reassembler.receive(second, 1.25)
    assert contents(frame) == [b"7:0", b"7:1", b"7:2"]
    assert (frame.aips_id, frame.frame_id, frame.capture_us, frame.count) == (1, 7, 7_000, 3)
    assert (frame.intra, frame.reference) == (True, None)
    assert (frame.first_at, frame.ready_at, frame.complete) == (1.0, 1.25, True)
    assert reassembler.counters.accepted == 3
    assert reassembler.counters.complete == 1
    assert reassembler.next_deadline() is None


def test_frame_coded_against_another_names_it(reassembler: Reassembler) -> None:
    (frame,) = reassembler.receive(unit(9, count=1, intra=False, reference=8), 0.0)
    assert (frame.intra, frame.reference) == (False, 8)


def test_incomplete_frame_comes_out_at_its_deadline(reassembler: Reassembler) -> None:
    reassembler.receive(unit(1, 1), 1.0)
    assert reassembler.next_deadline() == 1.0 + DEADLINE
    assert reassembler.poll(1.0 + DEADLINE - 0.001) == []
    (frame,) = reassembler.poll(1.0 + DEADLINE)
    assert contents(frame) == [None, b"1:1", None]
    assert not frame.complete
    assert reassembler.counters.expired == 1
    assert reassembler.poll(9.0) == []


def test_deadline_is_that_of_the_parameter_set(reassembler: Reassembler) -> None:
    reassembler.set_deadline(2, 2 * DEADLINE)
    reassembler.receive(unit(1, aips_id=2), 0.0)
    reassembler.receive(unit(2), 0.0)
    assert ids(reassembler.poll(DEADLINE)) == [2]
    assert ids(reassembler.poll(2 * DEADLINE)) == [1]


def test_complete_newer_frame_overtakes_older_ones(reassembler: Reassembler) -> None:
    reassembler.receive(unit(2), 0.0)
    reassembler.receive(unit(1), 0.0)
    reassembler.receive(unit(4), 0.0)
    frames = reassembler.receive(unit(3, count=1), 0.125)
    assert [(frame.frame_id, frame.complete) for frame in frames] == [(1, False), (2, False), (3, True)]
    assert reassembler.counters.overtaken == 2
    assert ids(reassembler.poll(1.0)) == [4]


def test_frame_overtaken_before_its_first_slice_comes_out_at_once(reassembler: Reassembler) -> None:
    reassembler.receive(unit(2, count=1), 0.0)
    (frame,) = reassembler.receive(unit(1, 2), 0.125)
    assert (frame.frame_id, contents(frame)) == (1, [None, None, b"1:2"])
    assert reassembler.receive(unit(1, 0), 0.25) == []
    assert reassembler.counters.stale == 1


def test_frame_stays_overtaken_when_an_older_one_is_complete(reassembler: Reassembler) -> None:
    reassembler.receive(unit(5, count=1), 0.0)
    assert ids(reassembler.receive(unit(3, count=1), 0.0)) == [3]
    assert ids(reassembler.receive(unit(4), 0.0)) == [4]


def test_frame_older_than_an_expired_one_still_gets_its_time(reassembler: Reassembler) -> None:
    reassembler.receive(unit(2), 0.0)
    reassembler.poll(DEADLINE)
    assert reassembler.receive(unit(1, 0, 2), 1.0) == []
    assert ids(reassembler.receive(unit(1, 1, 2), 1.0)) == [1]


def test_oldest_frame_makes_room() -> None:
    reassembler = Reassembler(max_frames=2)
    reassembler.set_deadline(1, DEADLINE)
    assert reassembler.receive(unit(2), 0.0) == []
    assert reassembler.receive(unit(1), 0.0) == []
    assert ids(reassembler.receive(unit(3), 0.0)) == [1]
    assert ids(reassembler.receive(unit(4), 0.0)) == [2]
    assert reassembler.counters.evicted == 2


def test_duplicate_is_dropped(reassembler: Reassembler) -> None:
    reassembler.receive(unit(1, 0, 2), 0.0)
    assert reassembler.receive(unit(1, 0, 2), 0.0) == []
    assert reassembler.counters.duplicate == 1
    assert ids(reassembler.receive(unit(1, 1, 2), 0.0)) == [1]


def test_units_of_a_dispatched_frame_are_stale(reassembler: Reassembler) -> None:
    reassembler.receive(unit(5, count=1), 0.0)
    assert reassembler.receive(unit(5, count=1), 0.0) == []
    assert reassembler.counters.stale == 1
    assert reassembler.next_deadline() is None


def test_units_far_behind_are_stale(reassembler: Reassembler) -> None:
    reassembler.receive(unit(1_000, count=1), 0.0)
    assert reassembler.receive(unit(744), 0.0) == []
    assert reassembler.counters.stale == 1
    assert ids(reassembler.receive(unit(745), 0.0)) == [745]


@pytest.mark.parametrize(
    "change",
    [
        {"count": 4},
        {"capture_us": 1},
        {"intra": False},
        {"intra": False, "reference": 1},
        {"aips_id": 2},
    ],
)
def test_unit_at_odds_with_its_frame_is_dropped(reassembler: Reassembler, change: dict[str, Any]) -> None:
    reassembler.set_deadline(2, DEADLINE)
    reassembler.receive(unit(5, 0), 0.0)
    assert reassembler.receive(unit(5, 1, **change), 0.0) == []
    assert reassembler.counters.conflicting == 1
    (frame,) = reassembler.poll(DEADLINE)
    assert contents(frame) == [b"5:0", None, None]


def test_unit_with_another_reference_is_dropped(reassembler: Reassembler) -> None:
    reassembler.receive(unit(5, 0, intra=False, reference=4), 0.0)
    assert reassembler.receive(unit(5, 1, intra=False, reference=3), 0.0) == []
    assert reassembler.counters.conflicting == 1


def test_frame_beyond_the_limit_is_cut_off() -> None:
    reassembler = Reassembler(max_frame_bytes=1_000)
    reassembler.set_deadline(1, DEADLINE)
    assert reassembler.receive(unit(1, 0, 2, payload=bytes(720)), 0.0) == []
    assert reassembler.receive(unit(1, 1, 2, payload=bytes(6)), 0.0) == []
    assert reassembler.counters.oversized == 1
    (frame,) = reassembler.poll(DEADLINE)
    assert [part is None for part in frame.slices] == [False, True]


def test_unit_that_is_too_large_alone_opens_no_frame() -> None:
    reassembler = Reassembler(max_frame_bytes=1_000)
    reassembler.set_deadline(1, DEADLINE)
    reassembler.receive(unit(1, payload=bytes(1_000)), 0.0)
    assert reassembler.counters.oversized == 1
    assert reassembler.next_deadline() is None


def test_empty_payloads_count_against_the_limit_too() -> None:
    reassembler = Reassembler(max_frame_bytes=1_000)
    reassembler.set_deadline(1, DEADLINE)
    for index in range(10):
        reassembler.receive(unit(1, index, 10, payload=b""), 0.0)
    assert (reassembler.counters.accepted, reassembler.counters.oversized) == (3, 7)


def test_unit_of_an_unknown_parameter_set_is_dropped(reassembler: Reassembler) -> None:
    assert reassembler.receive(unit(1, aips_id=2), 0.0) == []
    assert reassembler.counters.unknown_set == 1
    assert reassembler.next_deadline() is None


def test_released_set_gives_up_its_frames_and_takes_no_more(reassembler: Reassembler) -> None:
    reassembler.set_deadline(2, DEADLINE)
    reassembler.receive(unit(2), 0.0)
    reassembler.receive(unit(1), 0.0)
    reassembler.receive(unit(3, aips_id=2), 0.0)
    assert ids(reassembler.remove_set(1, 0.125)) == [1, 2]
    assert reassembler.receive(unit(4), 0.25) == []
    assert reassembler.counters.unknown_set == 1
    assert ids(reassembler.poll(1.0)) == [3]
    assert reassembler.remove_set(1, 2.0) == []


def test_heartbeats_and_parity_are_counted_only(reassembler: Reassembler) -> None:
    assert reassembler.receive(parse_unit(heartbeat_unit(5)), 0.0) == []
    assert reassembler.receive(unit(1, parity=True), 0.0) == []
    assert (reassembler.counters.heartbeats, reassembler.counters.parity) == (1, 1)
    assert reassembler.next_deadline() is None


def test_jump_of_more_than_half_the_range_is_refused(reassembler: Reassembler) -> None:
    reassembler.receive(unit(10, count=1), 0.0)
    assert reassembler.receive(unit(11 + 2**31, count=1), 0.0) == []
    assert reassembler.counters.too_far == 1
    assert ids(reassembler.receive(unit(10 + 2**31, count=1), 0.0)) == [10 + 2**31]


def test_frame_left_far_behind_comes_out_once_all_the_same(reassembler: Reassembler) -> None:
    reassembler.set_deadline(2, 4 * DEADLINE)
    reassembler.receive(unit(1, aips_id=2), 0.0)
    reassembler.receive(unit(10_000), 0.0)
    assert ids(reassembler.poll(DEADLINE)) == [10_000]
    assert ids(reassembler.poll(4 * DEADLINE)) == [1]
    assert reassembler.receive(unit(1, aips_id=2), 2.0) == []
    assert reassembler.counters.stale == 1


def test_history_tells_which_of_the_frames_before_were_complete(reassembler: Reassembler) -> None:
    for frame_id in (1, 2, 4):
        reassembler.receive(unit(frame_id, count=1), 0.0)
    reassembler.receive(unit(5), 0.0)
    reassembler.poll(1.0)
    assert reassembler.history(6) == 0b11010
    assert reassembler.history(5) == 0b1101
    assert reassembler.history(1) == 0
    assert reassembler.history(36) == 1 << 31
    assert reassembler.history(37) == 0


def test_history_survives_many_newer_frames(reassembler: Reassembler) -> None:
    for frame_id in range(1, 201):
        reassembler.receive(unit(frame_id, count=1), 0.0)
    assert reassembler.history(40) == 2**32 - 1
    reassembler.receive(unit(100_000, count=1), 0.0)
    assert reassembler.history(40) == 0
    assert reassembler.history(100_001) == 1


def test_memory_of_frames_is_bounded(reassembler: Reassembler) -> None:
    reassembler.set_deadline(2, 4 * DEADLINE)
    reassembler.receive(unit(1, aips_id=2), 0.0)
    for frame_id in range(10_000, 11_000):
        reassembler.receive(unit(frame_id), 0.0)
        reassembler.poll(DEADLINE)
    assert ids(reassembler.poll(4 * DEADLINE)) == [1]
    assert reassembler._dispatched.bits.bit_length() == 256


# Giving up: slices come 2 ms apart, in frames of four, every 33 ms.

PAUSE, PERIOD = 1 / 512, 1 / 32


def play(
    reassembler: Reassembler, frame_id: int, arriving: Sequence[int], pause: float = PAUSE
) -> list[tuple[float, list[int]]]:
    """Let the slices of a frame come as if none were lost; returns what was dispatched after how many pauses."""
    start = frame_id * PERIOD
    came = []
    events = [(start + position * pause, index) for position, index in enumerate(arriving) if index >= 0]
    for at, index in events:
        while (due := reassembler.next_deadline()) is not None and due <= at:
            came.append((due, ids(reassembler.poll(due))))
        came.append((at, ids(reassembler.receive(unit(frame_id, index, count=4), at))))
    if (due := reassembler.next_deadline()) is not None:
        came.append((due, ids(reassembler.poll(due))))
    return [((at - start) / pause, dispatched) for at, dispatched in came if dispatched]


@pytest.fixture
def taught(reassembler: Reassembler) -> Reassembler:
    for frame_id in range(1, 9):
        assert play(reassembler, frame_id, [0, 1, 2, 3]) == [(3.0, [frame_id])]
    return reassembler


def test_a_hole_is_not_waited_for_once_the_last_slice_is_there(taught: Reassembler) -> None:
    assert play(taught, 9, [0, -1, 2, 3]) == [(3.0, [9])]
    assert (taught.counters.given_up, taught.counters.expired) == (1, 0)


def test_a_lost_end_is_waited_for_until_it_is_due(taught: Reassembler) -> None:
    for frame_id, arriving, last in ((9, [0, 1, 2], 3), (10, [0, 1], 3), (11, [0], 3)):
        ((at, dispatched),) = play(taught, frame_id, arriving)
        assert dispatched == [frame_id]
        assert last < at < last + 1.5
    assert taught.counters.given_up == 3


def test_before_anything_is_known_the_deadline_holds(reassembler: Reassembler) -> None:
    ((at, dispatched),) = play(reassembler, 1, [0])
    assert (at * PAUSE, dispatched) == (DEADLINE, [1])
    assert (reassembler.counters.given_up, reassembler.counters.expired) == (0, 1)


def test_a_link_that_slows_down_costs_one_frame(taught: Reassembler) -> None:
    slow = 4 * PAUSE
    first = play(taught, 20, [0, 1, 2, 3], slow)
    assert first[0][1] == [20]
    assert taught.counters.stale > 0
    assert play(taught, 21, [0, 1, 2, 3], slow) == [(3.0, [21])]


def test_reordering_is_learned_and_forgotten(taught: Reassembler) -> None:
    assert play(taught, 20, [0, 2, 3, 1]) == [(2.0, [20])]  # too early: slice 1 came one pause later
    assert play(taught, 21, [0, 2, 3, 1]) == [(3.0, [21])]
    ((at, dispatched),) = play(taught, 22, [0, -1, 2, 3])
    assert dispatched == [22]
    assert 4.0 <= at < 4.5
    for frame_id in range(30, 430):
        play(taught, frame_id, [0, 1, 2, 3])
    ((at, _),) = play(taught, 430, [0, -1, 2, 3])
    assert 3.0 < at < 3.05


def test_a_copy_of_a_slice_teaches_nothing(taught: Reassembler) -> None:
    play(taught, 20, [0, -1, 2, 3])
    taught.receive(unit(20, 3, count=4), 20 * PERIOD + 4 * PAUSE)
    assert play(taught, 21, [0, -1, 2, 3]) == [(3.0, [21])]


def test_what_comes_after_the_deadline_teaches_nothing(taught: Reassembler) -> None:
    play(taught, 20, [0, -1, 2, 3])
    taught.receive(unit(20, 1, count=4), 20 * PERIOD + 2 * DEADLINE)
    assert play(taught, 40, [0, -1, 2, 3]) == [(3.0, [40])]


def test_frames_given_up_are_remembered_within_bounds(taught: Reassembler) -> None:
    for frame_id in range(20, 60):
        play(taught, frame_id, [0, -1, 2, 3])
    assert taught.counters.given_up == 40
    assert len(taught._given_up) <= MAX_FRAMES


class Model(RuleBasedStateMachine):
    """A naive receiver of everything that a network can do to units, beside the real one."""

    MAX_FRAMES = 3

    def __init__(self) -> None:
        super().__init__()
        self.real = Reassembler(max_frames=self.MAX_FRAMES)
        self.real.set_deadline(1, DEADLINE)
        self.now = 0.0
        self.in_flight: list[Unit] = []
        self.next_id = 1
        self.units_given = 0
        self.arrived: dict[int, dict[int, bytes]] = {}
        self.counts: dict[int, int] = {}
        self.first_at: dict[int, float] = {}
        self.done: dict[int, bool] = {}

    @rule(count=st.integers(1, 4), skip=st.integers(0, 3))
    def send(self, count: int, skip: int) -> None:
        self.next_id += skip
        self.in_flight += units(self.next_id, count)
        self.counts[self.next_id] = count
        self.next_id += 1

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), keep=st.booleans())
    def deliver(self, data: st.DataObject, keep: bool) -> None:
        """Any unit, in any order, and with `keep` a copy of it later."""
        position = data.draw(st.integers(0, len(self.in_flight) - 1))
        received = self.in_flight[position] if keep else self.in_flight.pop(position)
        frame_id = received.frame_id
        self.units_given += 1
        if frame_id not in self.done:
            self.arrived.setdefault(frame_id, {}).setdefault(received.index, bytes(received.payload))
            self.first_at.setdefault(frame_id, self.now)
        frames, expected = self.real.receive(received, self.now), self.ready_after(frame_id)
        if frames and not expected:  # given up at once, which can only be after the last slice
            assert self.counts[frame_id] - 1 in self.arrived[frame_id]
            expected = [frame_id]
        self.expect(frames, expected)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))

    @rule(seconds=st.sampled_from([0.0, 0.0625, 0.125, 0.25]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = {i for i in self.open() if self.first_at[i] + DEADLINE <= self.now}
        frames = self.real.poll(self.now)
        # Those that are due, and perhaps others that were given up: which, is for other tests to say.
        assert due <= set(ids(frames)) <= set(self.open())
        self.expect(frames, sorted(ids(frames)))

    def open(self) -> list[int]:
        return sorted(i for i in self.arrived if i not in self.done)

    def complete(self, frame_id: int) -> bool:
        return len(self.arrived[frame_id]) == self.counts[frame_id]

    def ready_after(self, frame_id: int) -> list[int]:
        if frame_id in self.done:
            return []
        if self.complete(frame_id):
            return [i for i in self.open() if i <= frame_id]
        if any(complete and i > frame_id for i, complete in self.done.items()):
            return [frame_id]
        return self.open()[:1] if len(self.open()) > self.MAX_FRAMES else []

    def expect(self, frames: list[ReceivedFrame], expected: list[int]) -> None:
        assert ids(frames) == expected
        for frame in frames:
            arrived = self.arrived[frame.frame_id]
            assert contents(frame) == [arrived.get(index) for index in range(self.counts[frame.frame_id])]
            assert frame.complete == self.complete(frame.frame_id)
            assert (frame.first_at, frame.ready_at) == (self.first_at[frame.frame_id], self.now)
            self.done[frame.frame_id] = frame.complete

    @invariant()
    def every_unit_is_counted_once(self) -> None:
        counters = self.real.counters
        assert counters.accepted + counters.duplicate + counters.stale == self.units_given
        assert counters.accepted == sum(len(slices) for slices in self.arrived.values())

    @invariant()
    def every_frame_is_counted_once(self) -> None:
        counters = self.real.counters
        assert counters.complete == sum(self.done.values())
        dispatched = counters.complete + counters.overtaken + counters.given_up + counters.expired + counters.evicted
        assert dispatched == len(self.done)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.open()) <= self.MAX_FRAMES

    @invariant()
    def no_frame_stays_open_beyond_its_deadline(self) -> None:
        last = min((self.first_at[i] + DEADLINE for i in self.open()), default=None)
        due = self.real.next_deadline()
        assert (due is None) == (last is None)
        assert due is None or last is None or due <= last

    @invariant()
    def history_is_true(self) -> None:
        expected = sum(1 << i for i in range(32) if self.done.get(self.next_id - 1 - i))
        assert self.real.history(self.next_id) == expected

    def teardown(self) -> None:
        self.now += DEADLINE
        self.expect(self.real.poll(self.now), self.open())
        assert set(self.done) == set(self.arrived)


TestModel = Model.TestCase
TestModel.settings = settings(stateful_step_count=40)
