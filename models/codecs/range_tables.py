"""How often each code of a channel comes up: what the range profiles know beforehand (docs/protocol.md, section 4.7).

The tables are a part of the calibration file. They count 8-bit codes; those of fewer bits follow from them in integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.codecs.arrays import decoded, encoded
from models.codecs.klt_tables import TOTAL
from splitrtc_errors import CodecError

__all__ = ["CODES", "MAX_TABLES", "RangeTables"]

CODES = 256
MAX_TABLES = 16
"""Channels with a similar distribution share a table, which keeps the file small."""


@dataclass(frozen=True, slots=True, eq=False)
class RangeTables:
    """``table`` is uint8 (C,), the table of each channel; ``weights`` uint16 (tables, 256), of the 8-bit codes."""

    table: NDArray[np.uint8]
    weights: NDArray[np.uint16]

    def __post_init__(self) -> None:
        """Refuse what cannot be used, with CodecError."""
        if int(self.table.max()) >= len(self.weights):
            raise CodecError(f"a channel's table is number {self.table.max()}, of {len(self.weights)}")
        if self.weights.min() < 1 or (self.weights.sum(-1, dtype=np.int64) != TOTAL).any():
            raise CodecError(f"a table's weights are at least 1, their sum {TOTAL}")

    def of_bits(self, bits: int) -> NDArray[np.uint16]:
        """Return the weights of codes of 2 to 8 bits, uint16 (tables, 2^bits): the sums of those that are nearest."""
        highest = 2**bits - 1
        nearest = (2 * np.arange(CODES) * highest + CODES - 1) // (2 * (CODES - 1))
        weights = np.zeros((len(self.weights), highest + 1), np.uint16)
        np.add.at(weights.T, nearest, self.weights.T)
        return weights

    def to_json(self) -> dict[str, Any]:
        """The tables as a member of a calibration file."""
        return {"table": encoded(self.table), "weights": [encoded(row) for row in self.weights]}

    @classmethod
    def from_json(cls, value: object, channels: int) -> Self:
        """Read the tables of a tensor strictly; CodecError says what is wrong."""
        match value:
            case {"table": str(table), "weights": list(rows), **others} if (
                not others and 1 <= len(rows) <= MAX_TABLES and all(isinstance(row, str) for row in rows)
            ):
                weights = np.stack([decoded(row, np.dtype("<u2"), CODES) for row in rows])
                return cls(decoded(table, np.dtype("u1"), channels), weights)
        raise CodecError(f"range tables have a table and 1 to {MAX_TABLES} lists of weights, and nothing else")
