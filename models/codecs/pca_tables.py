"""What the profile pca knows of a tensor beforehand: its principal components (docs/protocol.md, section 4.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.codecs.arrays import decoded, encoded
from models.codecs.klt_tables import MAX_CHANNELS, MAX_MULTIPLIER, MAX_SHIFT, MAX_UNIT_BITS
from splitrtc_errors import CodecError

__all__ = ["PcaTables"]


@dataclass(frozen=True, slots=True, eq=False)
class PcaTables:
    """Components of falling variance, and the unit and mean of `models.codecs.channels.Channels`.

    ``basis`` is int8 (components, channels), ``multipliers`` uint16 (components,), ``shift`` how many binary digits of
    their product are fractional. They are so that the widest component has sizes of up to 127 at step 1.
    """

    unit_bits: int
    mean: NDArray[np.int16]
    basis: NDArray[np.int8]
    multipliers: NDArray[np.uint16]
    shift: int

    def __post_init__(self) -> None:
        """Refuse what cannot be used, with CodecError."""
        if not -MAX_UNIT_BITS <= self.unit_bits <= MAX_UNIT_BITS or not 1 <= self.shift <= MAX_SHIFT:
            raise CodecError(f"a unit of 2^-{self.unit_bits}, a shift of {self.shift}: beyond their limits")
        if len(self.mean) > MAX_CHANNELS:
            raise CodecError(f"{len(self.mean)} channels, more than {MAX_CHANNELS}")
        if not 1 <= int(self.multipliers.min()) <= int(self.multipliers.max()) <= MAX_MULTIPLIER:
            raise CodecError(f"a transform's multipliers are 1 to {MAX_MULTIPLIER}")

    def to_json(self) -> dict[str, Any]:
        """The tables as a member of a calibration file."""
        return {
            "unit": self.unit_bits,
            "mean": encoded(self.mean),
            "basis": encoded(self.basis),
            "multipliers": encoded(self.multipliers),
            "shift": self.shift,
        }

    @classmethod
    def from_json(cls, value: object, channels: int) -> Self:
        """Read the tables of a tensor strictly; CodecError says what is wrong."""
        match value:
            case {
                "unit": int(unit),
                "mean": str(mean),
                "basis": str(basis),
                "multipliers": str(multipliers),
                "shift": int(shift),
                **others,
            } if not others:
                return cls(
                    unit,
                    decoded(mean, np.dtype("<i2"), channels),
                    decoded(basis, np.dtype("i1"), channels, channels),
                    decoded(multipliers, np.dtype("<u2"), channels),
                    shift,
                )
        raise CodecError("pca tables have a unit, a mean, basis, multipliers and a shift, and nothing else")
