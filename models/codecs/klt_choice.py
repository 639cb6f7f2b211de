"""What the encoder of the klt profiles is free to choose: kinds of blocks, and coefficients.

Nothing here is part of the protocol: it weighs bits against error, in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.codecs.klt_plane import Plane, step_of
from models.codecs.klt_slices import SKIPPED, classes_of, kind_of
from models.codecs.klt_tables import CLASSES, ESCAPE, GAINS, SCALES, TOTAL

__all__ = ["CALM", "MOVING", "Chooser", "Chosen"]

MOVING = 0.1
"""Weight of a bit in intra frames and where much moves."""
CALM = 0.15
"""Weight where little moves: what is not sent now is often not needed later either."""

MAX_SYMBOL = 2**20
"""The widest coefficient, well within what escapes can write; the state clamps what such a one stands for."""
_MARGIN = max(map(abs, SCALES))
_DEAD_ZONE = 0.15
"""By how much a coefficient must exceed the middle between two sizes, in steps, while kinds are compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """A tensor's choice: kinds int32 (blocks,), symbols int32 (positions, components), bits of each block."""

    kinds: NDArray[np.int32]
    symbols: NDArray[np.int32]
    bits: NDArray[np.float32]


class _Prices(NamedTuple):
    """Bits at one step of one transform.

    ``classes`` is int32 (2, frequencies, components). ``zeros``, float32 (2, scales, blocks), is for blocks that are
    all zero, and ``more``, float32 (2, classes, ESCAPE + 1), what another size costs above that. Its classes are so
    many that whatever scale is added to one of ``classes``, it is there.
    """

    classes: NDArray[np.int32]
    zeros: NDArray[np.float32]
    more: NDArray[np.float32]


class Chooser:
    """Chooses for the frames of one tensor."""

    def __init__(self, plane: Plane, transform: int) -> None:
        """Take the tensor, and the number of the transform to use."""
        self.weight = np.float32(MOVING)
        """What a bit is worth, in squared steps of error: the Lagrange multiplier."""
        self._plane = plane
        self._transform = plane.tables.transforms[transform]
        self._lengths = np.diff(plane.starts)
        self._block = np.repeat(np.arange(plane.blocks), self._lengths)
        self._prices = lru_cache(maxsize=8)(self._make_prices)
        self._kind_bits = [(-np.log2(weights / TOTAL)).astype(np.float32) for weights in plane.tables.kinds]

    def choose(self, values: NDArray[np.float32], reference: NDArray[np.int16] | None, step: int) -> Chosen:
        """Choose for a frame: its values in the state's unit, the state to predict from, the step's code."""
        prices = self._prices(step)
        per_step = np.float32(64 / step_of(step))
        modes = [self._plane.analyse(values, self._transform) * per_step]
        intra = reference is None
        if reference is not None:
            other = self._plane.analyse(reference.astype(np.float32), self._transform) * per_step
            modes += [modes[0] - other * np.float32(gain / 256) for gain in GAINS]
        costs = np.concatenate([self._costs(mode, a, prices, intra) for mode, a in enumerate(modes)])
        best = costs.argmin(0)
        cost = costs.min(0)
        mode, scale = np.divmod(best, len(SCALES))
        kinds: NDArray[np.int32] = np.asarray(kind_of(mode, scale, intra), np.int32)
        if not intra:
            skipped = self._sums((modes[1] ** 2).sum(-1)) + self.weight * self._kind_bits[1][SKIPPED]
            skip = skipped <= cost
            kinds[skip] = SKIPPED
        coefficients = np.stack(modes)[mode[self._block], np.arange(self._plane.positions)]
        symbols, bits = self._quantise(coefficients, np.minimum(mode, 1), scale, prices)
        if not intra:
            symbols[skip[self._block]] = 0
            bits[skip] = 0
        return Chosen(kinds, symbols, bits + self._kind_bits[not intra][kinds])

    def _make_prices(self, step: int) -> _Prices:
        transform = self._transform
        classes = classes_of(transform, step_of(step))
        sizes = -np.log2(transform.weights / np.float32(TOTAL))
        frequency = self._plane.frequency[transform.edge]
        zeros = np.empty((2, len(SCALES), self._plane.blocks), np.float32)
        for use in range(2):
            for place, scale in enumerate(SCALES):
                of_frequency = sizes[use, np.clip(classes[use] + scale, 0, CLASSES - 1), 0].sum(-1)
                zeros[use, place] = np.add.reduceat(of_frequency[frequency], self._plane.starts[:-1])
        # A class beyond the last table uses that one, before and after a scale is added: up to `_MARGIN` it can return.
        classes = np.clip(classes, -_MARGIN, CLASSES - 1 + _MARGIN) + 2 * _MARGIN
        rows = np.clip(np.arange(CLASSES + 4 * _MARGIN) - 2 * _MARGIN, 0, CLASSES - 1)
        more = (sizes - sizes[..., :1])[:, rows].astype(np.float32)
        return _Prices(classes, zeros, more)

    def _sums(self, of_position: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sums over the positions of each block."""
        return np.add.reduceat(of_position, self._plane.starts[:-1])

    def _costs(self, mode: int, coefficients: NDArray[np.float32], prices: _Prices, intra: bool) -> NDArray[np.float32]:
        """Return what each block costs with each scale in a mode: float32 (scales, blocks)."""
        use = min(mode, 1)
        size = np.abs(coefficients)
        error = self._sums(np.einsum("pk,pk->p", size, size))
        position, component = np.nonzero(size >= 0.5 + _DEAD_ZONE)
        size = size[position, component]
        symbol = np.floor(size + (0.5 - _DEAD_ZONE))
        block = self._block[position]
        gained = size * size - (size - symbol) ** 2
        error -= np.bincount(block, gained, self._plane.blocks).astype(np.float32)
        classes = prices.classes[use, self._plane.frequency[self._transform.edge][position], component]
        place, escaped = _places(classes, symbol)
        more = prices.more[use].reshape(-1)
        costs = np.empty((len(SCALES), self._plane.blocks), np.float32)
        for number, scale in enumerate(SCALES):
            price = more[place + scale * (ESCAPE + 1)] + escaped
            bits = np.bincount(block, price, self._plane.blocks) + prices.zeros[use, number]
            costs[number] = error + self.weight * (bits + self._kind_bits[not intra][kind_of(mode, number, intra)])
        return costs

    def _quantise(
        self,
        coefficients: NDArray[np.float32],
        use: NDArray[np.intp],
        scale: NDArray[np.intp],
        prices: _Prices,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the symbols of all coefficients, given what their blocks are, and the bits of each block."""
        magnitude = np.abs(coefficients)
        position, component = np.nonzero(magnitude >= 0.5)
        size = np.minimum(magnitude[position, component], MAX_SYMBOL)
        block = self._block[position]
        frequency = self._plane.frequency[self._transform.edge][position]
        classes = prices.classes[use[block], frequency, component] + np.array(SCALES, np.int32)[scale[block]]
        more = prices.more.reshape(-1)
        offset = use[block] * prices.more[0].size
        nearest = np.floor(size + 0.5)
        best, bits, cost = np.zeros_like(size), np.zeros_like(size), size * size
        for candidate in (nearest - 1, nearest):
            place, escaped = _places(classes, candidate)
            price = more[offset + place] + escaped
            total = (size - candidate) ** 2 + self.weight * price
            better = total < cost
            best, bits, cost = (np.where(better, *pair) for pair in ((candidate, best), (price, bits), (total, cost)))
        symbols = np.zeros(coefficients.shape, np.int32)
        symbols[position, component] = np.copysign(best, coefficients[position, component])
        zeros = prices.zeros[use, scale, np.arange(self._plane.blocks)]
        return symbols, (zeros + np.bincount(block, bits, self._plane.blocks)).astype(np.float32)


def _places(classes: NDArray[np.int32], sizes: NDArray[np.float32]) -> tuple[NDArray[np.int32], Any]:
    """Return where in `_Prices.more` the prices of coefficients are, and what escapes cost on top."""
    escaped: Any = 0.0
    if sizes.size and sizes.max() >= ESCAPE:
        # Five bits for the number of digits, and the digits after the first.
        excess = np.maximum(sizes - (ESCAPE - 1), 1)
        escaped = np.where(sizes >= ESCAPE, 4 + np.frexp(excess)[1], 0).astype(np.float32)
        sizes = np.minimum(sizes, ESCAPE)
    return classes * (ESCAPE + 1) + sizes.astype(np.int32), escaped
