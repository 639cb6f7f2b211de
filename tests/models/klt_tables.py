"""Small klt tables for tests: random rotations, and the distributions that a fit begins with."""

from __future__ import annotations

import numpy as np

from models.calibration import Calibration, TensorCalibration
from models.codecs.klt_tables import BLOCK, GAINS, OFFSETS, SCALES, KltTables, KltTransform
from models.klt_fit import shares_of, start_weights
from models.tensor import TensorSpec


def tables(channels: int, seed: int = 0, unit: int = 9) -> KltTables:
    random = np.random.default_rng(seed)
    transforms = []
    for edge in (BLOCK, 1):
        rotations = np.linalg.qr(random.normal(size=(edge * edge, channels, channels)))[0]
        # A product of 127 * 2^12 / 2^(s - 2) = 2^unit, so that a step of one is one in an element.
        shift = 2 + 12 + 7 - unit
        spread = np.sort(random.uniform(-9, 9, (2, edge * edge, channels)))[..., ::-1]
        transforms.append(
            KltTransform(
                edge,
                np.rint(rotations * 127).astype(np.int8),
                np.full((edge * edge, channels), 2**12, np.uint16),
                shift,
                spread.astype(np.int8),
                start_weights(),
            )
        )
    kinds = (np.ones(len(SCALES)), np.ones(1 + (1 + len(GAINS)) * len(SCALES)))
    mean = random.integers(-1000, 1000, channels).astype(np.int16)
    offsets = (shares_of(np.arange(1.0, 1 + len(OFFSETS))), shares_of(np.ones(len(OFFSETS))))
    # So that in frames of some hundred counts blocks of all offsets occur.
    salience = (random.normal(size=channels) / 2**unit).astype(np.float32)
    return KltTables(
        unit,
        mean,
        (transforms[0], transforms[1]),
        (shares_of(kinds[0]), shares_of(kinds[1])),
        offsets,
        salience,
    )


def calibration(*tensors: TensorSpec, axis: int = 1, seed: int = 0) -> Calibration:
    """For each tensor, whose channels are along ``axis``."""
    parts = []
    for spec in tensors:
        channels = spec.shape[axis]
        ends = (np.full(channels, -8, np.float32), np.full(channels, 8, np.float32), np.zeros(channels, np.float32))
        parts.append(TensorCalibration(spec.name, axis, *ends, klt=tables(channels, seed)))
    return Calibration("sha-256:" + "0" * 64, "0" * 32, tuple(parts), "numbers", "sha-256:" + "1" * 64)
