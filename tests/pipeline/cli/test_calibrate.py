from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import Calibration, Zoo, bytes_digest

Call = Callable[..., Any]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    import cv2

    folder = tmp_path / "pictures"
    folder.mkdir()
    across, down = np.meshgrid(np.arange(320), np.arange(240))
    for number in range(3):
        planes = [across * (number + 1) % 256, down * 3 % 256, (across + down) * number % 256]
        cv2.imwrite(str(folder / f"{number}.PNG"), np.stack(planes, axis=2).astype(np.uint8))
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def calibrate(splitrtc: Call, pictures: Path) -> Call:
    """The command for ranges only, which needs no torch."""

    def run(*arguments: str) -> Any:
        return splitrtc("calibrate", "--images", str(pictures), "--profile", "q8", *arguments)

    return run


@pytest.fixture
def other_zoo(tmp_path: Path) -> Path:
    """A folder with a model of which one partition has a calibration file and the other has none."""
    card = Zoo().get()
    data = card.path.read_bytes() + b"\x32\x05other"  # a doc_string: the same model with another digest
    value = card.to_json() | {"name": "other", "digest": bytes_digest(data), "size": len(data)}
    value["partitions"][0]["calibration"] = "mine.json"
    del value["partitions"][1]["calibration"]
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "card.json").write_text(json.dumps(value), encoding="utf-8")
    (folder / card.file).write_bytes(data)
    return folder


def test_it_makes_a_file(calibrate: Call, tmp_path: Path) -> None:
    out = tmp_path / "made.json"
    done = calibrate("--out", str(out), "--every", "2")
    calibration = Calibration.load(out)
    assert done.exit_code == 0
    assert done.out == f"{out}: {calibration.digest}, {out.stat().st_size} bytes, made from 2 images\n"
    tensor = calibration.of("Conv__979:0")
    assert (tensor.axis, tensor.low.size, tensor.klt) == (1, 64, None)
    assert (tensor.low < tensor.high).all()


def test_it_makes_what_profiles_need_and_keeps_the_rest(splitrtc: Call, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "made.json"
    common = ("calibrate", "--images", str(pictures), "--out", str(out))
    assert splitrtc(*common, "--profile", "q4-range", "--profile", "pca", "--made-from", "stripes").exit_code == 0
    first = Calibration.load(out).of("Conv__979:0")
    assert [first.missing(name) for name in ("klt", "range", "pca", "clusters")] == [True, False, False, True]
    assert splitrtc(*common, "--profile", "clusters", "--every", "2", "--update").exit_code == 0
    second = Calibration.load(out).of("Conv__979:0")
    assert Calibration.load(out).made_from == "stripes"
    assert not second.missing("clusters")
    assert (second.low.tolist(), second.high.tolist()) == (first.low.tolist(), first.high.tolist())
    assert first.range is not None
    assert second.range is not None
    assert second.range.to_json() == first.range.to_json()
    done = splitrtc(*common, "--profile", "clusters", "--update", "--partition", "bottleneck_12")
    assert done.exit_code == 2
    assert "without --update" in done.err


def test_it_tells_machines_what_it_made(calibrate: Call, tmp_path: Path) -> None:
    out = tmp_path / "made.json"
    facts = calibrate("--out", str(out), "--json").json
    assert facts["digest"] == Calibration.load(out).digest
    assert (facts["file"], facts["bytes"], facts["made_from"]) == (str(out), out.stat().st_size, "3 images")


def test_it_writes_where_the_card_says(calibrate: Call, other_zoo: Path) -> None:
    options = ("--models", str(other_zoo), "--model", "other", "--made-from", "stripes", "--percentile", "1")
    assert calibrate(*options).exit_code == 0
    calibration = Calibration.load(other_zoo / "mine.json")
    assert calibration.made_from == "stripes"
    assert calibration.model == Zoo([other_zoo]).get("other").digest
    done = calibrate(*options, "--partition", "bottleneck_12")
    assert (done.exit_code, done.out) == (2, "")
    assert "say where with --out" in done.err


def test_what_is_no_picture_is_refused(calibrate: Call, pictures: Path, tmp_path: Path) -> None:
    (pictures / "3.jpg").write_text("no picture")
    done = calibrate("--out", str(tmp_path / "x.json"))
    assert done.exit_code == 4
    assert "cannot read the picture" in done.err
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--every", "0"], 2, "a distance of at least 1"),
        (["--images", "/nowhere"], 2, "a folder of pictures"),
        (["--images", "/proc/self"], 2, "no picture in"),
        (["--every", "9", "--percentile", "50"], 2, "percentile"),
        (["--model", "nobody"], 3, "nobody"),
        (["--partition", "nowhere"], 3, "nowhere"),
        (["--profile", "raw"], 2, "needs no calibration"),
        (["--profile", "q5"], 3, "there is no profile"),
        (["--out", "/nowhere/x.json", "--every", "3"], 5, "cannot write"),
    ],
)
def test_what_is_wrong_is_told(calibrate: Call, arguments: list[str], code: int, reason: str) -> None:
    done = calibrate(*arguments)
    assert (done.exit_code, done.out) == (code, "")
    assert reason in done.err


def test_without_torch_it_says_how_to_get_it(
    splitrtc: Call, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    done = splitrtc("calibrate", "--images", str(pictures), "--out", str(tmp_path / "x.json"))
    assert done.exit_code == 6
    assert "pip install 'splitrtc[calibrate]'" in done.err
