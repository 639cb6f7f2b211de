"""What the profile clusters knows of a tensor beforehand: its codebooks (docs/protocol.md, section 4.9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.codecs.arrays import decoded, encoded
from models.codecs.klt_tables import MAX_CHANNELS, MAX_UNIT_BITS
from splitrtc_errors import CodecError

__all__ = ["SIZES", "WORDS", "ClustersTables", "Codebook"]

SIZES = (2, 4, 8)
"""Channels that become one index."""
WORDS = 256
MAX_SHIFT = 8


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """The words of all groups of one size.

    ``words`` is int8 (groups, WORDS, size), ``shift`` uint8 (groups,): a word times 2^shift is a state of the group's
    channels. The first word of a group is what is assumed when nothing is known.
    """

    words: NDArray[np.int8]
    shift: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Refuse what cannot be used, with CodecError."""
        if self.shift.max() > MAX_SHIFT:
            raise CodecError(f"words are shifted by at most {MAX_SHIFT} digits, not {self.shift.max()}")


@dataclass(frozen=True, slots=True, eq=False)
class ClustersTables:
    """A codebook for each of SIZES, and the unit and mean of `models.codecs.channels.Channels`.

    ``order`` is uint16 (C,), a permutation of the channels: a group's channels follow each other in it. Where C is no
    multiple of a size, the last group's words have elements that belong to no channel.
    """

    unit_bits: int
    mean: NDArray[np.int16]
    order: NDArray[np.uint16]
    books: tuple[Codebook, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be used, with CodecError."""
        if not -MAX_UNIT_BITS <= self.unit_bits <= MAX_UNIT_BITS:
            raise CodecError(f"a unit of 2^-{self.unit_bits}: the exponent is at most {MAX_UNIT_BITS}")
        if len(self.mean) > MAX_CHANNELS:
            raise CodecError(f"{len(self.mean)} channels, more than {MAX_CHANNELS}")
        if sorted(self.order.tolist()) != list(range(len(self.mean))):
            raise CodecError("the order of the channels does not name each of them once")

    def to_json(self) -> dict[str, Any]:
        """The tables as a member of a calibration file."""
        return {
            "unit": self.unit_bits,
            "mean": encoded(self.mean),
            "order": encoded(self.order),
            "books": [{"words": encoded(book.words), "shift": encoded(book.shift)} for book in self.books],
        }

    @classmethod
    def from_json(cls, value: object, channels: int) -> Self:
        """Read the tables of a tensor strictly; CodecError says what is wrong."""
        match value:
            case {"unit": int(unit), "mean": str(mean), "order": str(order), "books": list(books), **others} if (
                not others and len(books) == len(SIZES)
            ):
                return cls(
                    unit,
                    decoded(mean, np.dtype("<i2"), channels),
                    decoded(order, np.dtype("<u2"), channels),
                    tuple(
                        _read_book(book, -(-channels // size), size) for book, size in zip(books, SIZES, strict=True)
                    ),
                )
        raise CodecError("clusters tables have a unit, a mean, an order and three books, and nothing else")


def _read_book(value: object, groups: int, size: int) -> Codebook:
    match value:
        case {"words": str(words), "shift": str(shift), **others} if not others:
            return Codebook(decoded(words, np.dtype("i1"), groups, WORDS, size), decoded(shift, np.dtype("u1"), groups))
    raise CodecError("a book has words and a shift, and nothing else")
