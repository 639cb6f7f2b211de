"""One tensor of the klt profiles: its blocks, and from coefficients to elements in integers (docs/protocol.md, 4.6).

The integers are kept in float64 where matrices are multiplied: every product and every partial sum stays below 2^53
and is therefore exact, in whatever order a library adds and on however many threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.klt_tables import BLOCK, KltTables, KltTransform
from models.tensor import TensorSpec
from splitrtc_errors import CodecError

__all__ = ["CODES", "STATE_MAX", "Plane", "step_of"]

STATE_MAX = 2**15 - 1
CODES = 256
"""Codes of steps."""
MAX_COEFFICIENT = 2.0**22
"""Of a coefficient times its step, and of a component before the DCT; see the module's first lines."""

SMALL = 2**17
"""Multiplications in a product of matrices. Larger ones a library spreads over threads, which then spin and cost more
than they bring, here and to whatever else runs."""

DCT = {
    1: [[1024]],
    2: [[724, 724], [724, -724]],
    3: [[591, 591, 591], [724, 0, -724], [418, -836, 418]],
    4: [[512, 512, 512, 512], [669, 277, -277, -669], [512, -512, -512, 512], [277, -669, 669, -277]],
}
"""Basis vectors of the DCT by frequency, times 1024, for edges of 1 to 4 positions."""


def step_of(code: int) -> int:
    """Return the step that a code, 0 to 255, stands for, in 1/64: sixteen to an octave, from 1/4."""
    return (16 + code % 16) << code // 16


class Plane:
    """Where the elements of a tensor lie in its blocks, and the arithmetic between coefficients and elements.

    A state is int16 (positions, channels), the positions block after block, in C order within a block.
    """

    def __init__(self, spec: TensorSpec, axis: int, tables: KltTables) -> None:
        """Take the tensor, which axis is that of the channels, and the tables; CodecError when they do not fit."""
        if not spec.dtype.startswith("float"):
            raise CodecError(f"tensor {spec} is not of floating point: only the raw profiles can code it")
        if not 0 <= axis < len(spec.shape) or spec.shape[axis] != len(tables.mean):
            raise CodecError(f"{len(tables.mean)} calibrated channels on axis {axis} do not fit the shape {spec.shape}")
        self.tables = tables
        self._spec = spec
        after = spec.shape[axis + 1 :]
        self._view = (math.prod(spec.shape[:axis]), spec.shape[axis], math.prod(after[:-1]), math.prod(after[-1:]))
        self.channels = spec.shape[axis]
        self.height, self.width = self._view[0] * self._view[2], self._view[3]
        rows, columns = -(-self.height // BLOCK), -(-self.width // BLOCK)
        self.blocks = rows * columns
        y, x = np.divmod(np.arange(self.height * self.width), self.width)
        block = y // BLOCK * columns + x // BLOCK
        self._raster = np.argsort(block, kind="stable")
        """Of each position, block after block, the place in C order of the tensor."""
        self._back = np.argsort(self._raster, kind="stable")
        self.starts = np.concatenate(([0], np.cumsum(np.bincount(block, minlength=self.blocks))))
        """First position of each block, and the number of positions."""
        frequency = (y % BLOCK * BLOCK + x % BLOCK)[self._raster]
        self.frequency = {BLOCK: frequency, 1: np.zeros_like(frequency)}
        """Of each position, which rotation its coefficients use, by the transform's edge."""
        rows = max(1, SMALL // self.channels**2)
        self._members = {
            edge: [
                (f, members[start : start + rows])
                for f, members in ((f, np.flatnonzero(which == f)) for f in range(edge * edge))
                for start in range(0, len(members), rows)
            ]
            for edge, which in self.frequency.items()
        }
        """Frequencies, and positions that have them."""
        low, high = (np.ldexp(np.float64(tables.mean + sign * STATE_MAX), -tables.unit_bits) for sign in (-1, 1))
        limit = float(np.finfo(spec.dtype).max)
        if max(np.abs(low).max(), np.abs(high).max()) > limit:
            raise CodecError(f"tensor {spec}: the tables' unit exceeds what {spec.dtype} can hold")

    @property
    def positions(self) -> int:
        """How many positions a frame has."""
        return int(self.starts[-1])

    def blank(self) -> NDArray[np.int16]:
        """The state as long as nothing is known: every element at its channel's mean."""
        return np.zeros((self.positions, self.channels), np.int16)

    def rows(self, first: int, blocks: int) -> slice:
        """The positions of a run of blocks."""
        return slice(int(self.starts[first]), int(self.starts[first + blocks]))

    def lengths(self, first: int, blocks: int) -> NDArray[np.intp]:
        """How many positions each of a run of blocks has."""
        return np.diff(self.starts[first : first + blocks + 1])

    # From elements to coefficients: the encoder's own business, in floating point.

    def elements(self, tensor: NDArray[Any]) -> NDArray[np.float32]:
        """Return the elements in the state's unit and order, clamped to its range. CodecError for NaN."""
        with np.errstate(over="ignore"):
            values = np.ldexp(self.ordered(tensor), self.tables.unit_bits)
        values -= self.tables.mean
        if np.isnan(values).any():
            raise CodecError(f"tensor {self._spec.name}: NaN cannot be coded")
        return np.clip(values, -STATE_MAX, STATE_MAX, out=values)

    def ordered(self, tensor: NDArray[Any]) -> NDArray[np.float32]:
        """Return the elements of a tensor in the order of a state, float32 (positions, channels)."""
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinity, which is clamped
            values = tensor.astype(np.float32, copy=False).reshape(self._view)
        ordered: NDArray[np.float32] = np.moveaxis(values, 1, -1).reshape(-1, self.channels)[self._raster]
        return ordered

    def analyse(self, values: NDArray[np.float32], transform: KltTransform) -> NDArray[np.float32]:
        """Return the coefficients at step 1, float32 (positions, components), of values in the state's unit."""
        if transform.edge == BLOCK:
            values = self._along_both(values, forward=True) * np.float32(2.0**-20)
        coefficients = np.empty_like(values)
        for f, members in self._members[transform.edge]:
            coefficients[members] = values[members] @ transform.forward[f]
        return coefficients

    # From coefficients to elements: the same on all machines.

    def synthesise(
        self, symbols: NDArray[np.int32], steps: NDArray[np.int64], transform: KltTransform
    ) -> NDArray[np.int32]:
        """Return what coefficients add to a state, int32 (positions, channels).

        Args:
            symbols: int32 (positions, components).
            steps: of each position, in 1/64.
            transform: that the coefficients are of.
        """
        half = 2.0 ** (transform.shift - 1)
        parts = np.zeros(symbols.shape)
        used = np.asarray(symbols.any(1))
        for f, members in self._members[transform.edge]:
            rows = members[used[members]]
            if rows.size:
                scaled = np.clip(symbols[rows] * steps[rows, None], -MAX_COEFFICIENT, MAX_COEFFICIENT)
                sums = (scaled * transform.multipliers[f]) @ transform.basis[f].astype(np.float64)
                parts[rows] = np.floor((sums + half) / (2 * half))
        np.clip(parts, -MAX_COEFFICIENT, MAX_COEFFICIENT, out=parts)
        if transform.edge == BLOCK:
            parts = self._along_both(parts, forward=False)
            return np.floor((parts + 2.0**23) / 2.0**24).astype(np.int32)
        return np.floor((parts + 8) / 16).astype(np.int32)

    def _along_both(self, values: NDArray[Any], forward: bool) -> NDArray[Any]:
        """The DCT, or its transpose, along rows and columns; values are, and come back, block after block."""
        rows = _along(values[self._back].reshape(self.height, -1), forward)
        turned = rows.reshape(self.height, self.width, -1).transpose(1, 0, 2).reshape(self.width, -1)
        both = _along(turned, forward).reshape(self.width, self.height, -1).transpose(1, 0, 2)
        result: NDArray[Any] = both.reshape(-1, self.channels)[self._raster]
        return result

    def tensor(self, state: NDArray[np.int16]) -> NDArray[Any]:
        """Return a state as a tensor, read-only."""
        sums = (state.astype(np.int32) + self.tables.mean)[self._back]
        # At most 17 digits: exact in float32, and so is the multiplication by a power of two.
        values = np.ldexp(sums.astype(np.float32), -self.tables.unit_bits).astype(self._spec.dtype)
        outer, channels, middle, inner = self._view
        tensor = np.moveaxis(values.reshape(outer, middle, inner, channels), -1, 1).reshape(self._spec.shape)
        tensor.flags.writeable = False
        return tensor


def _along(values: NDArray[Any], forward: bool) -> NDArray[Any]:
    """The DCT, times 1024, of all blocks along the first dimension, or with ``forward`` off its transpose."""
    result = np.empty_like(values)
    whole = len(values) // BLOCK * BLOCK
    for part, edge in ((slice(0, whole), BLOCK), (slice(whole, None), len(values) - whole)):
        if edge and values[part].size:
            matrix = np.array(DCT[edge], values.dtype)
            blocks = values[part].reshape(-1, edge, values.shape[1])
            result[part] = ((matrix if forward else matrix.T) @ blocks).reshape(-1, values.shape[1])
    return result
