"""Fits the klt profiles' tables to samples: what `splitrtc calibrate --profile klt` computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import TensorCalibration
from models.codecs.klt_choice import Chooser, Chosen
from models.codecs.klt_plane import STATE_MAX, Plane
from models.codecs.klt_slices import STEP_SIZES, classes_of, codes_of, mode_of
from models.codecs.klt_tables import (
    BLOCK,
    CLASSES,
    ESCAPE,
    GAINS,
    LEVEL_STEPS,
    MAX_MULTIPLIER,
    MAX_SHIFT,
    MAX_UNIT_BITS,
    OFFSETS,
    SCALES,
    TOTAL,
    KltTables,
    KltTransform,
)
from models.tensor import TensorSpec

__all__ = ["STEPS", "Samples", "fit", "shares_of", "start_weights"]

Floats = NDArray[np.float32]

_CODES = (36, 40, 44, 48)
"""Steps whose symbols are counted: 1.25 to 2, about where a model keeps its accuracy."""
_ROUNDS = 3
"""How often symbols are counted with the tables of the round before."""
_RIDGE = 0.3
"""How far the regression of salience is drawn to zero: a multiple of the power of each channel."""
_TRUST = 0.75
"""What of it is used: other pictures are less like the samples than those are like each other."""
_FLOOR = 0.02
"""Sensitivity that every direction has at least, over the mean of all: a tail is never blind, gradients are samples."""


class Samples:
    """A tensor's samples: elements of frames, the tail's gradients by them, and pairs of consecutive frames.

    All float32 and of the tensor's shape; ``pairs`` are (earlier, later). A gradient is one draw, see
    `models.gradients`.
    """

    def __init__(self, frames: Sequence[Floats], gradients: Sequence[Floats], pairs: Sequence[tuple[Floats, Floats]]):
        self.frames = frames
        self.gradients = gradients
        self.pairs = pairs


def fit(
    spec: TensorSpec, ranges: TensorCalibration, samples: Samples, progress: Callable[[], None] = lambda: None
) -> KltTables:
    """Return the tables of one tensor.

    Args:
        spec: the tensor.
        ranges: its ranges, for the axis, the mean and the unit.
        samples: see there.
        progress: called some ten times in all, at even distances: `STEPS` times.
    """
    mean = ranges.mean.astype(np.float64)
    widest = float(max(np.abs(ranges.low - mean).max(), np.abs(ranges.high - mean).max(), 1e-6))
    # A quarter of the state's range: what lies beyond the calibrated ranges is clamped only four times further out.
    unit = int(np.clip(np.floor(np.log2(STATE_MAX / 4 / widest)), -MAX_UNIT_BITS, MAX_UNIT_BITS))
    means = np.clip(np.rint(np.ldexp(mean, unit)), -STATE_MAX, STATE_MAX).astype(np.int16)
    transforms = []
    tables = _with(unit, means, (_blank(BLOCK, len(mean)), _blank(1, len(mean))))
    plane = Plane(spec, ranges.axis, tables)
    values = np.stack([plane.elements(frame) for frame in samples.frames])
    slopes = np.stack([plane.ordered(gradient) for gradient in samples.gradients])
    for edge in (BLOCK, 1):
        transforms.append(_rotations(plane, edge, values, slopes))
        progress()
    salience = _salience(plane, transforms[0], values, slopes)
    tables = _with(unit, means, (transforms[0], transforms[1]), salience)
    pairs = [(plane.elements(earlier), plane.elements(later)) for earlier, later in samples.pairs]
    for _ in range(_ROUNDS):
        tables = _count(Plane(spec, ranges.axis, tables), values, pairs)
        progress()
    return tables


STEPS = 2 + _ROUNDS
"""How often `fit` reports progress."""


def _blank(edge: int, channels: int) -> KltTransform:
    frequencies = edge * edge
    identity = np.broadcast_to(np.eye(channels, dtype=np.int8), (frequencies, channels, channels))
    ones = np.ones((frequencies, channels), np.uint16)
    return KltTransform(edge, identity, ones, 2, np.zeros((2, frequencies, channels), np.int8), start_weights())


def _with(
    unit: int,
    mean: NDArray[np.int16],
    transforms: tuple[KltTransform, KltTransform],
    salience: NDArray[np.float32] | None = None,
) -> KltTables:
    kinds = (np.ones(len(SCALES)), np.ones(1 + (1 + len(GAINS)) * len(SCALES)))
    offsets = shares_of(np.ones(len(OFFSETS)))
    if salience is None:
        salience = np.zeros(len(mean), np.float32)
    return KltTables(unit, mean, transforms, (shares_of(kinds[0]), shares_of(kinds[1])), (offsets, offsets), salience)


def _salience(plane: Plane, transform: KltTransform, values: Floats, slopes: Floats) -> NDArray[np.float32]:
    """How the means of a block's channels tell how much an error in it matters: a ridge regression.

    What it tells are octaves of the energy of the gradients by a block's coefficients. An error matters as much in one
    block as in another when its energy falls as that rises: half an octave of the step for each.
    """
    columns = transform.basis * (transform.multipliers[..., None] * 2.0 ** (2 - transform.shift))
    energy = np.zeros((len(slopes), plane.positions))
    for number, slope in enumerate(slopes):
        unrotated = plane.analyse(slope, plane.tables.transforms[0])
        for f in range(transform.frequencies):
            rows = np.flatnonzero(plane.frequency[transform.edge] == f)
            energy[number, rows] = ((unrotated[rows] @ columns[f].T) ** 2).mean(-1)
    lengths = plane.lengths(0, plane.blocks)
    of_block = np.add.reduceat(energy, plane.starts[:-1], axis=1) / lengths
    of_block = of_block.reshape(len(values), -1, plane.blocks).mean(1)
    octaves = np.log2(np.maximum(of_block, 1e-12 * max(of_block.max(), 1e-30)))
    means = np.add.reduceat(values, plane.starts[:-1], axis=1) / lengths[:, None]
    means = means.reshape(-1, plane.channels).astype(np.float64)
    power = means.T @ means
    # Each channel counts as far as it varies, whatever its unit.
    ridge = np.diag(_RIDGE * np.diag(power) + 1e-9)
    told = np.linalg.solve(power + ridge, means.T @ (octaves - octaves.mean()).reshape(-1))
    return np.asarray(_TRUST * told, np.float32)


def _rotations(plane: Plane, edge: int, values: Floats, slopes: Floats) -> KltTransform:
    """The transform of one edge, with levels of intra frames for predicted ones too, and tables to begin with."""
    blank = plane.tables.transforms[0 if edge == BLOCK else 1]
    channels = plane.channels
    unrotated = np.stack([plane.analyse(value, blank) for value in values])
    slopes = np.stack([plane.analyse(slope, blank) for slope in slopes])
    members = [np.flatnonzero(plane.frequency[edge] == f) for f in range(edge * edge)]
    present = [rows for rows in members if rows.size]
    overall = sum(_moments(slopes[:, rows]) for rows in present) / len(present)
    columns = np.zeros((edge * edge, channels, channels))
    levels = np.zeros((edge * edge, channels))
    for f, rows in enumerate(members):
        columns[f], levels[f] = np.eye(channels), 1.0
        if not rows.size:
            continue
        sensitivity = _moments(slopes[:, rows]) * (channels / max(np.trace(overall), 1e-30))
        w, u = np.linalg.eigh(sensitivity + _FLOOR * np.eye(channels))
        root, inverse = (u * np.sqrt(w)) @ u.T, (u / np.sqrt(w)) @ u.T
        spread, directions = np.linalg.eigh(root @ _moments(unrotated[:, rows]) @ root)
        columns[f] = (inverse @ directions[:, ::-1]).T
        levels[f] = np.sqrt(np.maximum(spread[::-1], 1e-12))
    # In the state's unit one step must mean the same for all tensors and units: that of the elements themselves.
    unit = 2.0**plane.tables.unit_bits
    columns *= unit
    levels /= unit
    largest = np.abs(columns).max(-1)
    shift = int(np.clip(2 + np.floor(np.log2(MAX_MULTIPLIER * 127 / largest.max())), 1, MAX_SHIFT))
    multipliers = np.clip(np.rint(largest * 2.0 ** (shift - 2) / 127), 1, MAX_MULTIPLIER)
    basis = np.clip(np.rint(columns * 2.0 ** (shift - 2) / multipliers[..., None]), -127, 127)
    both = np.stack([_level(levels)] * 2)
    return KltTransform(edge, basis.astype(np.int8), multipliers.astype(np.uint16), shift, both, start_weights())


def _moments(samples: Floats) -> NDArray[np.float64]:
    """Second moments of the last dimension."""
    flat = samples.reshape(-1, samples.shape[-1]).astype(np.float64)
    return flat.T @ flat / len(flat)


def _level(spread: NDArray[Any]) -> NDArray[np.int8]:
    levels = np.rint(LEVEL_STEPS * np.log2(np.maximum(spread, 1e-6)))
    return np.asarray(np.clip(levels, -60, 60), np.int8)


def start_weights() -> NDArray[np.uint16]:
    """Return the weights of Laplace distributions of the classes' spreads, see `KltTransform`."""
    size = np.arange(ESCAPE + 1)
    rows = []
    for number in range(CLASSES):
        rate = np.sqrt(2) / 2 ** ((number - 18) / LEVEL_STEPS)
        tail = np.exp(-rate * (np.maximum(size - 0.35, 0)))
        shares = tail - np.append(tail[1:], 0)
        rows.append(_weights_of(shares))
    return np.stack([np.stack(rows)] * 2)


def _weights_of(shares: NDArray[Any]) -> NDArray[np.uint16]:
    """Weights of sizes from their shares: what is left after all others goes to zero, which is always likely."""
    others = np.maximum(np.rint(shares[1:] / max(shares.sum(), 1e-30) * TOTAL / 2), 1)
    while 2 * others.sum() > TOTAL - 2:
        others = np.maximum(np.floor(others * 0.99), 1)
    return np.append(TOTAL - 2 * others.sum(), others).astype(np.uint16)


def shares_of(counts: NDArray[Any]) -> NDArray[np.uint16]:
    """Return weights that add up to TOTAL, each at least 1, from counts."""
    weights = np.maximum(np.floor(counts / counts.sum() * (TOTAL - len(counts))), 1)
    weights[weights.argmax()] += TOTAL - weights.sum()
    return np.asarray(weights, np.uint16)


def _count(plane: Plane, values: Floats, pairs: Sequence[tuple[Floats, Floats]]) -> KltTables:
    """Return the plane's tables with weights, kinds and levels as the encoder's own choices have them."""
    made = []
    kinds = [np.ones(len(weights)) for weights in plane.tables.kinds]
    offsets = [np.ones(len(OFFSETS)) for _ in plane.tables.offsets]
    for number, transform in enumerate(plane.tables.transforms):
        chooser = Chooser(plane, number)
        counts = np.zeros((2, CLASSES, ESCAPE + 1))
        power = np.zeros((transform.frequencies, plane.channels))
        frequency = plane.frequency[transform.edge]
        lengths = plane.lengths(0, plane.blocks)
        for code in _CODES:
            for value in values:
                _add(plane, chooser.choose(value, None, code), transform, code, True, counts, kinds[0], offsets[0])
        for place, (earlier, later) in enumerate(pairs):
            code = _CODES[place % len(_CODES)]
            # What the decoder has of the earlier frame: with the error of its steps.
            first = chooser.choose(earlier, None, code)
            steps = np.repeat(STEP_SIZES[codes_of(code, first.offsets)], lengths)
            decoded = np.clip(plane.synthesise(first.symbols, steps, transform), -STATE_MAX, STATE_MAX)
            state = decoded.astype(np.int16)
            chosen = chooser.choose(later, state, code)
            _add(plane, chosen, transform, code, False, counts, kinds[1], offsets[1])
            difference = plane.analyse(later - state, transform)
            np.add.at(power, frequency, difference**2 / len(pairs))
        levels = transform.levels.copy()
        if pairs:
            members = np.maximum(np.bincount(frequency, minlength=transform.frequencies), 1)
            levels[1] = _level(np.sqrt(power / members[:, None]))
        smooth = counts + 0.25 * (np.roll(counts, 1, 1) + np.roll(counts, -1, 1))
        smooth += 0.5 * transform.weights / TOTAL  # where nothing was counted, what was assumed stays
        weights = np.stack([np.stack([_weights_of(row) for row in rows]) for rows in smooth])
        made.append(
            KltTransform(transform.edge, transform.basis, transform.multipliers, transform.shift, levels, weights)
        )
    tables = plane.tables
    return KltTables(
        tables.unit_bits,
        tables.mean,
        (made[0], made[1]),
        (shares_of(kinds[0]), shares_of(kinds[1])),
        (shares_of(offsets[0]), shares_of(offsets[1])),
        tables.salience,
    )


def _add(
    plane: Plane,
    chosen: Chosen,
    transform: KltTransform,
    code: int,
    intra: bool,
    counts: NDArray[Any],
    kinds: NDArray[Any],
    offsets: NDArray[Any],
) -> None:
    """Count a frame's symbols by use and class, its kinds and its offsets."""
    kinds += np.bincount(chosen.kinds, minlength=len(kinds))
    coded = np.arange(plane.blocks) if intra else np.flatnonzero(chosen.kinds)
    offsets += np.bincount(chosen.offsets[coded], minlength=len(offsets))
    mode, scale = mode_of(chosen.kinds, intra)
    added = classes_of(scale, codes_of(code, chosen.offsets))
    block = np.repeat(np.arange(plane.blocks), plane.lengths(0, plane.blocks))
    positions = np.flatnonzero(np.isin(block, coded))
    use = np.minimum(mode, 1)[block[positions]]
    classes = transform.levels[use, plane.frequency[transform.edge][positions]] + added[block[positions], None]
    sizes = np.minimum(np.abs(chosen.symbols[positions]), ESCAPE)
    np.add.at(counts, (np.broadcast_to(use[:, None], sizes.shape), np.clip(classes, 0, CLASSES - 1), sizes), 1)
