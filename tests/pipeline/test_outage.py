from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.outage import COLOURS, outage_figures, plot_modes
from splitrtc_errors import SinkError

KILLED, READY = 5.0, 10.0


def frame(captured: float, mode: str = "split", *, age: float = 0.05, answered: bool = True) -> dict[str, Any]:
    timings = {"total": age * 1000} if answered else {}
    return {"captured": captured, "mode": mode, "timings_ms": timings, "status": "ok" if answered else "lost"}


def run() -> list[dict[str, Any]]:
    """Ten frames a second; after the kill 0.6 s without a result, then the device's own until 11 s."""
    frames = [frame(at / 10) for at in range(50)]
    frames += [frame(at / 10, "split", answered=False) for at in range(50, 55)]
    frames += [frame(at / 10, "local", age=0.03) for at in range(55, 110)]
    return frames + [frame(at / 10) for at in range(110, 150)]


def test_the_longest_gap_after_the_kill_and_the_way_back() -> None:
    figures = outage_figures(run(), KILLED, READY)
    assert figures == {"fallback_gap_s": pytest.approx(0.58), "resume_split_s": pytest.approx(1.05)}


def test_gaps_before_the_kill_are_none_of_its_own() -> None:
    frames = [each for each in run() if not 1 < each["captured"] < 3]
    assert outage_figures(frames, KILLED, READY)["fallback_gap_s"] == pytest.approx(0.58)


def test_a_result_that_is_older_than_one_that_was_there_is_no_news() -> None:
    late = frame(5.3, "split", age=0.5)
    assert outage_figures([*run(), late], KILLED, READY) == outage_figures(run(), KILLED, READY)


@pytest.mark.parametrize(
    ("frames", "ready"), [([], None), ([frame(1.0)], READY), ([frame(at / 10) for at in range(49)], None)]
)
def test_what_did_not_happen_has_no_figure(frames: list[dict[str, Any]], ready: float | None, tmp_path: Path) -> None:
    assert outage_figures(frames, KILLED, ready) == {"fallback_gap_s": None, "resume_split_s": None}
    plot_modes(frames, KILLED, ready, tmp_path / "modes.png")
    assert cv2.imread(str(tmp_path / "modes.png")) is not None


def test_the_picture_shows_both_modes_as_long_as_they_lasted(tmp_path: Path) -> None:
    plot_modes(run(), KILLED, READY, tmp_path / "modes.png")
    picture = cv2.imread(str(tmp_path / "modes.png"))
    assert picture is not None
    share = {}
    for mode in ("split", "local"):
        colour = np.array(list(bytes.fromhex(COLOURS[mode][1:])))[::-1]
        pale = 255 - 0.35 * (255 - colour)
        share[mode] = float((np.abs(picture - pale).max(axis=2) < 4).mean())
    assert share["split"] > 0.3
    assert share["local"] / share["split"] == pytest.approx(5.5 / 9.4, rel=0.15)


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="modes.png"):
        plot_modes(run(), KILLED, READY, tmp_path / "no" / "modes.png")
