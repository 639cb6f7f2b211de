"""Fits the tables of the range profiles, of pca and of clusters to samples; needs no torch (`splitrtc calibrate`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import TensorCalibration
from models.codecs.channels import STATE_MAX, Channels, product
from models.codecs.clusters_tables import MAX_SHIFT, SIZES, WORDS, ClustersTables, Codebook
from models.codecs.klt_tables import MAX_MULTIPLIER, MAX_UNIT_BITS, TOTAL
from models.codecs.klt_tables import MAX_SHIFT as MAX_FRACTION
from models.codecs.pca_tables import PcaTables
from models.codecs.quantise import Quantiser
from models.codecs.range_tables import CODES, MAX_TABLES, RangeTables
from models.tensor import TensorSpec

__all__ = ["fit_clusters", "fit_pca", "fit_range"]

_ROUNDS = 20
"""Of k-means: further ones gain less than a percent."""
_VECTORS = 2**13
"""Positions, at most, from which codebooks are learned."""
_WIDEST = 99.98
"""Percent of the widest component's values that fit into 8 bits."""

Floats = NDArray[np.float32]


def fit_range(spec: TensorSpec, ranges: TensorCalibration, frames: Sequence[NDArray[Any]]) -> RangeTables:
    """Count the 8-bit codes of each channel; channels with similar counts share a table."""
    quantiser = Quantiser(8, spec.shape, ranges.axis, ranges.low, ranges.high)
    channels = spec.shape[ranges.axis]
    counts = np.zeros((channels, CODES))
    for frame in frames:
        codes = quantiser.codes(frame.astype(np.float32)).reshape(spec.shape)
        for channel, values in enumerate(np.moveaxis(codes, ranges.axis, 0)):
            counts[channel] += np.bincount(values.reshape(-1), minlength=CODES)
    # Neighbours are as likely: less noise where little was counted.
    smooth = counts + 0.5 * (np.roll(counts, 1, 1) + np.roll(counts, -1, 1)) + 0.05
    shares = smooth / smooth.sum(1, keepdims=True)
    # k-means in which the distance is what a channel's codes cost more with another table than with their own.
    tables = shares[np.linspace(0, channels - 1, min(channels, MAX_TABLES)).astype(int)]
    for _ in range(_ROUNDS):
        table = (-shares @ np.log(tables).T).argmin(1)
        members = table == np.arange(len(tables))[:, None]
        tables = members @ smooth + 1e-9
        tables /= tables.sum(1, keepdims=True)
    used, table = np.unique((-shares @ np.log(tables).T).argmin(1), return_inverse=True)
    weights = np.stack([_weights(row) for row in tables[used]])
    return RangeTables(table.astype(np.uint8), weights)


def _weights(shares: NDArray[Any]) -> NDArray[np.uint16]:
    weights = np.maximum(np.floor(shares * (TOTAL - CODES)), 1)
    weights[weights.argmax()] += TOTAL - weights.sum()
    return np.asarray(weights, np.uint16)


def fit_pca(spec: TensorSpec, ranges: TensorCalibration, frames: Sequence[NDArray[Any]]) -> PcaTables:
    """Find the principal components of the channels, by their plain covariance."""
    unit, mean = _unit(ranges)
    values = _values(Channels(spec, ranges.axis, unit, mean), frames)
    _, directions = np.linalg.eigh(values.T.astype(np.float64) @ values.astype(np.float64))
    rows = directions[:, ::-1].T
    widest = max(float(np.percentile(np.abs(values @ rows[0]), _WIDEST)) / (CODES / 2 - 1), 2.0**-8)
    rows = rows * widest
    largest = np.abs(rows).max(1)
    shift = int(np.clip(2 + np.floor(np.log2(MAX_MULTIPLIER * 127 / largest.max())), 1, MAX_FRACTION))
    multipliers = np.clip(np.ceil(largest * 2.0 ** (shift - 2) / 127), 1, MAX_MULTIPLIER)
    basis = np.clip(np.rint(rows * 2.0 ** (shift - 2) / multipliers[:, None]), -127, 127)
    return PcaTables(unit, mean, basis.astype(np.int8), multipliers.astype(np.uint16), shift)


def fit_clusters(spec: TensorSpec, ranges: TensorCalibration, frames: Sequence[NDArray[Any]]) -> ClustersTables:
    """Group channels that go together, and find each group's words by k-means."""
    unit, mean = _unit(ranges)
    values = _values(Channels(spec, ranges.axis, unit, mean), frames)
    random = np.random.default_rng(0)
    if len(values) > _VECTORS:
        values = values[random.choice(len(values), _VECTORS, replace=False)]
    order = _order(values)
    books = []
    for size in SIZES:
        groups = -(-values.shape[1] // size)
        padded = np.zeros((len(values), groups * size), np.float32)
        padded[:, : order.size] = values[:, order]
        words = [_words(padded[:, group * size : (group + 1) * size], random) for group in range(groups)]
        shift = [int(np.clip(np.ceil(np.log2(max(np.abs(one).max(), 1) / 127)), 0, MAX_SHIFT)) for one in words]
        rounded = [np.clip(np.rint(one / 2.0**n), -127, 127) for one, n in zip(words, shift, strict=True)]
        books.append(Codebook(np.stack(rounded).astype(np.int8), np.array(shift, np.uint8)))
    return ClustersTables(unit, mean, order.astype(np.uint16), tuple(books))


def _unit(ranges: TensorCalibration) -> tuple[int, NDArray[np.int16]]:
    """The unit in which ranges fill a quarter of a state's, and the means in it."""
    mean = ranges.mean.astype(np.float64)
    widest = float(max(np.abs(ranges.low).max(), np.abs(ranges.high).max(), 1e-6))
    unit = int(np.clip(np.floor(np.log2(STATE_MAX / 4 / widest)), -MAX_UNIT_BITS, MAX_UNIT_BITS))
    return unit, np.clip(np.rint(np.ldexp(mean, unit)), -STATE_MAX, STATE_MAX).astype(np.int16)


def _values(channels: Channels, frames: Sequence[NDArray[Any]]) -> Floats:
    return np.concatenate([channels.elements(frame) for frame in frames])


def _order(values: Floats) -> NDArray[np.intp]:
    """Channels in pairs, pairs in fours, fours in eights, each time those that are correlated most."""
    covariance = np.cov(values, rowvar=False).reshape(values.shape[1], -1)
    spread = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    alike = np.abs(covariance / np.outer(spread, spread))
    groups, rest = [[channel] for channel in range(len(alike))], list[int]()
    for _ in SIZES:
        merged = []
        while len(groups) > 1:
            first, *groups = groups
            best = max(range(len(groups)), key=lambda n: float(alike[np.ix_(first, groups[n])].mean()))
            merged.append(first + groups.pop(best))
        rest = [channel for group in groups for channel in group] + rest  # only the last group may be a smaller one
        groups = merged
    return np.array([channel for group in groups for channel in group] + rest)


def _words(vectors: Floats, random: np.random.Generator) -> Floats:
    """WORDS words; the first is the mean of all, which stands for what is not known."""
    words = vectors[random.choice(len(vectors), WORDS, replace=len(vectors) < WORDS)].copy()
    words[0] = 0
    for _ in range(_ROUNDS):
        nearest = ((words**2).sum(1) - 2 * product(vectors, words.T)).argmin(1)
        counts = np.bincount(nearest, minlength=WORDS)
        for axis in range(vectors.shape[1]):
            sums = np.bincount(nearest, vectors[:, axis], WORDS)
            words[:, axis] = np.where(counts, sums / np.maximum(counts, 1), words[:, axis])
        words[0] = 0
    return words
