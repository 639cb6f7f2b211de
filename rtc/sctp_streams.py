"""Messages out of the DATA chunks of one SCTP stream, within bounds. Pure; takes the place of aiortc's class.

Between chunks it keeps fragments of unfinished messages and, on ordered streams, messages that came before their turn.
All streams of an association share one budget for both. A whole message whose turn it is passes without
touching the budget: so a peer that fills it with fragments does not silence its own heartbeats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["MAX_FRAGMENTS", "MAX_HELD_BYTES", "MAX_HELD_CHUNKS", "MAX_MESSAGE", "Budget", "Fragment", "InboundStream"]

MAX_MESSAGE = 262_144
"""Bytes of a message: what aiortc announces as its limit."""

MAX_HELD_BYTES = 1024 * 1024
"""Bytes of unfinished or early messages: also the receive window that is advertised."""

MAX_HELD_CHUNKS = 1_000
"""Chunks of unfinished messages, and early messages: each costs some hundred bytes however short it is."""

MAX_FRAGMENTS = 512
"""Chunks of one message: twice what the longest message needs. All of them are visited when another one comes."""

UNORDERED, FIRST, LAST = 0x04, 0x02, 0x01
_WHOLE = FIRST | LAST
_TSNS = 2**32
_HALF = 2**31


class Fragment(Protocol):
    """What is needed of a DATA chunk; aiortc's has it."""

    tsn: int
    flags: int
    stream_id: int
    stream_seq: int
    protocol: int
    user_data: bytes


@dataclass(slots=True)
class Budget:
    """What all streams of an association hold together."""

    chunks: int = 0
    bytes: int = 0
    oversized: int = 0
    """Messages given up because they were too long."""
    dead: int = 0
    """Fragments given up because their message cannot be completed any more."""

    def fits(self, size: int) -> bool:
        """Whether a chunk of `size` bytes may be held, too."""
        return self.chunks < MAX_HELD_CHUNKS and self.bytes + size <= MAX_HELD_BYTES


Message = tuple[int, int, bytes]
"""Stream id, payload protocol, data."""


class InboundStream:
    """Reassembles the messages of one stream. Each TSN must be given at most once."""

    def __init__(self, budget: Budget) -> None:
        self.sequence_number = 0
        """Of the next ordered message; a FORWARD TSN sets it."""
        self._budget = budget
        self._ready: deque[Message] = deque()
        self._fragments: dict[int, Fragment] = {}
        self._early: dict[int, Message] = {}
        self._skipped: set[int] = set()

    def passes(self, chunk: Fragment) -> bool:
        """Whether a chunk is a message that can be delivered at once, and so needs no budget."""
        return chunk.flags & _WHOLE == _WHOLE and (
            bool(chunk.flags & UNORDERED) or not self._is_early(chunk.stream_seq)
        )

    def add_chunk(self, chunk: Fragment) -> None:
        """Take a chunk, for which there must be budget unless it `passes`."""
        if chunk.flags & _WHOLE == _WHOLE:
            self._complete([chunk])
            return
        self._fragments[chunk.tsn] = chunk
        self._hold(len(chunk.user_data))
        run = self._run(chunk)
        if len(run) > MAX_FRAGMENTS or sum(len(fragment.user_data) for fragment in run) > MAX_MESSAGE:
            self._budget.oversized += 1
            self._forget(run)
            if not chunk.flags & UNORDERED and len(self._skipped) < MAX_HELD_CHUNKS:
                self._skipped.add(chunk.stream_seq)
        elif run[0].flags & FIRST and run[-1].flags & LAST:
            self._forget(run)
            self._complete(run)

    def pop_messages(self) -> Iterator[Message]:
        """The messages that can be delivered now, each once."""
        self._take_turns()
        while self._ready:
            yield self._ready.popleft()

    def prune_chunks(self, tsn: int) -> int:
        """Give up what cannot be completed, when nothing up to `tsn` will come any more. Returns the bytes freed."""
        before = self._budget.bytes
        for run in self._runs():
            first, following = run[0], (run[-1].tsn + 1) % _TSNS
            no_begin = not first.flags & FIRST and _at_most((first.tsn - 1) % _TSNS, tsn)
            no_end = not run[-1].flags & LAST and (_at_most(following, tsn) or following in self._fragments)
            if no_begin or no_end:
                self._budget.dead += len(run)
                self._forget(run)
        return before - self._budget.bytes

    def clear(self) -> None:
        """Give back the budget: the stream ends."""
        self._forget(list(self._fragments.values()))
        for sequence in list(self._early):
            self._take_early(sequence)

    def _is_early(self, sequence: int) -> bool:
        return _before(self.sequence_number, sequence)

    def _complete(self, run: list[Fragment]) -> None:
        first = run[0]
        message = first.stream_id, first.protocol, b"".join(fragment.user_data for fragment in run)
        if first.flags & UNORDERED:
            self._ready.append(message)
        elif self._is_early(first.stream_seq):
            if first.stream_seq in self._early:
                self._take_early(first.stream_seq)
            self._early[first.stream_seq] = message
            self._hold(len(message[2]))
        else:
            if first.stream_seq == self.sequence_number:
                self.sequence_number = (self.sequence_number + 1) % 2**16
            self._ready.append(message)
            self._take_turns()

    def _take_turns(self) -> None:
        for sequence in [number for number in self._early if _before(number, self.sequence_number)]:
            # A FORWARD TSN skipped over its turn, but here it is, whole.
            self._ready.append(self._take_early(sequence))
        while True:
            if self.sequence_number in self._early:
                self._ready.append(self._take_early(self.sequence_number))
            elif self.sequence_number in self._skipped:
                self._skipped.remove(self.sequence_number)
            else:
                return
            self.sequence_number = (self.sequence_number + 1) % 2**16

    def _take_early(self, sequence: int) -> Message:
        message = self._early.pop(sequence)
        self._budget.chunks -= 1
        self._budget.bytes -= len(message[2])
        return message

    def _hold(self, size: int) -> None:
        self._budget.chunks += 1
        self._budget.bytes += size

    def _forget(self, run: list[Fragment]) -> None:
        for fragment in run:
            del self._fragments[fragment.tsn]
            self._budget.chunks -= 1
            self._budget.bytes -= len(fragment.user_data)

    def _run(self, chunk: Fragment) -> list[Fragment]:
        """The fragments around one that follow each other and can be of one message (section 6.9)."""
        run = deque([chunk])
        while not run[0].flags & FIRST:
            before = self._fragments.get((run[0].tsn - 1) % _TSNS)
            if before is None or before.flags & LAST:
                break
            run.appendleft(before)
        while not run[-1].flags & LAST:
            after = self._fragments.get((run[-1].tsn + 1) % _TSNS)
            if after is None or after.flags & FIRST:
                break
            run.append(after)
        return list(run)

    def _runs(self) -> list[list[Fragment]]:
        seen: set[int] = set()
        runs = []
        for chunk in list(self._fragments.values()):
            if chunk.tsn not in seen:
                run = self._run(chunk)
                seen.update(fragment.tsn for fragment in run)
                runs.append(run)
        return runs


def _at_most(tsn: int, limit: int) -> bool:
    """Serial number arithmetic (section 1.6)."""
    return (limit - tsn) % _TSNS < _HALF


def _before(earlier: int, later: int) -> bool:
    return 0 < (later - earlier) % 2**16 < 2**15
