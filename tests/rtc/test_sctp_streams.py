from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc.sctp_streams import MAX_HELD_BYTES, MAX_HELD_CHUNKS, MAX_MESSAGE, Budget, InboundStream

UNORDERED, FIRST, LAST = 4, 2, 1


@dataclass
class Chunk:
    tsn: int
    flags: int
    user_data: bytes
    stream_seq: int = 0
    stream_id: int = 7
    protocol: int = 53


def message(tsn: int, parts: list[bytes], flags: int = UNORDERED, sequence: int = 0) -> list[Chunk]:
    """The chunks of a message."""
    last = len(parts) - 1
    return [
        Chunk((tsn + i) % 2**32, flags | (FIRST if i == 0 else 0) | (LAST if i == last else 0), part, sequence)
        for i, part in enumerate(parts)
    ]


def feed(stream: InboundStream, *chunks: Chunk) -> list[bytes]:
    got = []
    for chunk in chunks:
        stream.add_chunk(chunk)
        got += [data for _, _, data in stream.pop_messages()]
    return got


@pytest.fixture
def budget() -> Budget:
    return Budget()


@pytest.fixture
def stream(budget: Budget) -> InboundStream:
    return InboundStream(budget)


def test_whole_messages_pass_at_once(stream: InboundStream, budget: Budget) -> None:
    (chunk,) = message(1, [b"whole"])
    assert stream.passes(chunk)
    stream.add_chunk(chunk)
    assert list(stream.pop_messages()) == [(7, 53, b"whole")]
    assert (budget.chunks, budget.bytes) == (0, 0)


def test_fragments_do_not_pass_and_are_joined(stream: InboundStream, budget: Budget) -> None:
    chunks = message(2**32 - 1, [b"a", b"bc", b"d"])
    assert not stream.passes(chunks[0])
    assert feed(stream, chunks[2], chunks[0]) == []
    assert (budget.chunks, budget.bytes) == (2, 2)
    assert feed(stream, chunks[1]) == [b"abcd"]
    assert (budget.chunks, budget.bytes) == (0, 0)


def test_ordered_messages_wait_for_their_turn(stream: InboundStream, budget: Budget) -> None:
    (zero,), one, (two,) = message(1, [b"0"], 0), message(2, [b"1", b"1"], 0, 1), message(4, [b"2"], 0, 2)
    assert not stream.passes(two)
    assert feed(stream, two, *one) == []
    assert budget.bytes == 3
    assert stream.passes(zero)
    assert feed(stream, zero) == [b"0", b"11", b"2"]
    assert (stream.sequence_number, budget.chunks, budget.bytes) == (3, 0, 0)


def test_unordered_messages_do_not(stream: InboundStream) -> None:
    assert feed(stream, *message(1, [b"x"], UNORDERED, 9)) == [b"x"]
    assert stream.sequence_number == 0


def test_a_message_of_the_past_is_delivered(stream: InboundStream) -> None:
    stream.sequence_number = 5
    assert feed(stream, *message(1, [b"late"], 0, 4)) == [b"late"]
    assert stream.sequence_number == 5


def test_two_messages_for_the_same_turn_cost_one(stream: InboundStream, budget: Budget) -> None:
    assert feed(stream, *message(1, [b"a"], 0, 1), *message(2, [b"bb"], 0, 1)) == []
    assert (budget.chunks, budget.bytes) == (1, 2)
    assert feed(stream, *message(3, [b"0"], 0, 0)) == [b"0", b"bb"]


def test_skipped_turns(stream: InboundStream, budget: Budget) -> None:
    feed(stream, *message(2, [b"1"], 0, 1), *message(4, [b"3"], 0, 3))
    stream.sequence_number = 3  # as a FORWARD TSN sets it
    assert [data for _, _, data in stream.pop_messages()] == [b"1", b"3"]
    assert budget.chunks == 0


def test_too_long_a_message_is_given_up_and_its_turn_skipped(stream: InboundStream, budget: Budget) -> None:
    parts = [b"x" * 1_000] * (MAX_MESSAGE // 1_000 + 1)
    long = message(10, parts, 0, 1)
    assert feed(stream, *long[:-1], *message(10_000, [b"2"], 0, 2)) == []
    assert feed(stream, long[-1], *message(1, [b"0"], 0, 0)) == [b"0", b"2"]
    assert budget.oversized == 1
    assert budget.chunks == 0
    assert feed(stream, *message(20_000, [b"x" * MAX_MESSAGE], 0, 3)) == [b"x" * MAX_MESSAGE]


def test_too_long_an_unordered_message(stream: InboundStream, budget: Budget) -> None:
    chunks = message(10, [b"x" * 1_000] * (MAX_MESSAGE // 1_000 + 2))
    assert feed(stream, *chunks) == []
    assert budget.oversized == 1
    # What came after the limit has no begin any more.
    assert budget.chunks == 1
    assert stream.prune_chunks(chunks[-1].tsn) == 1_000
    assert (budget.chunks, budget.bytes, budget.dead) == (0, 0, 1)


def test_what_can_still_be_completed_is_kept(stream: InboundStream, budget: Budget) -> None:
    begin, middle, end = message(10, [b"a", b"b", b"c"])
    feed(stream, begin)
    assert stream.prune_chunks(10) == 0
    assert stream.prune_chunks(9) == 0
    feed(stream, end)
    assert stream.prune_chunks(10) == 0
    assert feed(stream, middle) == [b"abc"]


def test_what_cannot_be_completed_is_not(stream: InboundStream, budget: Budget) -> None:
    begin, _, end = message(10, [b"a", b"b", b"c"])
    feed(stream, begin, end)
    assert stream.prune_chunks(11) == 2
    assert budget.chunks == 0


def test_a_message_without_an_end_before_another(stream: InboundStream) -> None:
    feed(stream, Chunk(10, FIRST, b"a"), Chunk(11, FIRST, b"b"))
    assert stream.prune_chunks(5) == 1
    assert feed(stream, Chunk(12, LAST, b"c")) == [b"bc"]


def test_an_end_does_not_take_what_belongs_to_another(stream: InboundStream) -> None:
    assert feed(stream, Chunk(10, UNORDERED | LAST, b"a"), Chunk(11, UNORDERED | LAST, b"b")) == []
    assert feed(stream, Chunk(9, UNORDERED | FIRST, b"0")) == [b"0a"]


def test_a_stream_that_ends_gives_back_its_budget(stream: InboundStream, budget: Budget) -> None:
    feed(stream, Chunk(1, FIRST, b"abc"), *message(5, [b"early"], 0, 3))
    assert budget.chunks == 2
    stream.clear()
    assert (budget.chunks, budget.bytes) == (0, 0)


def test_the_budget_has_an_end() -> None:
    assert Budget().fits(MAX_HELD_BYTES)
    assert not Budget().fits(MAX_HELD_BYTES + 1)
    assert not Budget(chunks=MAX_HELD_CHUNKS).fits(1)


@given(
    st.lists(st.tuples(st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=4), st.booleans()), max_size=8),
    st.integers(0, 2**32 - 1),
    st.randoms(use_true_random=False),
)
def test_any_order_of_arrival_gives_the_same_messages(
    messages: list[tuple[list[bytes], bool]], tsn: int, random: Random
) -> None:
    budget = Budget()
    stream = InboundStream(budget)
    chunks: list[Chunk] = []
    ordered: list[bytes] = []
    unordered: list[bytes] = []
    sequence = 0
    for number, (parts, in_order) in enumerate(messages):
        parts = [bytes([number]) + part for part in parts]
        chunks += message(tsn, parts, 0 if in_order else UNORDERED, sequence if in_order else 0)
        tsn = (tsn + len(parts)) % 2**32
        (ordered if in_order else unordered).append(b"".join(parts))
        sequence += in_order
    random.shuffle(chunks)
    got = feed(stream, *chunks)
    assert [data for data in got if data in ordered] == ordered
    assert sorted(data for data in got if data not in ordered) == sorted(unordered)
    assert (budget.chunks, budget.bytes) == (0, 0)


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 7), st.binary(min_size=1, max_size=9), st.integers(0, 5)),
        unique_by=lambda item: item[0],
    ),
    st.lists(st.integers(0, 70), max_size=5),
)
def test_any_chunks_leave_the_books_right(chunks: list[tuple[int, int, bytes, int]], prunes: list[int]) -> None:
    budget = Budget()
    stream = InboundStream(budget)
    taken = sum(len(data) for _, _, data, _ in chunks)
    got = sum(len(data) for data in feed(stream, *(Chunk(*chunk) for chunk in chunks)))
    assert budget.chunks >= 0
    assert got + budget.bytes <= taken
    for tsn in prunes:
        stream.prune_chunks(tsn)
    stream.clear()
    assert (budget.chunks, budget.bytes) == (0, 0)
