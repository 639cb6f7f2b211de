"""Slices: a frame's coded elements cut into runs that each decode alone (docs/protocol.md, section 4.1)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from splitrtc_errors import CodecError

__all__ = [
    "MAX_ELEMENTS_PER_SLICE",
    "MAX_SLICES",
    "MAX_TENSORS",
    "MIN_PAYLOAD",
    "Grain",
    "Slice",
    "Writer",
    "pack_slice",
    "parse_slice",
    "room_of",
]

MAX_SLICES = 4096
"""Slices in a frame (docs/protocol.md, section 3.1)."""

MAX_TENSORS = 64
"""Tensors in a parameter set (docs/protocol.md, section 2)."""

MAX_ELEMENTS_PER_SLICE = 2**16 - 1

MIN_PAYLOAD = 64
"""Bytes; the smallest slice worth cutting. Any one element fits in it, compressed or not."""

_HEADER = struct.Struct(">BIH")

_TRIES = 5
"""Compressions per slice that aim; further ones, which only odd data need, halve."""

_FIXED_COST = 48
"""Bytes of a compressed slice that do not grow with it: Zstandard's headers and the Huffman table, as measured."""


class Grain(NamedTuple):
    """The least that can be cut off: so many elements, which take so many bytes."""

    elements: int
    nbytes: int


class Slice(NamedTuple):
    """One parsed slice: ``elements`` of tensor number ``tensor`` from number ``first``, coded in ``body``."""

    tensor: int
    first: int
    elements: int
    body: memoryview


def parse_slice(payload: bytes | memoryview, sizes: Sequence[int]) -> Slice:
    """Read a slice's header.

    Args:
        payload: a unit's payload, from anybody. Not copied.
        sizes: number of elements of each tensor.

    Raises:
        CodecError: it is truncated, or names elements that are not there.
    """
    if len(payload) < _HEADER.size:
        raise CodecError(f"a slice has at least {_HEADER.size} bytes, not {len(payload)}")
    tensor, first, count = _HEADER.unpack_from(payload)
    if tensor >= len(sizes):
        raise CodecError(f"a slice of tensor {tensor}, of {len(sizes)}")
    if not count or first + count > sizes[tensor]:
        raise CodecError(f"a slice of {count} elements from {first}, of {sizes[tensor]}")
    return Slice(tensor, first, count, memoryview(payload)[_HEADER.size :])


def room_of(max_payload: int) -> int:
    """Return how many bytes a slice's body may have."""
    return max_payload - _HEADER.size


def pack_slice(tensor: int, first: int, elements: int, body: bytes | memoryview) -> bytes:
    """Return a slice: the inverse of parse_slice()."""
    return b"".join((_HEADER.pack(tensor, first, elements), body))


class Writer:
    """Cuts coded tensors into slices of at most ``max_payload`` bytes, each as full as it can be."""

    def __init__(self, max_payload: int, compress: Callable[[memoryview], bytes] | None = None) -> None:
        """Take the limit, at least MIN_PAYLOAD, and how bodies are compressed, if they are."""
        self.max_payload = max_payload
        self._room = room_of(max_payload)
        self._compress = compress

    def cut(self, tensor: int, elements: int, coded: memoryview, grain: Grain) -> Iterator[bytes]:
        """Yield the slices of one tensor.

        Args:
            tensor: its number.
            elements: how many it has.
            coded: all of them, grain after grain; the last grain may have fewer elements.
            grain: of this code.
        """
        grains = -(-elements // grain.elements)
        most = MAX_ELEMENTS_PER_SLICE // grain.elements
        start = 0
        guess = 2 * self._room // grain.nbytes
        while start < grains:
            rest = coded[start * grain.nbytes : (start + min(grains - start, most)) * grain.nbytes]
            taken, body = self._fullest(rest, grain.nbytes, guess)
            first = start * grain.elements
            count = min(taken * grain.elements, elements - first)
            yield pack_slice(tensor, first, count, body)
            start += taken
            guess = taken

    def _fullest(self, rest: memoryview, nbytes: int, guess: int) -> tuple[int, bytes | memoryview]:
        """Return how many grains of ``rest``, of ``nbytes`` each, the next slice takes, and its body."""
        if self._compress is None:
            taken = min(len(rest), self._room) // nbytes
            return taken, rest[: taken * nbytes]
        # `low` grains fit, `high` do not. One always fits: see MIN_PAYLOAD.
        low, high, best = 0, len(rest) // nbytes + 1, b""
        tries = 0
        while high - low > 1 and (tries < _TRIES or not low):
            taken = min(max(guess, low + 1), high - 1)
            body = self._compress(rest[: taken * nbytes])
            if len(body) > self._room:
                high = taken
            else:
                low, best = taken, body
                if len(body) > self._room - self._room // 64:
                    break
            tries += 1
            if tries < _TRIES:
                guess = taken * (self._room - _FIXED_COST) // max(len(body) - _FIXED_COST, 1)
            else:
                guess = (low + high) // 2
        return low, best
