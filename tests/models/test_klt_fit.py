from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.calibration import TensorCalibration
from models.codecs.klt_choice import Chooser
from models.codecs.klt_plane import Plane, step_of
from models.codecs.klt_tables import TOTAL, KltTables, KltTransform
from models.klt_fit import STEPS, Samples, fit, shares_of, start_weights
from models.tensor import TensorSpec

SPEC = TensorSpec("a", "float32", (1, 4, 9, 10))
ENDS = np.full(4, 12, np.float32)
RANGES = TensorCalibration("a", 1, -ENDS, ENDS, np.full(4, 0.5, np.float32))


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Channels 0 and 1 are alike, and the tail sees their sum; of channel 3 it sees next to nothing."""
    random = np.random.default_rng(0)

    def frame() -> NDArray[np.float32]:
        x = random.normal(size=SPEC.shape)
        x += 2 * x.mean((2, 3), keepdims=True) + np.repeat(random.normal(size=(1, 4, 3, 5)), 3, 2).repeat(2, 3)
        x[:, 1] = x[:, 0] + 0.1 * x[:, 1]
        return (3 * x).astype(np.float32)

    def slope() -> NDArray[np.float32]:
        g = random.normal(size=SPEC.shape)
        g[:, 1] = g[:, 0]
        g[:, 3] *= 0.01
        return g.astype(np.float32)

    frames = [frame() for _ in range(24)]
    pairs = [(f, f + 0.2 * frame()) for f in frames[:8]]
    return Samples(frames, [slope() for _ in range(48)], pairs)


@pytest.fixture(scope="module")
def fitted(samples: Samples) -> KltTables:
    calls: list[None] = []
    tables = fit(SPEC, RANGES, samples, lambda: calls.append(None))
    assert len(calls) == STEPS
    return tables


def test_it_says_the_same_each_time(fitted: KltTables, samples: Samples) -> None:
    assert fit(SPEC, RANGES, samples).to_json() == fitted.to_json()


def test_the_state_holds_four_times_the_ranges(fitted: KltTables) -> None:
    assert 4 * 12.5 <= 2**15 / 2**fitted.unit_bits < 8 * 12.5
    assert (fitted.mean == 0.5 * 2**fitted.unit_bits).all()


@pytest.mark.parametrize("number", [0, 1])
def test_error_goes_where_the_tail_does_not_look(fitted: KltTables, samples: Samples, number: int) -> None:
    plane = Plane(SPEC, 1, fitted)
    chooser = Chooser(plane, number)
    errors = []
    for frame in samples.frames:
        values = plane.elements(frame)
        chosen = chooser.choose(values, None, 40)
        steps = np.full(plane.positions, step_of(40))
        errors.append(plane.synthesise(chosen.symbols, steps, fitted.transforms[number]) - values)
    error = np.concatenate(errors) / 2.0**fitted.unit_bits
    assert error[:, 3].std() > 3 * error[:, 2].std()


def test_tables_follow_the_samples(fitted: KltTables, samples: Samples) -> None:
    plane = Plane(SPEC, 1, fitted)
    chooser = Chooser(plane, 0)
    bits = np.mean([chooser.choose(plane.elements(f), None, 40).bits.sum() for f in samples.frames])
    plain = Plane(SPEC, 1, replace(fitted, transforms=_started(fitted)))
    before = np.mean([Chooser(plain, 0).choose(plain.elements(f), None, 40).bits.sum() for f in samples.frames])
    assert bits < before
    for transform in fitted.transforms:
        # What is left of a frame, once it is predicted, is smaller.
        assert transform.levels[1].mean() < transform.levels[0].mean()


def _started(tables: KltTables) -> tuple[KltTransform, KltTransform]:
    first, second = (replace(transform, weights=start_weights()) for transform in tables.transforms)
    return first, second


def test_steps_are_finer_where_gradients_are_larger() -> None:
    random = np.random.default_rng(3)
    frames, slopes = [], []
    for _ in range(30):
        level = random.normal(size=(1, 4, 3, 3)).repeat(4, 2).repeat(4, 3)[:, :, :9, :10]
        frames.append((level + 0.3 * random.normal(size=SPEC.shape)).astype(np.float32))
        slopes.append((np.exp2(0.5 * level[:, 2:3]) * random.normal(size=SPEC.shape)).astype(np.float32))
    tables = fit(SPEC, RANGES, Samples(frames, slopes, []))
    # The gradients' energy doubles with each one of channel 2: half an octave of the step, of which a part is trusted.
    salience = tables.salience * 2.0**tables.unit_bits
    assert 0.4 < salience[2] < 1
    assert np.abs(np.delete(salience, 2)).max() < 0.15


def test_without_pairs_the_levels_of_intra_frames_serve(samples: Samples) -> None:
    tables = fit(SPEC, RANGES, Samples(samples.frames[:4], samples.gradients[:4], []))
    for transform in tables.transforms:
        np.testing.assert_array_equal(transform.levels[0], transform.levels[1])


def test_frequencies_that_a_shape_does_not_have_are_left_alone() -> None:
    spec = TensorSpec("a", "float32", (1, 4, 2, 3))
    random = np.random.default_rng(1)
    frames = [random.normal(size=spec.shape).astype(np.float32) for _ in range(8)]
    assert fit(spec, RANGES, Samples(frames, frames, [])).transforms[0].edge == 4


def test_a_tail_that_sees_nothing_still_gives_tables() -> None:
    frames = [np.zeros(SPEC.shape, np.float32)] * 2
    tables = fit(SPEC, RANGES, Samples(frames, frames, [(frames[0], frames[1])]))
    assert tables.unit_bits > 0


def test_weights_add_up() -> None:
    assert int(shares_of(np.array([1e9, 1.0, 0.0])).sum(dtype=np.int64)) == TOTAL
    weights = start_weights().astype(np.int64)
    assert (2 * weights.sum(-1) - weights[..., 0] == TOTAL).all()
    assert (weights >= 1).all()
