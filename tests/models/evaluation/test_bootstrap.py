from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation.bootstrap import blocks, interval, weights
from splitrtc_errors import BadArgument


def test_blocks_by_hand() -> None:
    assert blocks([1, 5, 4], 2).tolist() == [0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    assert blocks([1, 1, 1]).tolist() == [0, 1, 2]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(1, 50))
def test_blocks_stay_within_a_segment_and_are_long_enough(lengths: list[int], size: int) -> None:
    block = blocks(lengths, size)
    assert len(block) == sum(lengths)
    assert set(np.diff(block).tolist()) <= {0, 1}
    ends = np.cumsum(lengths)[:-1]
    assert (block[ends] != block[ends - 1]).all()
    segment = np.repeat(np.arange(len(lengths)), lengths)
    for number in range(block[-1] + 1):
        (here,) = np.nonzero(block == number)
        assert len(here) >= min(size, lengths[segment[here[0]]])
        assert len(here) < 2 * size or size > lengths[segment[here[0]]]


@pytest.mark.parametrize(("lengths", "size"), [([], 1), ([0], 1), ([3], 0)])
def test_blocks_of_nothing_are_refused(lengths: list[int], size: int) -> None:
    with pytest.raises(BadArgument, match="at least one"):
        blocks(lengths, size)


def test_weights_are_draws_with_replacement() -> None:
    drawn = weights(5, seed=3, draws=2000)
    assert drawn.shape == (2000, 5)
    assert (drawn.sum(axis=1) == 5).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(5), abs=0.1)
    assert drawn.var(axis=0) == pytest.approx(np.full(5, 0.8), abs=0.1)  # of a binomial: n p (1 - p)
    assert (drawn == weights(5, seed=3, draws=2000)).all()
    assert (drawn != weights(5, seed=4, draws=2000)).any()


def test_interval_of_a_mean_is_that_of_the_theory() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    low, high = interval(weights(400) @ values / 400)
    spread = 1.645 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - spread, values.mean() + spread), abs=0.03)


def test_interval_takes_no_note_of_draws_that_say_nothing() -> None:
    values = np.append(np.arange(101, dtype=np.float64), np.nan)
    assert interval(values) == pytest.approx((5, 95))
    assert interval(values, 0.5) == pytest.approx((25, 75))
