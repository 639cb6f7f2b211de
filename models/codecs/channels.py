"""A tensor as positions with channels, in integers: what the profiles pca, clusters and avc have in common.

The integers are kept in float64 where matrices are multiplied: every product and every partial sum stays below 2^53
and is therefore exact, in whatever order a library adds and on however many threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration, TensorCalibration
from models.codecs.slices import MAX_TENSORS
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, CodecError

__all__ = ["STATE_MAX", "Channels", "Rotation", "calibrated_of", "product"]

STATE_MAX = 2**15 - 1
_SMALL = 2**17
"""Multiplications in a product of matrices. Larger ones a library spreads over threads, which then spin and cost more
than they bring, here and to whatever else runs."""
_MAX_COMPONENT = 2.0**22
"""Of a component times its step, and of the sums of them; see the module's first lines."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """From channels to components, of which step 1 is 64, and back (docs/protocol.md, section 4.8).

    ``basis`` is int8 (components, channels), ``multipliers`` uint16 (components,).
    """

    basis: NDArray[np.int8]
    multipliers: NDArray[np.uint16]
    shift: int

    @cached_property
    def forward(self) -> NDArray[np.float32]:
        """From channels to components at step 1, float32 (channels, components): for the encoder."""
        basis = self.basis * (self.multipliers[:, None] * 2.0 ** (2 - self.shift))
        try:
            return np.linalg.inv(basis).astype(np.float32)
        except np.linalg.LinAlgError as error:
            raise CodecError(f"a transform that cannot be inverted: {error}") from error

    def components(self, values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """Return the first components at step 1, float32 (positions, count), of values (positions, channels)."""
        return product(values, self.forward[:, :count])

    def differences(self, symbols: NDArray[Any], step: int) -> NDArray[np.int32]:
        """Return what components stand for, int32 (positions, channels).

        Args:
            symbols: integers (positions, the first components).
            step: of them, in 1/64.
        """
        count = symbols.shape[1]
        scaled = np.clip(symbols.astype(np.float64) * step, -_MAX_COMPONENT, _MAX_COMPONENT)
        sums = product(scaled * self.multipliers[:count], self.basis[:count].astype(np.float64))
        half = 2.0 ** (self.shift - 1)
        parts = np.clip(np.floor((sums + half) / (2 * half)), -_MAX_COMPONENT, _MAX_COMPONENT)
        return np.floor((parts + 8) / 16).astype(np.int32)


def product(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Return a product of matrices, on one thread."""
    rows = max(1, _SMALL // right.size)
    parts = [left[start : start + rows] @ right for start in range(0, len(left), rows)]
    return np.concatenate(parts)


class Channels:
    """Where the elements of a tensor lie, and what integers stand for them.

    Positions are in C order of all axes but that of the channels. A state of one is 2^-``unit_bits`` above the
    channel's ``mean``, int16 (C,) in the same unit.
    """

    def __init__(self, spec: TensorSpec, axis: int, unit_bits: int, mean: NDArray[np.int16]) -> None:
        """Take the tensor, which axis is that of the channels, and the unit; CodecError when they do not fit."""
        if not spec.dtype.startswith("float"):
            raise CodecError(f"tensor {spec} is not of floating point: only the raw profiles can code it")
        if not 0 <= axis < len(spec.shape) or spec.shape[axis] != len(mean):
            raise CodecError(f"{len(mean)} calibrated channels on axis {axis} do not fit the shape {spec.shape}")
        widest = np.ldexp(np.abs(mean.astype(np.float64)).max() + STATE_MAX, -unit_bits)
        if widest > np.finfo(spec.dtype).max:
            raise CodecError(f"tensor {spec}: the tables' unit exceeds what {spec.dtype} can hold")
        self._spec, self._axis, self._unit_bits, self._mean = spec, axis, unit_bits, mean
        self.channels = len(mean)
        self.positions = spec.elements // self.channels
        after = spec.shape[axis + 1 :]
        self.height = math.prod(spec.shape[:axis]) * math.prod(after[:-1])
        """Rows of positions, of ``width`` each."""
        self.width = math.prod(after[-1:])

    def elements(self, tensor: NDArray[Any]) -> NDArray[np.float32]:
        """Return the elements in the state's unit, float32 (positions, channels), in its range. CodecError for NaN."""
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinity, which is clamped
            values = np.moveaxis(tensor, self._axis, -1).reshape(-1, self.channels).astype(np.float32)
            values = np.ldexp(values, self._unit_bits)
        values -= self._mean
        if np.isnan(values).any():
            raise CodecError(f"tensor {self._spec.name}: NaN cannot be coded")
        return np.clip(values, -STATE_MAX, STATE_MAX, out=values)

    def tensor(self, state: NDArray[Any]) -> NDArray[Any]:
        """Return the tensor, read-only, that integers (positions, channels) stand for, within the state's range."""
        sums = np.clip(state, -STATE_MAX, STATE_MAX).astype(np.int32) + self._mean
        # At most 17 digits: exact in float32, and so is the multiplication by a power of two.
        values = np.ldexp(sums.astype(np.float32), -self._unit_bits).astype(self._spec.dtype)
        others = self._spec.shape[: self._axis] + self._spec.shape[self._axis + 1 :]
        tensor = np.ascontiguousarray(np.moveaxis(values.reshape(*others, self.channels), -1, self._axis))
        tensor.flags.writeable = False
        return tensor


def calibrated_of(
    profile: str, tables: str, tensors: Sequence[TensorSpec], calibration: Calibration | None
) -> list[TensorCalibration]:
    """Return the parts of a calibration for a parameter set's tensors, which have these tables.

    BadArgument without a calibration; CodecError when there are too many tensors or tables are missing.
    """
    if not 1 <= len(tensors) <= MAX_TENSORS:
        raise CodecError(f"a frame has 1 to {MAX_TENSORS} tensors, not {len(tensors)}")
    if calibration is None:
        raise BadArgument(f"profile {profile} needs a calibration")
    parts = [calibration.of(spec.name) for spec in tensors]
    for part in parts:
        if part.missing(tables):
            raise CodecError(
                f"no {tables} tables for tensor {part.name}: make them with `splitrtc calibrate --profile {profile}`"
            )
    return parts
