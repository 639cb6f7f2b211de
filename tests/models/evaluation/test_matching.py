from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import Detections
from models.evaluation.matching import IOU, f1, matches, overlaps

Object = tuple[float, float, float, float, float, int]


def detections(*objects: Object) -> Detections:
    """Detections from (x1, y1, x2, y2, score, class), in any order."""
    rows = sorted(objects, key=lambda row: -row[4])
    return Detections(
        np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[4] for row in rows], np.float32),
        np.array([row[5] for row in rows], np.int64),
    )


corner = st.integers(0, 20)
side = st.integers(1, 10)
objects = st.builds(
    lambda x, y, w, h, score, kind: (float(x), float(y), float(x + w), float(y + h), score, kind),
    corner, corner, side, side, st.floats(0, 1, width=16), st.integers(0, 2),
)  # fmt: skip
sets = st.lists(objects, max_size=8).map(lambda rows: detections(*rows))


def test_overlaps_by_hand() -> None:
    one = np.array([[0, 0, 2, 2], [5, 5, 5, 9]], np.float32)
    other = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [5, 5, 5, 9]], np.float32)
    assert overlaps(one, other) == pytest.approx(np.array([[1 / 7, 1, 0, 0], [0, 0, 0, 0]]))


def test_a_partner_has_the_same_class_and_overlaps_enough() -> None:
    wanted = detections((0, 0, 10, 10, 0.9, 1))
    assert matches(detections((0, 0, 10, 5, 0.5, 1)), wanted) == 1  # exactly one half
    assert matches(detections((0, 0, 10, 4.9, 0.5, 1)), wanted) == 0
    assert matches(detections((0, 0, 10, 10, 0.5, 2)), wanted) == 0


def test_a_partner_is_had_once() -> None:
    wanted = detections((0, 0, 10, 10, 0.9, 1))
    assert matches(detections((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 9, 0.8, 1)), wanted) == 1


def test_the_surest_chooses_first_and_takes_the_best() -> None:
    # The sure one fits both, the other only the first: it goes away empty, since the sure one likes the first better.
    wanted = detections((0, 0, 10, 10, 0.9, 1), (0, 4, 10, 14, 0.8, 1))
    sure, other = (0, 0, 10, 11, 0.9, 1), (0, -2, 10, 8, 0.4, 1)
    assert matches(detections(sure, other), wanted) == 1
    assert matches(detections((*sure[:4], 0.3, 1), other), wanted) == 2


def test_nothing_matches_nothing() -> None:
    nothing, something = detections(), detections((0, 0, 1, 1, 0.5, 0))
    assert matches(nothing, nothing) == matches(nothing, something) == matches(something, nothing) == 0


@given(sets)
def test_everything_finds_itself(found: Detections) -> None:
    assert matches(found, found) == len(found)


@given(sets, sets)
def test_no_more_matches_than_possible_pairs(found: Detections, wanted: Detections) -> None:
    hits = matches(found, wanted)
    possible = (overlaps(found.xyxy, wanted.xyxy) >= IOU) & (found.classes[:, None] == wanted.classes[None])
    assert hits <= min(possible.any(axis=1).sum(), possible.any(axis=0).sum())
    assert (hits > 0) == bool(possible.any())


def test_f1_by_hand() -> None:
    hits, found, wanted = np.array([[3, 0, 0], [4, 2, 0], [6, 0, 0]], np.float64)
    assert f1(hits, found, wanted) == pytest.approx([0.6, 0, 1])
