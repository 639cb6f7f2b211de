"""Small tables of the range, pca and clusters profiles for tests."""

from __future__ import annotations

import numpy as np

from models.calibration import Calibration, TensorCalibration
from models.codecs.clusters_tables import SIZES, WORDS, ClustersTables, Codebook
from models.codecs.klt_tables import TOTAL
from models.codecs.pca_tables import PcaTables
from models.codecs.range_tables import CODES, RangeTables
from models.tensor import TensorSpec
from tests.models import klt_tables


def range_tables(channels: int, tables: int = 3) -> RangeTables:
    """Tables of codes about the middle, the last one of codes that are all as likely."""
    middle = np.abs(np.arange(CODES) - CODES / 2)
    weights = np.stack([np.maximum(1, np.floor(4000 * 2 ** (-middle / (2 + 9 * n)))) for n in range(tables)])
    weights[-1] = 1
    weights = np.floor(weights * (TOTAL / weights.sum(1, keepdims=True) * 0.99)) + 1
    weights[:, CODES // 2] += TOTAL - weights.sum(1)
    return RangeTables(np.arange(channels, dtype=np.uint8) % tables, weights.astype(np.uint16))


def pca_tables(channels: int, seed: int = 0, unit: int = 8) -> PcaTables:
    """A random rotation of which a size of one is one in an element."""
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.normal(size=(channels, channels)))[0]
    mean = random.integers(-1000, 1000, channels).astype(np.int16)
    # A product of 127 * 2^12 / 2^(s - 2) = 2^unit.
    multipliers = np.full(channels, 2**12, np.uint16)
    return PcaTables(unit, mean, np.rint(rotation * 127).astype(np.int8), multipliers, 2 + 12 + 7 - unit)


def clusters_tables(channels: int, seed: int = 0, unit: int = 5) -> ClustersTables:
    random = np.random.default_rng(seed)
    books = []
    for size in SIZES:
        groups = -(-channels // size)
        words = random.integers(-127, 128, (groups, WORDS, size)).astype(np.int8)
        words[:, 0] = 0
        books.append(Codebook(words, random.integers(0, 3, groups).astype(np.uint8)))
    mean = random.integers(-30, 30, channels).astype(np.int16)
    return ClustersTables(unit, mean, random.permutation(channels).astype(np.uint16), tuple(books))


def tensor(name: str, channels: int, axis: int, seed: int = 0) -> TensorCalibration:
    """With all tables that there are."""
    ends = (np.full(channels, -8, np.float32), np.full(channels, 8, np.float32), np.zeros(channels, np.float32))
    return TensorCalibration(
        name,
        axis,
        *ends,
        klt=klt_tables.tables(channels, seed),
        range=range_tables(channels),
        pca=pca_tables(channels, seed),
        clusters=clusters_tables(channels, seed),
    )


def calibration(*tensors: TensorSpec, axis: int = 1) -> Calibration:
    """For each tensor, whose channels are along ``axis``."""
    parts = tuple(tensor(spec.name, spec.shape[axis], axis, seed) for seed, spec in enumerate(tensors))
    return Calibration("sha-256:" + "0" * 64, "0" * 32, parts, "numbers", "sha-256:" + "1" * 64)
