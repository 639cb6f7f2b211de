from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from pipeline.evaluation.plot import PICTURES, SPLITS, plot_rate
from pipeline.evaluation.table import accuracy_table, rate_table
from splitrtc_errors import MissingDependency, SinkError


def row(name: str, series: str, kind: str, size: float, value: float, *, labelled: bool) -> dict[str, Any]:
    accuracy = {"map": 30 - value, "map_drop": value} if labelled else {"f1": value}
    return {
        "name": name, "series": series, "kind": kind, "bytes_per_frame": size, "first_frame_bytes": None,
        "encode_ms": 1.0, "decode_ms": 2.0, "device_ms": 3.0, "edge_ms": 4.0,
        **accuracy, "ci": [value - 0.01, value + 0.01],
    }  # fmt: skip


def report(*, labelled: bool = False, rows: int = 4) -> dict[str, Any]:
    values = (2.5, 0.25) if labelled else (0.9, 0.97)
    contenders = [
        row("q4", "q", "split", 900, values[0], labelled=labelled),
        row("q8", "q", "split", 9000, values[1], labelled=labelled),
        row("h264 crf40 input", "h264 input", "picture", 500, values[0], labelled=labelled),
        row("odd q1 camera", "odd camera", "picture", 12345, values[1], labelled=labelled),
    ]
    return {
        "model": "m", "partition": "[p]", "set": "clip.mp4", "frames": 7, "level": 0.9,
        "contenders": contenders[:rows],
        "unavailable": [{"name": "vp7 input", "reason": "[nobody] has it"}],
        "cheapest": {"at": 0.96, "split": "q8" if rows else None, "picture": None, "ratio": None},
    } | ({"map": 30.0} if labelled else {})  # fmt: skip


def has(picture: np.ndarray, colour: str) -> bool:
    """Whether some of the picture is of this colour."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return bool((np.abs(picture.astype(int) - (blue, green, red)).max(axis=2) <= 3).sum() > 30)


@pytest.mark.parametrize("labelled", [False, True])
def test_every_codec_has_its_colour(tmp_path: Path, labelled: bool) -> None:
    plot_rate(report(labelled=labelled), tmp_path / "rate.png")
    picture = cv2.imread(str(tmp_path / "rate.png"))
    assert picture is not None
    assert has(picture, SPLITS[0])
    assert has(picture, PICTURES["h264"])
    assert not has(picture, PICTURES["av1"])


@pytest.mark.parametrize("labelled", [False, True])
def test_nothing_to_draw_is_a_picture_too(tmp_path: Path, labelled: bool) -> None:
    plot_rate(report(labelled=labelled, rows=0), tmp_path / "rate.png")
    assert cv2.imread(str(tmp_path / "rate.png")) is not None


def test_a_plot_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "rate.png").mkdir()
    with pytest.raises(SinkError, match="cannot write the plot"):
        plot_rate(report(), tmp_path / "rate.png")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match="pip install"):
        plot_rate(report(), tmp_path / "rate.png")


def shown(value: Any) -> str:
    with (console := Console(width=160)).capture() as capture:
        console.print(value)
    return capture.get()


def test_the_table_names_everything() -> None:
    text = shown(rate_table(report()))
    assert "m at [p] on clip.mp4, 7 frames" in text
    for expected in ("q4", "12345", "0.970", "0.960 .. 0.980", "vp7 input: not available: [nobody] has it"):
        assert expected in text
    assert "cheapest with F1 at least 0.96: split q8, 9000 bytes; picture none" in text
    value = report()
    value["cheapest"] = {"at": 0.9, "split": "q4", "picture": "h264 crf40 input", "ratio": 0.5556}
    assert "picture h264 crf40 input, 500 bytes (the picture takes 0.56 times the bytes)" in shown(rate_table(value))


def test_the_table_of_labelled_images_has_map() -> None:
    text = shown(rate_table(report(labelled=True)))
    assert "mAP lost" in text
    assert "2.49 .. 2.51" in text
    assert "at most 0.96" in text


def test_the_table_of_accuracy() -> None:
    figures = {"map": 30.25, "ap50": 47.0, "ap75": 31.5, "ci": [28.0, 32.0]}
    split = {"profile": "q8", "bytes_per_frame": 21000.4, "map_drop": 0.125, **figures}
    value = {"model": "m", "partition": "p", "set": "s", "images": 3, "level": 0.9, "whole": figures, "splits": [split]}
    text = shown(accuracy_table(value))
    for expected in ("whole model", "30.25", "47.00", "21000", "0.12", "28.00 .. 32.00", "90%"):
        assert expected in text
