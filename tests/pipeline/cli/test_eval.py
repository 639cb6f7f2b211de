from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from models import Detector, Preprocessor, Zoo, load_submodel
from pipeline.cli import run
from splitrtc_errors import BadArgument, MissingDependency, SinkError, SourceError, UnknownModel

Call = Callable[..., Any]
PAIRS = ("--profiles", "raw,q4-zstd", "--pictures", "jpeg:75@input,webp@input,h264:28@camera", "--provider", "cpu")


@pytest.fixture(scope="module")
def labelled(pictures: Sequence[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, with what the whole model surely finds in them as their labels."""
    folder = tmp_path_factory.mktemp("labelled")
    card = Zoo().get()
    preprocessor, detector, model = Preprocessor(card), Detector(card, 0.4), load_submodel(card.path, "cpu")
    names = sorted({label for label in card.labels if label != "?"})
    value: dict[str, list[Any]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    for number, image in enumerate(pictures[:5]):
        height, width = image.shape[:2]
        cv2.imwrite(str(folder / f"{number}.png"), image)
        value["images"].append({"id": number, "file_name": f"{number}.png"})
        found = detector.decode(model.run([preprocessor.prepare(image)]))
        boxes = preprocessor.undo(found.xyxy, (width, height)).tolist()
        for (x1, y1, x2, y2), label in zip(boxes, found.classes, strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": names.index(card.labels[label])}
            value["annotations"].append({"image_id": number, **box})
    (folder / "labels.json").write_text(json.dumps(value))
    return folder


@pytest.fixture
def labels_file(labelled: Path) -> Path:
    pytest.importorskip("pycocotools", reason="mAP needs the extra 'eval'")
    return labelled / "labels.json"


def test_rate_on_a_clip(splitrtc: Call, clip_path: Path, tmp_path: Path) -> None:
    words = ("--data", str(clip_path), "--segments", "0:3,90:3", "--out", str(tmp_path), "--json")
    done = splitrtc("eval", "rate", *words, *PAIRS)
    assert done.exit_code == 0, done.err
    assert "6 of 300 frames, as segments START:COUNT 0:3, 90:3" in done.err
    report = done.json
    assert report == json.loads((tmp_path / "rate.json").read_text())
    assert (report["set"], report["frames"], report["segments"]) == ("clip.mp4", 6, [[0, 3], [90, 3]])
    contenders = {row["name"]: row for row in report["contenders"]}
    assert list(contenders)[:3] == ["raw", "q4-zstd", "jpeg 4:2:0 q75 input"]
    assert "h264 crf28 camera" in contenders
    for row in contenders.values():
        assert row["kind"] == ("split" if row["name"] in ("raw", "q4-zstd") else "picture")
        low, high = row["ci"]
        assert 0 <= low <= row["f1"] <= high <= 1
        assert row["bytes_per_frame"] > 0
        assert 0 < row["encode_ms"] <= row["device_ms"]
        assert 0 < row["decode_ms"] <= row["edge_ms"]
    assert contenders["raw"]["f1"] == 1
    assert contenders["raw"]["bytes_per_frame"] == contenders["raw"]["first_frame_bytes"]
    assert contenders["h264 crf28 camera"]["bytes_per_frame"] < contenders["h264 crf28 camera"]["first_frame_bytes"]
    (missing,) = report["unavailable"]
    assert (missing["name"], missing["kind"]) == ("webp 4:4:4 q90 input", "picture")
    assert "4:4:4" in missing["reason"]
    assert {(one["series"], one["against"]) for one in report["bd_rate"]} >= {("raw", "h264 camera")}
    assert report["cheapest"]["at"] == 0.96
    plot = cv2.imread(str(tmp_path / "rate.png"))
    assert plot is not None


def test_rate_on_labelled_images(splitrtc: Call, labelled: Path, labels_file: Path, tmp_path: Path) -> None:
    words = ("--data", str(labelled), "--annotations", str(labels_file), "--out", str(tmp_path), *PAIRS)
    done = splitrtc("eval", "rate", *words)
    assert done.exit_code == 0, done.err
    report = json.loads((tmp_path / "rate.json").read_text())
    assert (report["frames"], report["segments"]) == (5, None)
    assert report["map"] > 90  # the labels are its own
    for row in report["contenders"]:
        assert row["map_drop"] == pytest.approx(report["map"] - row["map"], abs=1e-3)
        assert row["ci"][0] <= row["ci"][1]
        assert row["first_frame_bytes"] is None
        assert 0 <= row["agreement"] <= 1
    raw, *_ = report["contenders"]
    assert (raw["name"], raw["map_drop"], raw["ci"]) == ("raw", 0, [0, 0])
    assert "mAP lost" in done.out
    assert "raw" in done.out
    assert "webp 4:4:4 q90 input: not available" in done.out


def test_accuracy_of_the_whole_and_of_its_parts(splitrtc: Call, labelled: Path, labels_file: Path) -> None:
    words = ("eval", "accuracy", "--images", str(labelled), "--annotations", str(labels_file), "--provider", "cpu")
    done = splitrtc(*words, "--json")
    assert done.exit_code == 0, done.err
    report = done.json
    assert report["images"] == 5
    assert [row["profile"] for row in report["splits"]] == ["raw", Zoo().get().default_profile]
    assert report["splits"][0]["map"] == pytest.approx(report["whole"]["map"], abs=1e-4)
    low, high = report["whole"]["ci"]
    assert low <= high <= 100
    table = splitrtc(*words, "--profile", "q8", "--frames", "2")
    assert table.exit_code == 0, table.err
    assert "2 images" in table.out
    assert "q8" in table.out


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("--data", "none.mp4"), SourceError, "no file none.mp4"),
        (("--data", "{clip}", "--pictures", "h266"), BadArgument, "h266"),
        (("--data", "{clip}", "--profiles", "q5"), UnknownModel, "q5"),
        (("--data", "{clip}", "--profiles", "q4:x"), BadArgument, "q4:x"),
        (("--data", "{clip}", "--model", "none"), UnknownModel, "none"),
        (("--data", "{clip}", "--partition", "none"), UnknownModel, "none"),
        (("--data", "{clip}", "--segments", "5"), BadArgument, "START:COUNT"),
        (("--data", "{folder}", "--segments", "0:5"), BadArgument, "folder of pictures"),
    ],
)
def test_rate_tells_in_one_line_what_is_wrong(
    splitrtc: Call, clip_path: Path, labelled: Path, words: Sequence[str], error: type[Exception], message: str
) -> None:
    done = splitrtc("eval", "rate", *(word.format(clip=clip_path, folder=labelled) for word in words))
    assert (done.exit_code, done.out) == (error.exit_code, "")  # type: ignore[attr-defined]
    assert message in done.error


def test_annotations_that_are_none_are_told(splitrtc: Call, labelled: Path, labels_file: Path, tmp_path: Path) -> None:
    words = ("eval", "accuracy", "--images", str(labelled), "--annotations")
    done = splitrtc(*words, str(tmp_path / "none.json"))
    assert (done.exit_code, done.out) == (SourceError.exit_code, "")
    (other := tmp_path / "other.json").write_text("[]")
    done = splitrtc(*words, str(other))
    assert (done.exit_code, done.out) == (BadArgument.exit_code, "")
    assert "COCO's format" in done.error
    done = splitrtc("eval", "accuracy", "--images", str(tmp_path), "--annotations", str(labels_file))
    assert done.exit_code == SourceError.exit_code


@pytest.mark.parametrize(
    ("package", "words"), [("pycocotools", ("accuracy", "--images")), ("matplotlib", ("rate", "--data"))]
)
def test_a_missing_package_is_told_before_the_work(
    splitrtc: Call, labelled: Path, monkeypatch: pytest.MonkeyPatch, package: str, words: Sequence[str]
) -> None:
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    others = ("--annotations", str(labelled / "labels.json"))
    done = splitrtc("eval", *words, str(labelled), *others)
    assert (done.exit_code, done.out) == (MissingDependency.exit_code, "")
    assert "pip install 'splitrtc[" in done.error


def test_a_folder_that_cannot_be_written_is_told(splitrtc: Call, clip_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ("--data", str(clip_path), "--segments", "0:1", "--profiles", "q4", "--pictures", "none")
    done = splitrtc("eval", "rate", *words, "--out", str(tmp_path / "file" / "below"))
    assert done.exit_code == SinkError.exit_code
    assert "cannot write" in done.err


def test_help_names_both(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "--help"]) == 0
    out = capfd.readouterr().out
    assert "rate" in out
    assert "accuracy" in out
