from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from models.evaluation.bdrate import bd_rate, front

Points = list[tuple[float, float]]


@pytest.mark.parametrize(
    ("anchor", "test", "percent"),
    [
        # The examples of the package "bjontegaard" (method "pchip", which agrees with the spreadsheet of JVET-T2010 to
        # ten decimals), and those of a widely used script.
        (
            [(9487.76, 40.037), (4593.60, 38.615), (2486.44, 36.845), (1358.24, 34.851)],
            [(9787.80, 40.121), (4469.00, 38.651), (2451.52, 36.970), (1356.24, 34.987)],
            -4.417485350589,
        ),
        (
            [(82472.76, 43.825), (26875.24, 41.404), (9487.76, 40.037), (4593.6, 38.615), (3600, 36.5), (2900, 35.1)],
            [(99896.96, 44.731), (33952.04, 41.875), (9787.8, 40.121), (4469.0, 38.651), (4040, 37), (3300, 36.5)],
            -2.952802411643,
        ),
        (
            [(686.76, 40.28), (309.58, 37.18), (157.11, 34.24), (85.95, 31.42)],
            [(893.34, 40.39), (407.8, 37.21), (204.93, 34.17), (112.75, 31.24)],
            31.379878202398,
        ),
    ],
)
def test_published_examples(anchor: Points, test: Points, percent: float) -> None:
    assert bd_rate(anchor, test) == pytest.approx(percent, abs=1e-4)


def test_by_hand() -> None:
    assert bd_rate([(1, 1), (10, 2)], [(2, 1), (20, 2)]) == pytest.approx(100)
    # Log rates rise by 0 to 1 and by 1 to 2 decades on the common range from 1.5 to 2: a difference of 1/2 decade.
    assert bd_rate([(1, 1), (10, 2)], [(10, 1.5), (10**1.5, 2)]) == pytest.approx((10**0.5 - 1) * 100)


@pytest.mark.parametrize(
    ("anchor", "test"),
    [
        ([], [(1, 1), (2, 2)]),
        ([(1, 1), (2, 2)], [(5, 5)]),
        ([(1, 1), (2, 2)], [(1, 3), (2, 4)]),
        ([(1, 1), (2, 2)], [(1, 2), (2, 4)]),
        ([(1, 2), (2, 1)], [(1, 1), (2, 2)]),  # the dearer point is worse: one point is left
    ],
)
def test_curves_that_cannot_be_compared(anchor: Points, test: Points) -> None:
    assert bd_rate(anchor, test) is None


def test_front_by_hand() -> None:
    assert front([(3, 0.9), (1, 0.5), (2, 0.4), (4, 0.9), (1, 0.6), (5, 1.0)]) == [(1, 0.6), (3, 0.9), (5, 1.0)]


curves = st.lists(
    st.tuples(st.floats(1, 1e6), st.floats(0, 1)).map(lambda point: (round(point[0], 2), round(point[1], 3))),
    max_size=8,
)


@given(curves)
def test_no_point_of_the_front_is_beaten(curve: Points) -> None:
    best = front(curve)
    assert best == sorted(best)
    for rate, quality in curve:
        assert any(r <= rate and q >= quality for r, q in best)


@given(curves, curves)
def test_there_and_back_is_no_difference(one: Points, other: Points) -> None:
    there, back = bd_rate(one, other), bd_rate(other, one)
    assert (there is None) == (back is None)
    assume(there is not None and back is not None)
    assert there is not None
    assert back is not None
    # Rounded to 4 decimals, which is much of a rate that fell to almost nothing.
    assert math.log1p(there / 100) == pytest.approx(-math.log1p(back / 100), abs=0.01 * (2 + abs(there) + abs(back)))


@given(curves, st.floats(0.01, 100))
def test_rates_times_a_factor_differ_by_the_factor(curve: Points, factor: float) -> None:
    assume(len(front(curve)) >= 2)
    found = bd_rate(curve, [(rate * factor, quality) for rate, quality in curve])
    assert found == pytest.approx((factor - 1) * 100, abs=1e-3)
