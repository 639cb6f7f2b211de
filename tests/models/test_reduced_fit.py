from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.calibration import Calibration, collect
from models.codecs import make_decoder, make_encoder, parse_profile
from models.reduced_fit import fit_clusters, fit_pca, fit_range
from models.tensor import TensorSpec


def samples(spec: TensorSpec, count: int = 12) -> list[NDArray[Any]]:
    """Channels that go together in twos, each of a spread of its own."""
    random = np.random.default_rng(0)
    channels = spec.shape[1]
    mixing = np.repeat(np.eye(-(-channels // 2)), 2, axis=0)[:channels] * np.linspace(4, 0.5, channels)[:, None]
    frames = []
    for _ in range(count):
        sources = random.laplace(size=(mixing.shape[1], *spec.shape[2:]))
        values = np.tensordot(mixing, sources, 1) + random.normal(0, 0.05, (channels, *spec.shape[2:])) + 3
        frames.append(values[None].astype(spec.dtype))
    return frames


def fitted(spec: TensorSpec) -> Calibration:
    frames = samples(spec)
    (ranges,) = collect([[frame] for frame in frames], [spec])
    part = replace(ranges, pca=fit_pca(spec, ranges, frames), clusters=fit_clusters(spec, ranges, frames))
    return Calibration("", "", (part,), "samples", "")


def coded(profile: str, spec: TensorSpec, calibration: Calibration) -> tuple[int, float]:
    """Bytes and mean square error of a frame that is none of the samples."""
    frame = samples(spec, 13)[-1]
    parsed = parse_profile(profile)
    slices = make_encoder(parsed, [spec], calibration, 1140).encode(1, [frame]).slices
    decoded = make_decoder(parsed, [spec], calibration).decode(1, slices).tensors[0]
    return sum(map(len, slices)), float(((decoded - frame) ** 2).mean())


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return fitted(TensorSpec("a", "float32", (1, 11, 12, 12)))


SPEC = TensorSpec("a", "float32", (1, 11, 12, 12))


@pytest.mark.parametrize("bits", range(2, 9))
def test_counted_codes_take_fewer_bytes_than_zstd(bits: int) -> None:
    random = np.random.default_rng(1)
    *frames, frame = random.laplace(size=(9, *SPEC.shape), scale=np.linspace(0.3, 3, 11).reshape(-1, 1, 1))
    frames = [one.astype(np.float32) for one in frames]
    (ranges,) = collect([[one] for one in frames], [SPEC])
    calibration = Calibration("", "", (replace(ranges, range=fit_range(SPEC, ranges, frames)),), "samples", "")
    sizes = []
    for entropy_coding in ("range", "zstd"):
        encoder = make_encoder(parse_profile(f"q{bits}-{entropy_coding}"), [SPEC], calibration, 1140)
        sizes.append(sum(map(len, encoder.encode(1, [frame.astype(np.float32)]).slices)))
    assert sizes[0] < 0.98 * sizes[1]


def test_components_that_go_together_are_one(calibration: Calibration) -> None:
    _, all_of_them = coded("pca:bits=8", SPEC, calibration)
    _, half = coded("pca:bits=8,k=6", SPEC, calibration)
    _, fewer = coded("pca:bits=8,k=5", SPEC, calibration)
    assert all_of_them < half < 0.05
    assert fewer > 3 * half


def test_channels_that_go_together_are_a_group(calibration: Calibration) -> None:
    tables = calibration.tensors[0].clusters
    assert tables is not None
    pairs = {frozenset(tables.order[n : n + 2].tolist()) for n in range(0, 10, 2)}
    assert pairs == {frozenset((n, n + 1)) for n in range(0, 10, 2)}
    sizes, errors = zip(*(coded(f"clusters:size={size}", SPEC, calibration) for size in (2, 4, 8)), strict=True)
    assert sizes[0] > sizes[1] > sizes[2]
    assert errors[0] < errors[1] < errors[2] < np.var(samples(SPEC)[0])


@pytest.mark.parametrize("shape", [(1, 1), (1, 40, 1), (3,)])
def test_any_shape_can_be_fitted(shape: tuple[int, ...]) -> None:
    spec = TensorSpec("a", "float64", shape)
    frames = [np.full(shape, float(n)) for n in range(3)]
    (ranges,) = collect([[frame] for frame in frames], [spec])
    assert fit_range(spec, ranges, frames).weights.shape[1] == 256
    assert fit_pca(spec, ranges, frames).basis.shape == (ranges.low.size,) * 2
    assert len(fit_clusters(spec, ranges, frames).books) == 3
