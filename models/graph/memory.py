"""How much memory the head and the tail of a cut need: their weights, and the tensors that live at the same time.

A tensor lives from the node that makes it (an input: from its first reader) until its last reader has run. A runtime
may need less (it computes some nodes in place) or more (it keeps what it was given, and makes copies in other layouts).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.graph.datapath import DataPath

__all__ = ["Memory", "frontier_memory", "head_memory", "tail_memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of weights, and of tensors when most of them live."""

    weights: int
    activations: int

    @property
    def total(self) -> int:
        """Both."""
        return self.weights + self.activations


def frontier_memory(path: DataPath, sizes: Mapping[int, int]) -> tuple[list[Memory], list[Memory]]:
    """Return what heads of the first 0, 1, ... nodes need, and what the tails do that follow them.

    ``sizes`` are the bytes of tensors, constants among them; one without counts as nothing.
    """
    count = len(path.nodes)
    live = _live(path, range(count), sizes)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for place, read in enumerate(path.constants):
        for t in read:
            first.setdefault(t, place)
            last[t] = place
    gained, lost = [0] * count, [0] * count
    for t, place in first.items():
        gained[place] += sizes.get(t, 0)
        lost[last[t]] += sizes.get(t, 0)
    heads = map(Memory, accumulate(gained, initial=0), accumulate(live, max, initial=0))
    tails = map(Memory, accumulate(reversed(lost), initial=0), accumulate(reversed(live), max, initial=0))
    return list(heads), list(tails)[::-1]


def head_memory(path: DataPath, head: Collection[int], sizes: Mapping[int, int]) -> Memory:
    """Return what a head of the nodes at these places needs."""
    return Memory(_weights(path, head, sizes), max(_live(path, sorted(head), sizes), default=0))


def tail_memory(path: DataPath, head: Collection[int], sizes: Mapping[int, int]) -> Memory:
    """Return what the tail needs that follows such a head."""
    tail = [place for place in range(len(path.nodes)) if place not in head]
    return Memory(_weights(path, tail, sizes), max(_live(path, tail, sizes, is_tail=True), default=0))


def _weights(path: DataPath, places: Collection[int], sizes: Mapping[int, int]) -> int:
    return sum(sizes.get(t, 0) for t in {t for place in places for t in path.constants[place]})


def _live(path: DataPath, places: Collection[int], sizes: Mapping[int, int], is_tail: bool = False) -> list[int]:
    """Bytes of the tensors that live while each of these nodes runs, in their order, when only they do."""
    at = {place: number for number, place in enumerate(places)}
    change = [0] * (len(at) + 1)
    for t, readers in path.readers.items():
        maker = path.maker.get(t)
        inside = [reader for reader in readers if reader in at]
        if maker in at:
            begin = at[path.maker[t]]
        elif maker is None and readers[0] == (inside or [len(path.nodes)])[0]:  # an input that nobody before reads
            begin = at[inside[0]] if inside else len(at)
        else:  # it comes from the head, or the head reads it too: of no concern to a head, and there for a tail
            begin = 0 if is_tail or inside else len(at)
        # What crosses, or is an output, stays until the end, to be sent.
        stays = readers[-1] == len(path.nodes) if is_tail else len(inside) < len(readers)
        end = len(at) if stays else at[inside[-1]] + 1 if inside else begin
        change[begin] += sizes.get(t, 0)
        change[max(begin, end)] -= sizes.get(t, 0)
    return list(accumulate(change))[:-1]
