from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import TestPattern
from pipeline.sources.base import RateLimit


def admitted(fps: float | None, positions: list[float]) -> list[int]:
    """Indices of the pictures that are used."""
    limit = RateLimit(fps)
    return [index for index, position in enumerate(positions) if limit.admits(position)]


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6]),
        (60, [0, 1, 2, 3, 4, 5, 6]),
        (30, [0, 1, 2, 3, 4, 5, 6]),
        (15, [0, 2, 4, 6]),
        (10, [0, 3, 6]),
        (1, [0]),
    ],
)
def test_a_steady_stream_is_thinned_out_evenly(fps: float | None, expected: list[int]) -> None:
    assert admitted(fps, [100 + index / 30 for index in range(7)]) == expected


def test_two_of_three() -> None:
    assert len(admitted(20, [index / 30 for index in range(300)])) == pytest.approx(200, abs=1)


def test_jitter_of_a_camera_that_has_the_rate_already_costs_nothing() -> None:
    jitter = itertools.cycle([0.0, 0.008, -0.008, 0.005])
    assert admitted(30, [index / 30 + next(jitter) for index in range(100)]) == list(range(100))


def test_after_a_pause_there_is_no_burst() -> None:
    positions = [0.0, 10.0, *(10 + index / 100 for index in range(1, 21))]
    assert admitted(10, positions) == [0, 1, 9, 19]


@given(st.floats(0.5, 120), st.lists(st.floats(0, 1), min_size=1, max_size=100))
def test_on_average_it_is_never_more_than_asked_for(fps: float, steps: list[float]) -> None:
    positions = list(itertools.accumulate(steps))
    used = admitted(fps, positions)
    assert used[0] == 0
    for (number, first), (later, last) in itertools.combinations(enumerate(used), 2):
        assert later - number <= (positions[last] - positions[first]) * fps + 1 + 1e-6


def test_most_sources_need_no_interruption() -> None:
    TestPattern().interrupt()
