"""What the encoder of the klt profiles is free to choose: kinds of blocks, and coefficients.

Nothing here is part of the protocol: it weighs bits against error, in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.klt_plane import CODES, Plane
from models.codecs.klt_slices import SKIPPED, STEP_SIZES, classes_of, codes_of, kind_of
from models.codecs.klt_tables import CLASSES, ESCAPE, GAINS, OFFSETS, SCALES, TOTAL

__all__ = ["Chooser", "Chosen"]

WEIGHT = np.float32(0.14)
"""What a bit is worth, in squared steps of error: the Lagrange multiplier."""

MAX_SYMBOL = 2**20
"""The widest coefficient, well within what escapes can write; the state clamps what such a one stands for."""
_NEUTRAL = OFFSETS.index(0)
_ADDED = classes_of(np.arange(len(SCALES))[:, None], np.arange(CODES))
_LOWEST, _HIGHEST = int(_ADDED.min()), int(_ADDED.max())
"""What scales and steps add to a level at least, and at most."""
_DEAD_ZONE = 0.15
"""By how much a coefficient must exceed the middle between two sizes, in steps, while kinds are compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """A tensor's choice: kinds and offsets int32 (blocks,), symbols int32 (positions, components), bits of blocks."""

    kinds: NDArray[np.int32]
    offsets: NDArray[np.int32]
    symbols: NDArray[np.int32]
    bits: NDArray[np.float32]


class Chooser:
    """Chooses for the frames of one tensor."""

    def __init__(self, plane: Plane, transform: int) -> None:
        """Take the tensor, and the number of the transform to use."""
        self._plane = plane
        self._transform = plane.tables.transforms[transform]
        self._lengths = np.diff(plane.starts)
        self._block = np.repeat(np.arange(plane.blocks), self._lengths)
        self._frequency = plane.frequency[self._transform.edge]
        self._kind_bits = [_bits_of(weights) for weights in plane.tables.kinds]
        self._offset_bits = [_bits_of(weights) for weights in plane.tables.offsets]
        # A class is a level and what scale and step add to it, clamped to the tables there are: here they go on.
        levels = self._transform.levels.astype(np.int32)
        added = np.arange(_LOWEST, _HIGHEST + 1)
        rows = np.clip(np.arange(levels.min() + _LOWEST, levels.max() + _HIGHEST + 1), 0, CLASSES - 1)
        sizes = _bits_of(self._transform.weights)[:, rows]
        self._classes = levels - levels.min()
        """Of levels, the row of `_more` when what is added is `_LOWEST`."""
        self._more = (sizes - sizes[..., :1]).reshape(2, -1)
        """What sizes cost above zero: float32 (2, rows * (ESCAPE + 1))."""
        apart = np.array(SCALES) - SCALES[0]
        places = np.arange(self._more.shape[1] - apart[-1] * (ESCAPE + 1))[:, None] + apart * (ESCAPE + 1)
        self._at_scales = self._more[:, places]
        """The same with each of the scales, for the row of the first: float32 (2, ., scales)."""
        shares = np.zeros((self._transform.frequencies, plane.blocks), np.float32)
        np.add.at(shares, (self._frequency, self._block), 1)
        zeros = sizes[np.arange(2)[:, None, None, None], self._classes[:, None] + added[:, None, None] - _LOWEST, 0]
        self._zeros = zeros.sum(-1) @ shares
        """What blocks that are all zero cost, float32 (2, what is added, blocks)."""

    def choose(self, values: NDArray[np.float32], reference: NDArray[np.int16] | None, step: int) -> Chosen:
        """Choose for a frame: its values in the state's unit, the state to predict from, the step's code."""
        intra = reference is None
        offsets = self._offsets(values)
        codes = codes_of(step, offsets)
        added = classes_of(np.arange(len(SCALES))[:, None], codes) - _LOWEST
        per_step = (64 / STEP_SIZES[codes]).astype(np.float32)[self._block, None]
        modes = [self._plane.analyse(values, self._transform) * per_step]
        if reference is not None:
            other = self._plane.analyse(reference.astype(np.float32), self._transform) * per_step
            modes += [modes[0] - other * np.float32(gain / 256) for gain in GAINS]
        costs = np.concatenate([self._costs(mode, a, added, intra) for mode, a in enumerate(modes)])
        best = costs.argmin(0)
        mode, scale = np.divmod(best, len(SCALES))
        kinds: NDArray[np.int32] = np.asarray(kind_of(mode, scale, intra), np.int32)
        blocks = np.arange(self._plane.blocks)
        coefficients = np.stack(modes)[mode[self._block], np.arange(self._plane.positions)]
        symbols, bits = self._quantise(coefficients, np.minimum(mode, 1), added[scale, blocks])
        bits += self._offset_bits[not intra][offsets]
        if not intra:
            cost = costs.min(0) + WEIGHT * self._offset_bits[1][offsets]
            skipped = self._sums((modes[1] ** 2).sum(-1)) + WEIGHT * self._kind_bits[1][SKIPPED]
            skip = skipped <= cost
            kinds[skip], offsets[skip], bits[skip] = SKIPPED, 0, 0
            symbols[skip[self._block]] = 0
        return Chosen(kinds, offsets, symbols, bits + self._kind_bits[not intra][kinds])

    def _offsets(self, values: NDArray[np.float32]) -> NDArray[np.int32]:
        """By how much each block's step differs from the frame's: finer ones for what the tail will care for."""
        finer = self._sums(values @ self._plane.tables.salience) / self._lengths
        return np.clip(np.rint(_NEUTRAL - finer), 0, len(OFFSETS) - 1).astype(np.int32)

    def _sums(self, of_position: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sums over the positions of each block."""
        return np.add.reduceat(of_position, self._plane.starts[:-1])

    def _costs(
        self, mode: int, coefficients: NDArray[np.float32], added: NDArray[np.int32], intra: bool
    ) -> NDArray[np.float32]:
        """Return what each block costs with each scale in a mode, float32 (scales, blocks), as ``added`` is."""
        use = min(mode, 1)
        size = np.abs(coefficients)
        error = self._sums(np.einsum("pk,pk->p", size, size))
        position, component = np.nonzero(size >= 0.5 + _DEAD_ZONE)
        size = size[position, component]
        symbol = np.floor(size + (0.5 - _DEAD_ZONE))
        block = self._block[position]
        gained = size * size - (size - symbol) ** 2
        error -= np.bincount(block, gained, self._plane.blocks).astype(np.float32)
        classes = self._classes[use, self._frequency[position], component] + added[0][block]
        place, escaped = _places(classes, symbol)
        bits = self._zeros[use, added, np.arange(self._plane.blocks)]
        if block.size:
            prices = self._at_scales[use].take(place, 0) + np.reshape(escaped, (-1, 1))
            # They are in the order of blocks.
            some, first = np.unique(block, return_index=True)
            bits[:, some] += np.add.reduceat(prices, first).T
        kinds = [kind_of(mode, number, intra) for number in range(len(SCALES))]
        costs: NDArray[np.float32] = error + WEIGHT * (bits + self._kind_bits[not intra][kinds][:, None])
        return costs

    def _quantise(
        self, coefficients: NDArray[np.float32], use: NDArray[np.intp], added: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the symbols of all coefficients, given what their blocks are, and the bits of each block."""
        magnitude = np.abs(coefficients)
        position, component = np.nonzero(magnitude >= 0.5)
        size = np.minimum(magnitude[position, component], MAX_SYMBOL)
        block = self._block[position]
        classes = self._classes[use[block], self._frequency[position], component] + added[block]
        more = self._more.reshape(-1)
        offset = use[block] * self._more[0].size
        nearest = np.floor(size + 0.5)
        best, bits, cost = np.zeros_like(size), np.zeros_like(size), size * size
        for candidate in (nearest - 1, nearest):
            place, escaped = _places(classes, candidate)
            price = more[offset + place] + escaped
            total = (size - candidate) ** 2 + WEIGHT * price
            better = total < cost
            best, bits, cost = (np.where(better, *pair) for pair in ((candidate, best), (price, bits), (total, cost)))
        symbols = np.zeros(coefficients.shape, np.int32)
        symbols[position, component] = np.copysign(best, coefficients[position, component])
        zeros = self._zeros[use, added, np.arange(self._plane.blocks)]
        return symbols, (zeros + np.bincount(block, bits, self._plane.blocks)).astype(np.float32)


def _bits_of(weights: NDArray[np.uint16]) -> NDArray[np.float32]:
    return np.asarray(-np.log2(weights / np.float32(TOTAL)), np.float32)


def _places(classes: NDArray[np.int32], sizes: NDArray[np.float32]) -> tuple[NDArray[np.int32], Any]:
    """Return where in `Chooser._more` the prices of coefficients are, and what escapes cost on top."""
    escaped: Any = 0.0
    if sizes.size and sizes.max() >= ESCAPE:
        # Five bits for the number of digits, and the digits after the first.
        excess = np.maximum(sizes - (ESCAPE - 1), 1)
        escaped = np.where(sizes >= ESCAPE, 4 + np.frexp(excess)[1], 0).astype(np.float32)
        sizes = np.minimum(sizes, ESCAPE)
    return classes * (ESCAPE + 1) + sizes.astype(np.int32), escaped
