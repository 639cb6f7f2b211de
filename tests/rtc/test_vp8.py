from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc.vp8 import CAPACITY, KEY_INTERVAL, MAX_PACKET, PATIENCE, VideoFrame, Vp8Assembler, key_size

KEY = b"\x10\0\0\x9d\x01\x2a" + (300).to_bytes(2, "little") + (0x4000 | 200).to_bytes(2, "little")
"""The beginning of a key frame of 300 x 200 pixels, with scaling bits, which are no part of the size."""


@dataclass(frozen=True)
class Packet:
    sequence: int
    timestamp: int
    starts: bool
    ends: bool
    data: bytes


def frame(number: int, first: int, packets: int = 2, key: bool = False) -> list[Packet]:
    """A frame whose content names it."""
    head = KEY if key else b"\x11"
    return [
        Packet(
            (first + i) % 2**16,
            3000 * number % 2**32,
            i == 0,
            i == packets - 1,
            (head if i == 0 else b"") + bytes([number % 256, i]),
        )
        for i in range(packets)
    ]


def stream(frames: int, first: int = 65_530, packets: int = 3) -> list[list[Packet]]:
    """Frames, the first one a key frame; sequence numbers wrap soon."""
    return [frame(number, first + number * packets, packets, key=number == 0) for number in range(frames)]


def joined(packets: Sequence[Packet]) -> bytes:
    return b"".join(packet.data for packet in packets)


def add(assembler: Vp8Assembler, packets: Iterable[Packet], now: float = 0.0) -> tuple[list[VideoFrame], bool]:
    """All that came out of it, and whether a key frame was asked for."""
    frames, asked = [], False
    for packet in packets:
        new, ask = assembler.add(packet.sequence, packet.timestamp, packet.starts, packet.ends, packet.data, now)
        frames += new
        asked |= ask
    return frames, asked


@pytest.fixture
def assembler() -> Vp8Assembler:
    return Vp8Assembler()


def test_a_frame_comes_with_its_last_packet(assembler: Vp8Assembler) -> None:
    key, other = frame(1, 10, 3, key=True), frame(2, 13, 1)
    assert add(assembler, key[:2], 1.0) == ([], False)
    assert add(assembler, key[2:], 2.0) == ([VideoFrame(3000, 1, True, joined(key), 1.0, 2.0)], False)
    assert add(assembler, other, 3.0) == ([VideoFrame(6000, 2, False, joined(other), 3.0, 3.0)], False)


def test_packets_in_another_order_and_more_than_once(assembler: Vp8Assembler) -> None:
    sent = stream(3)
    order = [0, 2, 1, 6, 4, 4, 8, 1, 7, 3, 5]
    packets = [packet for packets in sent for packet in packets]
    frames, asked = add(assembler, [packets[i] for i in order])
    assert [got.data for got in frames] == [joined(packets) for packets in sent]
    assert not asked
    assert (assembler.counters.stale, assembler.counters.gaps) == (2, 2)


def test_a_lost_packet_is_waited_for_then_a_key_frame_is_asked_for(assembler: Vp8Assembler) -> None:
    sent = stream(8)
    add(assembler, sent[0])
    assert add(assembler, sent[1][1:] + sent[2], 1.0) == ([], False)
    assert add(assembler, sent[3], 1.0 + 0.9 * PATIENCE) == ([], False)
    # What is left is whole, but predicted from what is missing.
    assert add(assembler, sent[4], 1.0 + 1.1 * PATIENCE) == ([], True)
    assert add(assembler, sent[5], 1.0 + 1.2 * PATIENCE) == ([], False)
    again = frame(6, 65_530 + 18, 3, key=True)
    assert [got.number for got in add(assembler, again, 2.0)[0]] == [2]
    assert [got.number for got in add(assembler, sent[7], 2.1)[0]] == [3]
    assert (assembler.counters.given_up, assembler.counters.without_key) == (1, 4)
    assert add(assembler, sent[1][:1]) == ([], False)
    assert assembler.counters.stale == 1


def test_a_key_frame_is_asked_for_again_and_again_but_not_all_the_time(assembler: Vp8Assembler) -> None:
    asked = 0
    for number in range(100):  # for ten seconds
        asked += add(assembler, frame(1 + number, 2 * number), number / 10)[1]
    assert 10 / (KEY_INTERVAL + 0.1) - 1 <= asked <= 10 / KEY_INTERVAL
    assembler.need_key()
    assert add(assembler, frame(101, 200), 20.0) == ([], True)


def test_nothing_is_asked_for_without_need(assembler: Vp8Assembler) -> None:
    assert add(assembler, frame(0, 5, 4, key=True)[:3]) == ([], False)


def test_the_first_packets_of_a_stream_are_lost(assembler: Vp8Assembler) -> None:
    sent = stream(3)
    assert add(assembler, sent[0][1:]) == ([], True)
    assert assembler.counters.malformed == 1
    assert add(assembler, sent[1]) == ([], False)
    frames, _ = add(assembler, frame(2, 65_536, 3, key=True))
    assert [(got.number, got.timestamp) for got in frames] == [(1, 6000)]


def test_packets_of_two_timestamps_are_no_frame(assembler: Vp8Assembler) -> None:
    first, second = frame(1, 0, key=True), frame(2, 0, key=True)
    assert add(assembler, [first[0], second[1]]) == ([], True)
    assert assembler.counters.malformed == 1


def test_a_gap_with_no_start_after_it(assembler: Vp8Assembler) -> None:
    add(assembler, frame(0, 0, 1, key=True))
    long = frame(1, 1, 6)
    add(assembler, long[1:3], 0.0)
    assert add(assembler, long[3:4], 1.0) == ([], True)
    assert add(assembler, long[4:], 1.1) == ([], False)
    assert assembler.counters.malformed == 1
    assert len(add(assembler, frame(2, 7, key=True), 1.2)[0]) == 1


def test_a_jump_ahead_costs_what_was_there_and_no_memory(assembler: Vp8Assembler) -> None:
    add(assembler, frame(0, 0, 1, key=True))
    for number in range(5_000):
        add(assembler, frame(number, number * 700, 2)[:1])
        assert len(assembler._packets) <= CAPACITY
    assert assembler.counters.given_up > 4_000


def test_packets_larger_than_a_network_carries_are_dropped(assembler: Vp8Assembler) -> None:
    assert add(assembler, [Packet(1, 1, True, True, KEY + bytes(MAX_PACKET))]) == ([], False)
    assert assembler.counters.oversized == 1
    assert len(add(assembler, [Packet(1, 1, True, True, KEY)])[0]) == 1


def test_the_size_of_a_key_frame() -> None:
    assert key_size(KEY) == (300, 200)
    assert key_size(KEY[:-1]) is None
    assert key_size(b"\x11" + KEY[1:]) is None
    assert key_size(KEY[:3] + b"\0" + KEY[4:]) is None


@settings(max_examples=40)
@given(st.randoms(use_true_random=False), st.floats(0, 0.3))
def test_whatever_the_network_does_frames_come_whole_in_order_and_after_their_references(
    chance: random.Random, loss: float
) -> None:
    assembler = Vp8Assembler()
    sent, asked, got, first = [], True, [], chance.randrange(2**16)
    for number in range(60):
        packets = frame(number, first, chance.randint(1, 5), key=asked)
        first, asked = first + len(packets), False
        sent.append(packets)
        if chance.random() < 0.2:
            chance.shuffle(packets)
        for packet in packets:
            if chance.random() >= loss:
                frames, ask = add(assembler, [packet], number * 0.1)
                got += frames
                asked |= ask
    wholes = {
        packets[0].timestamp: joined(sorted(packets, key=lambda p: (not p.starts, p.data[-1]))) for packets in sent
    }
    assert all(frame.data == wholes[frame.timestamp] for frame in got)
    assert [frame.number for frame in got] == list(range(1, len(got) + 1))
    for before, after in pairwise(got):
        assert before.timestamp < after.timestamp
        assert after.key or after.timestamp - before.timestamp == 3000
    if loss == 0 and all(packets[0].starts for packets in sent[:1]):
        assert len(got) == 60


@given(st.lists(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 3), st.booleans(), st.booleans(), st.binary())))
def test_any_packets_at_all(packets: list[tuple[int, int, bool, bool, bytes]]) -> None:
    assembler = Vp8Assembler()
    for number, packet in enumerate(packets):
        frames, _ = assembler.add(*packet, now=number / 20)
        assert all(frame.key == (key_size(frame.data) is not None) for frame in frames)
        assert len(assembler._packets) <= CAPACITY


def test_a_frame_without_an_end_is_given_up(assembler: Vp8Assembler) -> None:
    endless = [Packet(i, 0, i == 0, False, b"x") for i in range(CAPACITY)]
    assert add(assembler, endless) == ([], False)
    assert add(assembler, [Packet(CAPACITY, 0, False, False, b"x")]) == ([], True)
    assert len(assembler._packets) == 1
