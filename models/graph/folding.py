"""A graph folded to readable size: chains, gates and small branches become one block each, side branches stay.

Blocks are merged step by step, as electrical networks are reduced: two in a row where neither has another neighbour,
one that lies beside a direct way, and small ones side by side. First only blocks that work on tensors of the same size
are merged, so that what remains shows the stages of a network; then larger and larger ones, until few are left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.graph.datapath import DataPath

__all__ = ["Block", "fold", "lanes"]

MAX_BLOCKS = 48
ROUGHLY = 8
"""Times as many blocks as wanted are merged one by one; more than that, in groups of neighbours."""


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes that are drawn as one: their places in order, what they are called, and the blocks that read from it."""

    places: tuple[int, ...]
    stage: str
    readers: tuple[int, ...]

    @property
    def begin(self) -> int:
        """The first place."""
        return self.places[0]

    @property
    def end(self) -> int:
        """The last place."""
        return self.places[-1]


def fold(path: DataPath, stages: Sequence[str], most: int = MAX_BLOCKS) -> list[Block]:
    """Return at most ``most`` blocks, by their first place; ``stages`` say of each node what size it works on."""
    folder = _Folder(path, stages)
    folder.reduce(small=4, odd=1)
    limit = 2
    while len(folder.places) > most and limit <= 2 * len(path.nodes):
        folder.reduce(4 + limit, limit)
        limit *= 2
    folder.merge_neighbours(most)
    return folder.blocks()


class _Folder:
    def __init__(self, path: DataPath, stages: Sequence[str]) -> None:
        count = len(path.nodes)
        self.places: dict[int, list[int]] = {place: [place] for place in range(count)}
        self.after: dict[int, set[int]] = {
            place: {reader for t in made for reader in path.readers[t] if reader < count}
            for place, made in enumerate(path.makes)
        }
        self.before: dict[int, set[int]] = {place: set() for place in range(count)}
        for place, readers in self.after.items():
            for reader in readers:
                self.before[reader].add(place)
        self._stages = stages

    def _stage(self, block: int) -> str:
        return self._stages[self.places[block][-1]]

    def _size(self, block: int) -> int:
        return len(self.places[block])

    def _merge(self, into: int, other: int) -> None:
        """Put ``other`` into ``into``, which is its neighbour or stands between the same ones."""
        self.places[into] = sorted(self.places[into] + self.places.pop(other))
        for near, far in ((self.after, self.before), (self.before, self.after)):
            for neighbour in near.pop(other):
                far[neighbour].discard(other)
                if neighbour != into:
                    near[into].add(neighbour)
                    far[neighbour].add(into)
            near[into].discard(other)

    def reduce(self, small: int, odd: int) -> None:
        """Merge until nothing changes.

        ``small`` is of how many nodes a branch may vanish, ``odd`` of how many one of two blocks in a row is merged
        with the other one though they work on different sizes.
        """
        waiting = sorted(self.places, reverse=True)
        while waiting:
            block = waiting.pop()
            if block in self.places and (changed := self._step(block, small, odd)) is not None:
                waiting += (changed, *self.before[changed], *self.after[changed])

    def _step(self, block: int, small: int, odd: int) -> int | None:
        after, before = self.after[block], self.before[block]
        if len(after) == 1:
            (reader,) = after
            same = self._stage(block) == self._stage(reader) or min(map(self._size, (block, reader))) <= odd
            if len(self.before[reader]) == 1 and same:
                self._merge(block, reader)
                return block
        if len(after) == 1 and len(before) == 1 and self._size(block) <= small:
            (reader,), (maker,) = after, before
            if reader in self.after[maker]:  # beside a direct way
                self._merge(reader, block)
                return reader
            for other in self.after[maker] - {block}:
                if self._size(other) <= small and self.after[other] == after and self.before[other] == before:
                    self._merge(block, other)
                    return block
        if not before and len(after) == 1 and self._size(block) <= small:  # made of an input, for one reader
            (reader,) = after
            if len(self.before[reader]) > 1:
                self._merge(reader, block)
                return reader
        return None

    def merge_neighbours(self, most: int) -> None:
        """Where the structure does not allow it, merge the smallest block with the next one in order."""
        if len(self.places) > ROUGHLY * most:  # too many for one after the other
            order = sorted(self.places, key=lambda block: self.places[block][0])
            for number in range(0, len(order), step := -(-len(order) // (ROUGHLY * most))):
                for other in order[number + 1 : number + step]:
                    self._merge(order[number], other)
        while len(self.places) > max(1, most):
            order = sorted(self.places, key=lambda block: self.places[block][0])
            sizes = [len(self.places[a]) + len(self.places[b]) for a, b in pairwise(order)]
            at = sizes.index(min(sizes))
            self._merge(order[at], order[at + 1])

    def blocks(self) -> list[Block]:
        order = sorted(self.places, key=lambda block: self.places[block][0])
        number = {block: i for i, block in enumerate(order)}
        return [
            Block(tuple(self.places[b]), self._stage(b), tuple(sorted(number[reader] for reader in self.after[b])))
            for b in order
        ]


def lanes(blocks: Sequence[Block]) -> list[int]:
    """Return a lane for each block, where it overlaps with no other; what follows a block stays in its lane."""
    ends: list[int] = []
    found: list[int] = []
    makers: Mapping[int, list[int]] = {i: [] for i in range(len(blocks))}
    for i, block in enumerate(blocks):
        for reader in block.readers:
            makers[reader].append(i)
    for i, block in enumerate(blocks):
        wanted = [found[maker] for maker in makers[i] if maker < i] + list(range(len(ends)))
        lane = next((lane for lane in wanted if ends[lane] < block.begin), len(ends))
        if lane == len(ends):
            ends.append(-1)
        ends[lane] = block.end
        found.append(lane)
    return found
