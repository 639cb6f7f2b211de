"""What the klt profiles know of a tensor before its first frame: transforms and probabilities (docs/protocol.md, 4.6).

The tables are a part of the calibration file. They are integers throughout, so that both sides compute the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.codecs.arrays import decoded as _decoded
from models.codecs.arrays import encoded as _encoded
from splitrtc_errors import CodecError

__all__ = [
    "BLOCK",
    "CLASSES",
    "ESCAPE",
    "GAINS",
    "LEVEL_STEPS",
    "OFFSETS",
    "SCALES",
    "KltTables",
    "KltTransform",
]

BLOCK = 4
"""Positions along an edge of a block."""
CLASSES = 40
"""Probability tables, from the coefficients that are hardly ever anything but zero to the widest ones."""
ESCAPE = 16
"""The smallest size of a coefficient that has no symbol of its own."""
LEVEL_STEPS = 3
"""Classes to an octave."""
SCALES = tuple(range(-6, 10, 2))
"""By how many classes a block may be louder than calibrated."""
OFFSETS = tuple(range(-16, 32, 8))
"""By how many codes, sixteen to an octave, the step of a block may differ from that of its slice."""
GAINS = (256, 154)
"""What a predicted block takes of its reference, in 1/256: all of it, or six tenths where it is a poor guide."""
MAX_MULTIPLIER = 2**14 - 1
MAX_SHIFT = 24
MAX_CHANNELS = 1024
"""With all other limits it keeps sums below 2^53."""
MAX_UNIT_BITS = 30
TOTAL = 2**16
"""Sum of the weights of a probability table."""


@dataclass(frozen=True, eq=False)
class KltTransform:
    """A rotation of the channels for every frequency, and how the coefficients are distributed.

    ``edge`` is 4 for a block DCT over positions, then there are 16 frequencies, (row, column) in C order; 1 for none,
    then there is one. ``basis`` is int8 (frequencies, components, channels), ``multipliers`` uint16 (frequencies,
    components), ``shift`` how many binary digits of their product are fractional (docs/protocol.md, section 4.6).
    ``levels`` is int8 (2, frequencies, components): the spread of each coefficient in thirds of an octave, intra and
    predicted. ``weights`` is uint16 (2, CLASSES, ESCAPE + 1): of every size of coefficient from 0, the last for all
    from ESCAPE on; a weight but the first counts once for either sign.
    """

    edge: int
    basis: NDArray[np.int8]
    multipliers: NDArray[np.uint16]
    shift: int
    levels: NDArray[np.int8]
    weights: NDArray[np.uint16]

    def __post_init__(self) -> None:
        """Refuse what cannot be used, with CodecError."""
        if self.edge not in (1, BLOCK) or not 1 <= self.shift <= MAX_SHIFT:
            raise CodecError(f"a transform of edge {self.edge}, shift {self.shift}")
        if self.basis.shape[-1] > MAX_CHANNELS:
            raise CodecError(f"{self.basis.shape[-1]} channels, more than {MAX_CHANNELS}")
        if not 1 <= int(self.multipliers.min()) <= int(self.multipliers.max()) <= MAX_MULTIPLIER:
            raise CodecError(f"a transform's multipliers are 1 to {MAX_MULTIPLIER}")
        sums = 2 * self.weights.sum(-1, dtype=np.int64) - self.weights[..., 0]
        if self.weights.min() < 1 or (sums != TOTAL).any():
            raise CodecError(f"a table's weights are at least 1, their sum {TOTAL}")

    @property
    def frequencies(self) -> int:
        """How many rotations there are."""
        return self.edge * self.edge

    @cached_property
    def forward(self) -> NDArray[np.float32]:
        """From channels to components at step 1, float32 (frequencies, channels, components): for the encoder."""
        basis = self.basis * (self.multipliers[..., None] * 2.0 ** (2 - self.shift))
        try:
            inverse = np.linalg.inv(basis)
        except np.linalg.LinAlgError as error:
            raise CodecError(f"a transform that cannot be inverted: {error}") from error
        return inverse.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class KltTables:
    """The tables of one tensor.

    A state of one counts 2^-``unit_bits`` above the channel's ``mean``, int16 (C,) in the same unit. ``transforms``:
    with and without DCT. ``kinds`` are the weights of a block's kind, uint16, in intra and in predicted frames, and
    ``offsets`` those of what its step differs by. ``salience``, float32 (C,), is for the encoder alone: how much the
    tail will care for a block, as half octaves by which its step is finer, for each count of the mean of its state.
    """

    unit_bits: int
    mean: NDArray[np.int16]
    transforms: tuple[KltTransform, KltTransform]
    kinds: tuple[NDArray[np.uint16], NDArray[np.uint16]]
    offsets: tuple[NDArray[np.uint16], NDArray[np.uint16]]
    salience: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse what cannot be used, with CodecError."""
        if not -MAX_UNIT_BITS <= self.unit_bits <= MAX_UNIT_BITS:
            raise CodecError(f"a unit of 2^-{self.unit_bits}: the exponent is at most {MAX_UNIT_BITS}")
        if [transform.edge for transform in self.transforms] != [BLOCK, 1]:
            raise CodecError("there are two transforms, the one of a block and the one of a position")
        for weights in (*self.kinds, *self.offsets):
            if weights.min() < 1 or int(weights.sum(dtype=np.int64)) != TOTAL:
                raise CodecError(f"the weights of kinds and offsets are at least 1, their sum {TOTAL}")
        if not np.isfinite(self.salience).all():
            raise CodecError("a salience that is not finite")

    def check_invertible(self) -> None:
        """CodecError when the transforms are of no use to an encoder."""
        for transform in self.transforms:
            _ = transform.forward

    def to_json(self) -> dict[str, Any]:
        """The tables as a member of a calibration file."""
        return {
            "unit": self.unit_bits,
            "mean": _encoded(self.mean),
            "kinds": [_encoded(weights) for weights in self.kinds],
            "offsets": [_encoded(weights) for weights in self.offsets],
            "salience": _encoded(self.salience),
            "transforms": [
                {
                    "edge": transform.edge,
                    "basis": _encoded(transform.basis),
                    "multipliers": _encoded(transform.multipliers),
                    "shift": transform.shift,
                    "levels": _encoded(transform.levels),
                    "weights": _encoded(transform.weights),
                }
                for transform in self.transforms
            ],
        }

    @classmethod
    def from_json(cls, value: object, channels: int) -> Self:
        """Read the tables of a tensor strictly; CodecError says what is wrong."""
        match value:
            case {
                "unit": int(unit),
                "mean": str(mean),
                "kinds": [str(intra), str(predicted)],
                "offsets": [str(intra_offsets), str(predicted_offsets)],
                "salience": str(salience),
                "transforms": [first, second],
                **others,
            } if not others:
                return cls(
                    unit,
                    _decoded(mean, np.dtype("<i2"), channels),
                    (_read_transform(first, channels), _read_transform(second, channels)),
                    (
                        _decoded(intra, np.dtype("<u2"), len(SCALES)),
                        _decoded(predicted, np.dtype("<u2"), 1 + (1 + len(GAINS)) * len(SCALES)),
                    ),
                    (
                        _decoded(intra_offsets, np.dtype("<u2"), len(OFFSETS)),
                        _decoded(predicted_offsets, np.dtype("<u2"), len(OFFSETS)),
                    ),
                    _decoded(salience, np.dtype("<f4"), channels),
                )
        raise CodecError(
            "klt tables have unit, mean, two kinds, two offsets, salience, two transforms, and nothing else"
        )


def _read_transform(value: object, channels: int) -> KltTransform:
    match value:
        case {
            "edge": int(edge),
            "basis": str(basis),
            "multipliers": str(multipliers),
            "shift": int(shift),
            "levels": str(levels),
            "weights": str(weights),
            **others,
        } if not others and edge in (1, BLOCK):
            frequencies = edge * edge
            return KltTransform(
                edge,
                _decoded(basis, np.dtype("i1"), frequencies, channels, channels),
                _decoded(multipliers, np.dtype("<u2"), frequencies, channels),
                shift,
                _decoded(levels, np.dtype("i1"), 2, frequencies, channels),
                _decoded(weights, np.dtype("<u2"), 2, CLASSES, ESCAPE + 1),
            )
    raise CodecError("a transform has edge (1 or 4), basis, multipliers, shift, levels, weights, and nothing else")
