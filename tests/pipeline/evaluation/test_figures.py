from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models import Detections
from pipeline.evaluation.contender import Outcome
from pipeline.evaluation.figures import agreement, bd_rates, cheapest, drop, given_up, rate_figures


def seen(count: int, score: float = 0.9) -> Detections:
    """So many objects side by side."""
    boxes = [[20 * number, 0, 20 * number + 10, 10] for number in range(count)]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.full(count, score, np.float32), np.zeros(count, np.int64)
    )


def outcome(size: int, seconds: float = 0.001) -> Outcome:
    return Outcome(size, seconds, 2 * seconds, 3 * seconds, 4 * seconds, seen(0))


def test_first_frames_stand_beside_the_mean() -> None:
    sizes = [900, 100, 110, 700, 120, 130]
    figures = rate_figures([outcome(size) for size in sizes], [3, 3])
    assert (figures["bytes_per_frame"], figures["first_frame_bytes"]) == (115, 800)
    assert [figures[f"{name}_ms"] for name in ("encode", "decode", "device", "edge")] == [1, 2, 3, 4]


def test_of_stills_every_frame_counts() -> None:
    figures = rate_figures([outcome(size) for size in (10, 20)], [1, 1])
    assert (figures["bytes_per_frame"], figures["first_frame_bytes"]) == (15, None)


def test_times_are_medians() -> None:
    assert rate_figures([outcome(1, 0.001), outcome(1, 0.002), outcome(1, 9)], [3])["encode_ms"] == 2


def test_agreement_by_hand() -> None:
    # 3 of 4 found in every frame of the first half, all in the second; nothing below the score counts.
    found = [seen(3)] * 40 + [seen(4)] * 40
    value, (low, high) = agreement(found, [seen(4)] * 80, [40, 40], seed=0)
    assert value == pytest.approx(2 * 280 / (280 + 320), abs=1e-4)
    assert low == pytest.approx(6 / 7, abs=1e-4)  # all four blocks from the first half: one draw in 16
    assert high == 1
    value, ends = agreement([seen(2, 0.29)] * 3, [seen(0)] * 3, [3], seed=0)
    assert (value, ends) == (1, (1, 1))


def test_what_loss_costs_by_hand() -> None:
    # Two runs that miss one of four in half of the frames each: 3 + 4 of 8, over both halves alike.
    whole, worse = [seen(4)] * 80, [seen(3), seen(4)] * 40
    lost, ends = given_up(whole, [worse, worse[::-1]], whole, [40, 40])
    assert lost == pytest.approx(1 - 2 * 280 / (280 + 320), abs=1e-4)
    assert ends == (lost, lost)  # every block has lost the same
    assert given_up(whole, [whole], whole, [40, 40]) == (0, (0, 0))


def rows(**points: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """Contenders by series; those with a capital are pictures."""
    return [
        {
            "name": f"{series}{number}",
            "series": series,
            "kind": "picture" if series[0].isupper() else "split",
            "bytes_per_frame": size,
            "f1": value,
        }
        for series, curve in points.items()
        for number, (size, value) in enumerate(curve)
    ]


def test_every_profile_is_compared_with_every_picture() -> None:
    contenders = rows(ours=[(100, 0.9), (200, 0.95)], Jpeg=[(200, 0.9), (400, 0.95)], Far=[(1, 0.1), (2, 0.2)])
    assert bd_rates(contenders) == [
        {"series": "ours", "against": "Jpeg", "percent": -50},
        {"series": "ours", "against": "Far", "percent": None},
    ]


def test_the_cheapest_are_those_that_are_good_enough() -> None:
    contenders = rows(ours=[(100, 0.9), (300, 0.96), (200, 0.97)], Jpeg=[(500, 0.96), (400, 0.9), (600, 0.99)])
    assert cheapest(contenders, 0.96) == {"at": 0.96, "split": "ours2", "picture": "Jpeg0", "ratio": 2.5}
    assert cheapest(contenders, 0.98) == {"at": 0.98, "split": None, "picture": "Jpeg2", "ratio": None}
    lost = [
        {key: value for key, value in row.items() if key != "f1"} | {"map_drop": 1 - row["f1"]} for row in contenders
    ]
    assert cheapest(lost, -0.05)["split"] == "ours2"
    assert cheapest(lost, -0.05)["at"] == 0.05


def test_the_interval_of_a_drop_is_that_of_the_difference() -> None:
    whole = np.linspace(20, 40, 101)
    assert drop(whole, whole - 0.5) == (0.5, 0.5)
    assert drop(whole, np.linspace(20, 39, 101)) == (0.05, 0.95)
