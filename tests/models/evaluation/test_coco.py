from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import Detections
from models.evaluation.bootstrap import weights
from models.evaluation.coco import Annotations
from splitrtc_errors import BadArgument, MissingDependency, SourceError

LABELS = ("cat", "?", "dog")
CATEGORIES = [{"id": 7, "name": "Dog"}, {"id": 3, "name": "cat"}, {"id": 9, "name": "zebra"}]
Box = Sequence[float]


def labels_of(tmp_path: Path, objects: Mapping[str, Sequence[tuple[int, Box]]], **extra: Any) -> Annotations:
    """A file with these objects by picture, category and (x, y, width, height)."""
    value = {
        "images": [{"id": 50 - number, "file_name": f"deep/{name}"} for number, name in enumerate(objects)],
        "categories": CATEGORIES,
        "annotations": [
            {"image_id": 50 - number, "category_id": category, "bbox": list(box)}
            for number, boxes in enumerate(objects.values())
            for category, box in boxes
        ],
        **extra,
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(value))
    pytest.importorskip("pycocotools", reason="mAP needs the extra 'eval'")
    return Annotations(path, LABELS)


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Detections from (x1, y1, x2, y2, score, class), the surest first."""
    return Detections(
        np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[4] for row in rows], np.float32),
        np.array([row[5] for row in rows], np.int64),
    )


def test_by_hand(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, {"a.jpg": [(3, (0, 0, 100, 100))]})
    # Overlaps by 0.62: found at the thresholds 0.50, 0.55 and 0.60 of ten.
    scores = labels.score({"a.jpg": found((0, 0, 100, 62, 0.9, 0))})
    assert (scores.mean_ap, scores.ap50, scores.ap75) == pytest.approx((30, 100, 0))
    # A surer false one before it: precision one half at every recall.
    scores = labels.score({"a.jpg": found((200, 0, 300, 62, 0.95, 0), (0, 0, 100, 100, 0.9, 0))})
    assert scores.mean_ap == pytest.approx(50)
    assert scores.resampled(np.ones((1, 1))) == pytest.approx([50])


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, {"a.jpg": [(7, (0, 0, 10, 10))], "b.jpg": []})
    assert "a.jpg" in labels
    assert "deep/a.jpg" not in labels
    dog, cat, gap = (found((0, 0, 10, 10, 0.9, kind)) for kind in (2, 0, 1))
    assert labels.score({"a.jpg": dog}).mean_ap == pytest.approx(100)
    assert labels.score({"a.jpg": cat}).mean_ap == 0
    assert labels.score({"a.jpg": gap}).mean_ap == 0  # no category has its name: it is no result at all
    # What was not looked at does not count.
    assert labels.score({"b.jpg": found()}).mean_ap == 0
    assert np.isnan(labels.score({"b.jpg": found()}).resampled(np.ones((1, 1)))).all()


def random_case(seed: int) -> tuple[dict[str, list[tuple[int, Box]]], dict[str, Detections]]:
    """Pictures with objects of three classes and detections around them, some of them right."""
    random = np.random.default_rng(seed)
    objects: dict[str, list[tuple[int, Box]]] = {}
    detections = {}
    for name in ("b.jpg", "c.jpg", "a.jpg", "d.jpg"):
        boxes = random.integers(10, 60, (random.integers(0, 6), 4)).astype(float)
        objects[name] = [(int(random.choice([3, 7, 9])), tuple(box)) for box in boxes]
        near = np.concatenate([boxes, boxes])[:, [0, 1, 0, 1]] + random.normal(0, 2, (2 * len(boxes), 4))
        near[:, 2:] += np.concatenate([boxes, boxes])[:, 2:]
        kinds = [{3: 0, 7: 2, 9: 1}[category] for category, _ in objects[name]] * 2
        scores = np.sort(random.random(len(near)))[::-1]
        detections[name] = Detections(
            near.astype(np.float32), scores.astype(np.float32), np.array(kinds, np.int64).reshape(-1)
        )
    return objects, detections


@pytest.mark.parametrize("seed", range(5))
def test_resampling_is_what_the_library_says_of_repeated_images(tmp_path: Path, seed: int) -> None:
    objects, detections = random_case(seed)
    scores = labels_of(tmp_path, objects).score(detections)
    assert scores.resampled(np.ones((1, 4))) == pytest.approx([scores.mean_ap], abs=1e-9)
    counts = weights(4, seed, draws=3)
    for row, value in zip(counts, scores.resampled(counts), strict=True):
        copies = [
            (f"{copy}{name}", name) for name, count in zip(detections, row, strict=True) for copy in range(int(count))
        ]
        repeated = labels_of(tmp_path, {copy: objects[name] for copy, name in copies})
        expected = repeated.score({copy: detections[name] for copy, name in copies}).mean_ap
        assert (0 if np.isnan(value) else value) == pytest.approx(expected, abs=1e-9)


def test_many_draws_are_those_of_each(tmp_path: Path) -> None:
    objects, detections = random_case(1)
    scores = labels_of(tmp_path, objects).score(detections)
    counts = weights(4, draws=120)
    singly = np.concatenate([scores.resampled(row[None]) for row in counts])
    assert np.array_equal(scores.resampled(counts), singly, equal_nan=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "COCO's format"),
        (json.dumps({"images": []}), "COCO's format"),
        (json.dumps({"images": [{"id": 1}], "categories": [], "annotations": []}), "COCO's format"),
        (
            json.dumps(
                {"images": [], "categories": [], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1]}]}
            ),
            "COCO's format",
        ),
        (json.dumps({"images": [], "categories": [{"id": 1, "name": "fish"}], "annotations": []}), "'cat'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    pytest.importorskip("pycocotools", reason="mAP needs the extra 'eval'")
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(BadArgument, match=message):
        Annotations(path, LABELS)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="mAP needs the extra 'eval'")
    with pytest.raises(SourceError, match="cannot read the annotations"):
        Annotations(tmp_path / "none.json", LABELS)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("pycocotools", "pycocotools.cocoeval"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=r"pip install 'splitrtc\[eval\]'"):
        Annotations(tmp_path / "labels.json", LABELS)
