from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.outcome import FrameResult, Timings
from pipeline.plot import COLOURS, plot_latency, read_lines
from pipeline.summary import STAGES, Summary
from splitrtc_errors import MissingDependency, SinkError

Make = Callable[..., FrameResult]


def draw(results: list[FrameResult], path: Path) -> np.ndarray:
    """The picture of a run, by way of the file of JSON lines; and as a cold reader sees it."""
    summary = Summary()
    lines = path.with_suffix(".jsonl")
    with lines.open("w") as file:
        for result in results:
            summary.add(result)
            file.write(json.dumps(result.to_json()) + "\n")
    plot_latency(read_lines(lines), summary.to_json()["latency_ms"], path)
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


def has(picture: np.ndarray, stage: str, share: float) -> bool:
    """Whether at least this share of the picture has the stage's colour."""
    red, green, blue = bytes.fromhex(COLOURS[stage].removeprefix("#"))
    alike = np.abs(picture.astype(int) - (blue, green, red)).max(axis=2) <= 3
    return bool(alike.mean() >= share)


def test_every_stage_has_a_colour() -> None:
    assert set(COLOURS) == set(STAGES)
    assert len(set(COLOURS.values())) == len(STAGES)


def test_stages_take_as_much_of_the_picture_as_they_take_of_the_time(make_result: Make, tmp_path: Path) -> None:
    timings = Timings(head=0.010, tail=0.010, network=0.0001, total=0.0201)
    picture = draw([replace(make_result(index), timings=timings) for index in range(30)], tmp_path / "plot.png")
    assert has(picture, "head", 0.1)
    assert has(picture, "tail", 0.1)
    assert not has(picture, "network", 0.02)


@pytest.mark.parametrize("answered", [[], [True], [False], [True, False, True]])
def test_few_frames_make_a_picture_too(make_result: Make, tmp_path: Path, answered: list[bool]) -> None:
    results = [make_result(index, answered=flag) for index, flag in enumerate(answered)]
    assert draw(results, tmp_path / "plot.png").shape[2] == 3


def test_one_outlier_does_not_flatten_the_rest(make_result: Make, tmp_path: Path) -> None:
    quick, slow = Timings(head=0.010, total=0.010), Timings(head=10.0, total=10.0)
    results = [replace(make_result(index), timings=slow if index == 150 else quick) for index in range(300)]
    assert has(draw(results, tmp_path / "plot.png"), "head", 0.1)


def test_a_file_that_cannot_be_written_is_told(make_result: Make, tmp_path: Path) -> None:
    (tmp_path / "plot.png").mkdir()
    with pytest.raises(SinkError, match="cannot write the plot"):
        draw([make_result()], tmp_path / "plot.png")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=r"splitrtc\[plot\]"):
        plot_latency([], Summary().to_json()["latency_ms"], tmp_path / "plot.png")


def test_the_caller_s_own_plots_are_left_alone(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from pipeline.plot import plot_latency\n"
        "from pipeline.summary import Summary\n"
        f"plot_latency([], Summary().to_json()['latency_ms'], pathlib.Path({str(tmp_path / 'plot.png')!r}))\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
