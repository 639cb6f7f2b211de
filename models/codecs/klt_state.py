"""What a receiver of the klt profiles has after a frame, as a function of what it had before and of what arrived.

The decoder applies it to what it gets, and the encoder to what it knows the decoder to have got: one and the same
arithmetic, in integers, so that both agree to the bit (docs/protocol.md, section 4.6).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.codecs.klt_plane import STATE_MAX, Plane
from models.codecs.klt_slices import SKIPPED, STEP_SIZES, Coefficients, codes_of, mode_of
from models.codecs.klt_tables import GAINS

__all__ = ["Content", "State"]

State = tuple[NDArray[np.int16], ...]
"""Of each tensor of the parameter set, int16 (positions, channels); never written to."""

_GAIN_OF_MODE = np.array([0, *GAINS], np.int32)


class Content:
    """What a frame's slices say."""

    def __init__(self, planes: Sequence[Plane], pieces: Sequence[Coefficients | None], intra: bool) -> None:
        """Take the slices by index, None where one is missing; ``intra`` as the sender said of the frame."""
        self._planes = planes
        self._pieces = pieces
        self._intra = intra
        self._differences = [self._difference(number) for number in range(len(planes))]

    @property
    def slices(self) -> int:
        """How many slices the frame has."""
        return len(self._pieces)

    @property
    def skipped(self) -> float:
        """Share of blocks that are skipped."""
        kinds = [] if self._intra else [piece.kinds for piece in self._pieces if piece is not None]
        return float(np.mean(np.concatenate(kinds) == SKIPPED)) if kinds else 0.0

    def _difference(self, number: int) -> NDArray[np.int32]:
        """What the coefficients of a tensor add to its state."""
        plane = self._planes[number]
        total = np.zeros((plane.positions, plane.channels), np.int32)
        for place, transform in enumerate(plane.tables.transforms):
            pieces = [p for p in self._pieces if p is not None and (p.tensor, p.transform) == (number, place)]
            if not pieces:
                continue
            symbols = np.zeros(total.shape, np.int32)
            steps = np.zeros(plane.positions, np.int64)
            for piece in pieces:
                rows = plane.rows(piece.first, len(piece.kinds))
                symbols[rows] = piece.symbols
                steps[rows] = np.repeat(
                    STEP_SIZES[codes_of(piece.step, piece.offsets)], plane.lengths(piece.first, len(piece.kinds))
                )
            total += plane.synthesise(symbols, steps, transform)
        return total

    def onto(self, base: State | None, latest: State | None, received: Sequence[bool] | None = None) -> State:
        """Return the state after this frame.

        Args:
            base: of the frame that it was predicted from; None for a blank one.
            latest: after the frame that the receiver took in last: what missing blocks are concealed with.
            received: which slices arrived, by index; None for all that there are.
        """
        states = []
        for number, plane in enumerate(self._planes):
            state = plane.blank() if latest is None else latest[number].copy()
            for index, piece in enumerate(self._pieces):
                if piece is None or piece.tensor != number or not (received is None or received[index]):
                    continue
                rows = plane.rows(piece.first, len(piece.kinds))
                sums = self._differences[number][rows]
                if not self._intra and base is not None:
                    gains = np.repeat(self._gains(piece.kinds), plane.lengths(piece.first, len(piece.kinds)))
                    sums = sums + ((base[number][rows] * gains[:, None] + 128) >> 8)
                state[rows] = np.clip(sums, -STATE_MAX, STATE_MAX)
            state.flags.writeable = False
            states.append(state)
        return tuple(states)

    @staticmethod
    def _gains(kinds: NDArray[np.int32]) -> NDArray[np.int32]:
        """What blocks of a predicted frame take of their reference, in 1/256."""
        mode, _ = mode_of(kinds, intra=False)
        return np.where(kinds == SKIPPED, GAINS[0], _GAIN_OF_MODE[mode])
