"""Uniform quantisation of floating-point tensors to 2 to 8, or 16 bits (docs/protocol.md, section 4.2).

Encoder and decoder of different makers must agree to the bit, so every operation here is one float32 operation,
rounded once. numpy neither fuses nor widens them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitrtc_errors import CodecError

__all__ = ["Quantiser", "pack_nibbles", "steps", "unpack_nibbles"]


def steps(low: NDArray[np.float32], high: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Return the distance between two codes of ``bits`` bits for every channel, float32 (C,), all at least 0.

    CodecError unless low and high are finite, low <= high, and every code stands for a finite value.
    """
    levels = np.float32(2**bits - 1)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise CodecError("a channel's range needs finite ends, low <= high")
    with np.errstate(over="ignore", invalid="ignore"):
        step: NDArray[np.float32] = (high - low) / levels
        # Values grow with their codes, so the highest one speaks for all. Rounding may carry it past `high`.
        finite = np.isfinite(low + levels * step).all()
    if not finite:
        raise CodecError("a channel's range is too wide for float32")
    return step


class Quantiser:
    """Quantises one tensor with a range per channel."""

    def __init__(
        self, bits: int, shape: Sequence[int], axis: int, low: NDArray[np.float32], high: NDArray[np.float32]
    ) -> None:
        """Take the code's width (2 to 8, or 16), the tensor's shape, the channels' axis and their ranges, float32 (C,).

        CodecError when the ranges do not fit the shape or cannot be coded.
        """
        if not 0 <= axis < len(shape) or low.shape != (shape[axis],) or high.shape != (shape[axis],):
            raise CodecError(f"{low.size} calibrated channels on axis {axis} do not fit the shape {tuple(shape)}")
        self._view = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
        levels = np.float32(2**bits - 1)
        self.stored: np.dtype[Any] = np.dtype(np.uint8 if bits <= 8 else np.uint16)
        """Element type of the codes."""
        step = steps(low, high, bits)
        self.top: NDArray[np.float32] = low + levels * step
        """What the highest code of each channel stands for, float32 (C,); the lowest stands for ``low``."""
        self._low = low.reshape(1, -1, 1)
        self._step = step.reshape(1, -1, 1)
        # Where the step is zero, the only code is 0: a divisor of 1 and a highest code of 0 bring that about.
        self._divisor = np.where(step == 0, np.float32(1), step).reshape(1, -1, 1)
        self._highest = np.where(step == 0, np.float32(0), levels).reshape(1, -1, 1)

    def codes(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Return the codes of all elements, ``stored`` (N,), in C order. CodecError when one is not a number."""
        # Whatever overflows is out of range and clamped as infinity.
        with np.errstate(over="ignore"):
            scaled = values.reshape(self._view) - self._low
            scaled /= self._divisor
        if np.isnan(scaled).any():
            raise CodecError("NaN cannot be coded")
        np.rint(scaled, out=scaled)
        np.maximum(scaled, 0, out=scaled)
        np.minimum(scaled, self._highest, out=scaled)
        return scaled.astype(self.stored).reshape(-1)

    def values(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the codes of all elements stand for, float32 (N,)."""
        values = codes.reshape(self._view) * self._step
        values += self._low
        return values.reshape(-1)

    def spread(self, per_channel: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one value per element, float32 (N,), from one per channel, float32 (C,)."""
        return np.broadcast_to(per_channel.reshape(1, -1, 1), self._view).reshape(-1)


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put two 4-bit codes into each byte, the first one high; an odd last byte has zero in its low bits."""
    packed = np.left_shift(codes[0::2], 4)
    packed[: codes.size // 2] |= codes[1::2]
    return packed


def unpack_nibbles(packed: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Write the codes that ``packed``, of ceil(len(out) / 2) bytes, holds to ``out``.

    CodecError when an odd last byte has more than its code.
    """
    if out.size % 2 and packed[-1] & 15:
        raise CodecError("the unused half of the last byte is not zero")
    np.right_shift(packed, 4, out=out[0::2])
    np.bitwise_and(packed[: out.size // 2], 15, out=out[1::2])
