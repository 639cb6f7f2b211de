"""COCO's mean average precision (mAP), by pycocotools, and for resampled sets of images.

All figures are in percent of precision, as papers print them: 30.5, not 0.305.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.detection import Detections
from splitrtc_errors import BadArgument, MissingDependency, SourceError

__all__ = ["MIN_SCORE", "Annotations", "Scores", "require_pycocotools"]

MIN_SCORE = 0.01
"""Detections below this score change mAP by less than a hundredth of a percent, and cost most of the time."""

_CHUNK = 50
"""Draws that are computed at once; bounds the memory."""


def require_pycocotools() -> None:
    """Raise MissingDependency when mAP cannot be computed; loads what is needed otherwise."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"mAP needs pycocotools ({error}): pip install 'splitrtc[eval]'") from error


class Annotations:
    """A file of labels in COCO's format, for pictures known by their file names."""

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        """Read the file; ``labels`` are the model's, and matched with the file's categories by name.

        MissingDependency without pycocotools, SourceError when the file cannot be read, BadArgument when it is not in
        COCO's format or shares no category with the model.
        """
        require_pycocotools()
        from pycocotools.coco import COCO

        self._truth = COCO()
        self._truth.dataset = dataset = _read(path)
        with contextlib.redirect_stdout(io.StringIO()):
            self._truth.createIndex()
        self._images = {Path(image["file_name"]).name: image["id"] for image in dataset["images"]}
        categories = {category["name"].casefold(): category["id"] for category in dataset["categories"]}
        self._categories = [categories.get(label.casefold()) for label in labels]
        if not any(category is not None for category in self._categories):
            raise BadArgument(f"no category of {path} is a label of the model, such as {labels[0]!r}")

    def __contains__(self, name: str) -> bool:
        """Whether there are labels for the picture of this file name."""
        return name in self._images

    def score(self, found: Mapping[str, Detections]) -> Scores:
        """Compare with the labels what was found in each picture, by file name, boxes in pixels of the picture."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        results = [
            {
                "image_id": self._images[name],
                "category_id": category,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for name, detections in found.items()
            for (x1, y1, x2, y2), score, label in zip(
                detections.xyxy.tolist(), detections.scores.tolist(), detections.classes.tolist(), strict=True
            )
            if (category := self._categories[label]) is not None
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # it talks
            run = COCOeval(self._truth, self._truth.loadRes(results) if results else COCO(), "bbox")
            run.params.imgIds = ids = [self._images[name] for name in found]
            run.evaluate()
            run.accumulate()
            run.summarize()
        # The library sorts the images; a resampling counts them in the order of ``found``.
        order = np.argsort(np.argsort(ids))
        mean_ap, ap50, ap75 = (max(float(value), 0.0) * 100 for value in run.stats[:3])
        return Scores(mean_ap, ap50, ap75, tuple(_per_category(run, order)))


@dataclass(frozen=True, slots=True, eq=False)
class _Category:
    """All detections of one class over all images, in descending order of score."""

    image: NDArray[np.intp]
    hit: NDArray[np.bool_]
    """thresholds x detections; neither hit nor miss where the library ignores a detection (crowds)."""
    miss: NDArray[np.bool_]
    wanted: NDArray[np.float64]
    """Objects of this class in each image."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """mAP over IoU 0.50 to 0.95, and at 0.50 and 0.75 alone, in percent."""

    mean_ap: float
    ap50: float
    ap75: float
    _categories: tuple[_Category, ...]

    def resampled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mAP, in percent, float64 (draws,), when image i counts ``weights[draw, i]`` times."""
        chunks = [self._resampled(weights[start : start + _CHUNK]) for start in range(0, len(weights), _CHUNK)]
        return np.concatenate(chunks)

    def _resampled(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros(len(weights))
        count = np.zeros(len(weights))
        for category in self._categories:
            wanted = weights @ category.wanted
            there = wanted > 0
            total[there] += _average_precision(category, weights[there], wanted[there])
            count += there
        nothing = np.full(len(weights), np.nan)
        drawn: NDArray[np.float64] = np.divide(100 * total, count, out=nothing, where=count > 0)
        return drawn


def _average_precision(
    category: _Category, weights: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """COCO's average precision of one class for every draw, float64 (draws,), from 0 to 1."""
    counts = weights[:, None, category.image]
    hits = np.cumsum(counts * category.hit, axis=2)
    misses = np.cumsum(counts * category.miss, axis=2)
    precision = hits / np.maximum(hits + misses, np.spacing(1))
    best = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    # Precision is read at 101 recalls from 0 to 1, each at the first detection that reaches it: a detection is read as
    # often as there are such recalls between its own and that of the one before.
    reached = np.searchsorted(np.linspace(0, 1, 101), hits / wanted[:, None, None], side="right")
    read = np.diff(reached, axis=2, prepend=0)
    average: NDArray[np.float64] = (best * read).sum(axis=2).mean(axis=1) / 101
    return average


def _per_category(run: Any, order: NDArray[np.intp]) -> list[_Category]:
    """Collect the library's matches: for all sizes of objects, class by class."""
    images, areas = len(order), len(run.params.areaRng)
    collected = []
    for number in range(len(run.params.catIds)):
        first = number * areas * images
        cells = [(i, cell) for i in range(images) if (cell := run.evalImgs[first + order[i]]) is not None]
        wanted = np.zeros(images)
        for i, cell in cells:
            wanted[i] = np.count_nonzero(cell["gtIgnore"] == 0)
        if not wanted.any():
            continue
        scores = np.concatenate([cell["dtScores"] for _, cell in cells])
        by_score = np.argsort(-scores, kind="mergesort")
        matched = np.concatenate([cell["dtMatches"] for _, cell in cells], axis=1)[:, by_score] != 0
        counts = np.concatenate([cell["dtIgnore"] for _, cell in cells], axis=1)[:, by_score] == 0
        image = np.repeat([i for i, _ in cells], [len(cell["dtScores"]) for _, cell in cells])[by_score]
        collected.append(_Category(image, matched & counts, ~matched & counts, wanted))
    return collected


def _read(path: Path) -> dict[str, Any]:
    """The file's content, with what many tools leave out filled in."""
    try:
        dataset = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"cannot read the annotations {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BadArgument(f"the annotations {path} are not JSON: {error}") from error
    try:
        for image in dataset["images"]:
            _ = image["id"], image["file_name"].casefold()
        for category in dataset["categories"]:
            _ = category["id"], category["name"].casefold()
        for number, annotation in enumerate(dataset["annotations"], 1):
            _ = annotation["image_id"], annotation["category_id"]
            _, _, width, height = annotation["bbox"]
            # Id 0 would read as "no match" in the library.
            annotation |= {"id": number, "iscrowd": annotation.get("iscrowd", 0)}
            annotation.setdefault("area", width * height)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadArgument(
            f"the annotations {path} are not in COCO's format (images, categories and annotations with their boxes): "
            f"{type(error).__name__} {error}"
        ) from error
    assert isinstance(dataset, dict)
    return dataset
