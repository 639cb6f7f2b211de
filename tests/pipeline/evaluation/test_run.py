from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.evaluation.run import Evaluation, evaluate_accuracy, evaluate_rate
from splitrtc_errors import BadArgument, CodecError, UnknownModel


def untracked(total: int) -> Callable[[], None]:
    return lambda: None


@pytest.fixture
def white(tmp_path: Path) -> Path:
    """Two white pictures, in which the tiny model finds a cat and a dog."""
    folder = tmp_path / "white"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), np.full((20, 30, 3), 255, np.uint8))
    value = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 30, 20]}],
    }
    (folder / "labels.json").write_text(json.dumps(value))
    return folder


def evaluation(tiny_model: Path, data: Path, **settings: Any) -> Evaluation:
    return Evaluation(data=data, model="tiny", models=[tiny_model], provider="cpu", jobs=1, **settings)


def test_the_ladder_is_the_card_s_without_what_has_no_calibration(tiny_model: Path, white: Path) -> None:
    assert [split.name for split in evaluation(tiny_model, white).splits()] == ["raw", "raw-zstd"]
    chosen = evaluation(tiny_model, white, profiles=["raw-zstd"], partition="late").splits()
    assert [(split.name, split.point.cut.name) for split in chosen] == [("raw-zstd", "late")]
    with pytest.raises(UnknownModel, match="calibration"):
        evaluation(tiny_model, white, profiles=["q4"]).splits()


def test_a_model_that_detects_nothing_cannot_be_compared(scene: Path, white: Path) -> None:
    asked = Evaluation(data=white, model="scene", models=[scene], annotations=white / "labels.json")
    with pytest.raises(BadArgument, match="model scene gives tensors and detects nothing"):
        evaluate_accuracy(asked, say=lambda _: None, track=untracked)


def test_settings_reach_the_contenders(tiny_model: Path, white: Path) -> None:
    splits = evaluation(tiny_model, white, rtt_frames=5, slice_loss=0.25, slice_burst=2.0, seed=7).splits()
    assert {(split.rtt_frames, split.loss, split.burst, split.seed) for split in splits} == {(5, 0.25, 2.0, 7)}


def test_a_run_says_what_it_takes_and_how_much_there_is_to_do(tiny_model: Path, white: Path) -> None:
    said: list[str] = []
    totals: list[int] = []
    done: list[None] = []

    def track(total: int) -> Callable[[], None]:
        totals.append(total)
        return lambda: done.append(None)

    report = evaluate_rate(evaluation(tiny_model, white, pictures="jpeg:90"), said.append, track)
    assert said == [f"{white}: 2 of 2 pictures"]
    assert totals == [len(done)] == [6 * 3]
    assert [row["name"] for row in report["contenders"]][:2] == ["raw", "raw-zstd"]


def test_a_profile_that_fails_ends_an_accuracy_run(
    tiny_model: Path, white: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycocotools", reason="mAP needs the extra 'eval'")

    def refuse(*_: object) -> None:
        raise CodecError("not these")

    chosen = evaluation(tiny_model, white, annotations=white / "labels.json", profiles=["raw"])
    assert evaluate_accuracy(chosen, print, untracked)["images"] == 2
    monkeypatch.setattr("pipeline.evaluation.split.make_encoder", refuse)
    with pytest.raises(CodecError, match="not these"):
        evaluate_accuracy(chosen, print, untracked)
