"""Makes calibration files: runs a model's head on pictures, and fits ranges and tables to what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import (
    DEFAULT_PERCENTILE,
    TABLES,
    Calibration,
    TensorCalibration,
    calibration_bytes,
    collect,
)
from splitrtc_errors import BadArgument, SourceError

if TYPE_CHECKING:
    from models.card import ModelCard, PartitionCard
    from models.tensor import TensorSpec

__all__ = ["Material", "calibrate", "images_in"]

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
MAX_PAIRS = 60
"""Pairs of consecutive frames that are used, spread over the clip."""
MAX_FRAMES = 600
"""Frames of a clip that are read, from its beginning."""
MOVE = 0.01
"""Share of its width by which a still picture is moved to make a pair, where there is no clip."""

Image = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Is told how many steps are done, of how many."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a calibration is made from: pictures, perhaps a clip, and what to say of them in the file."""

    images: Sequence[Path]
    clip: Path | None = None
    made_from: str | None = None


def images_in(folder: Path, every: int = 1) -> list[Path]:
    """Every nth picture of a folder by name, from the first. BadArgument for no folder, or none of them."""
    if every < 1 or not folder.is_dir():
        raise BadArgument(f"expected a folder of pictures and a distance of at least 1, not {folder} and {every}")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)[::every]
    if not found:
        raise BadArgument(f"no picture in {folder}: {', '.join(IMAGES)}")
    return found


def calibrate(
    card: ModelCard,
    partition: PartitionCard,
    material: Material,
    *,
    tables: Collection[str] = frozenset(TABLES),
    kept: Calibration | None = None,
    percentile: float = DEFAULT_PERCENTILE,
    progress: Progress = lambda done, of: None,
) -> bytes:
    """Return the content of a calibration file.

    Args:
        card: the model's.
        partition: one of its.
        material: what it is made from.
        tables: to make besides ranges, of TABLES; klt needs torch.
        kept: a file's content of which all other tables are kept, and the ranges.
        percentile: of a channel's values that lie below its range, and above.
        progress: see Progress.

    Raises:
        MissingDependency: klt, and no torch.
        BadArgument, CodecError: the arguments or the samples are no good, or the tail has unknown operators.
        SourceError: a picture or the clip cannot be read.
    """
    from models.partition import PartitionStore
    from models.preprocess import Preprocessor
    from models.runtime import load_submodel

    parts = PartitionStore().get(card, partition.tensors)
    klt = "klt" in tables
    if klt:
        from models.gradients import Tail
        from models.klt_fit import STEPS, Samples, fit

        tail = Tail(parts.tail_path, card.detection)
    head = load_submodel(parts.head_path, "cpu")
    preprocessor = Preprocessor(card)
    count = len(material.images)
    total = count + (count + 2 * MAX_PAIRS + len(parts.crossing) * STEPS if klt else 0)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    def run(image: Image) -> list[NDArray[Any]]:
        outputs = head.run([preprocessor.prepare(image)])
        step()
        return outputs

    images = [_read_image(path) for path in material.images]
    frames = [run(image) for image in images]
    ranges = collect(frames, parts.crossing, percentile)
    if kept is not None:
        ranges = tuple(kept.of(spec.name) for spec in parts.crossing)
    ranges = tuple(
        _fitted(spec, ranges[n], [frame[n] for frame in frames], tables) for n, spec in enumerate(parts.crossing)
    )
    tensors: tuple[TensorCalibration, ...] = ranges
    if klt:
        slopes = []
        for frame in frames:
            slopes += list(tail.gradients(frame))
            step()
        pairs = [(run(earlier), run(later)) for earlier, later in _pairs(material.clip, images)]
        tensors = tuple(
            replace(
                ranges[n],
                klt=fit(
                    spec,
                    ranges[n],
                    Samples(
                        [frame[n] for frame in frames],
                        [slope[n] for slope in slopes],
                        [(earlier[n], later[n]) for earlier, later in pairs],
                    ),
                    step,
                ),
            )
            for n, spec in enumerate(parts.crossing)
        )
    progress(total, total)
    made_from = material.made_from or f"{count} images"
    return calibration_bytes(card.digest, card.partition_id(partition), tensors, made_from)


def _fitted(
    spec: TensorSpec, ranges: TensorCalibration, frames: Sequence[NDArray[Any]], tables: Collection[str]
) -> TensorCalibration:
    """A tensor's ranges with those of the tables that its elements alone determine."""
    from models.reduced_fit import fit_clusters, fit_pca, fit_range

    made: dict[str, Any] = {
        name: fit(spec, ranges, frames)
        for name, fit in (("range", fit_range), ("pca", fit_pca), ("clusters", fit_clusters))
        if name in tables
    }
    return replace(ranges, **made)


def _pairs(clip: Path | None, images: Sequence[Image]) -> Iterator[tuple[Image, Image]]:
    """Pairs of consecutive frames: of the clip, or what a camera that moves a little would see."""
    if clip is None:
        for image in images[:MAX_PAIRS]:
            move = max(1, math.ceil(image.shape[1] * MOVE))
            yield image[:, :-move], image[:, move:]
        return
    frames = _read_clip(clip)
    stride = max(2, len(frames) // MAX_PAIRS)
    for first in range(0, len(frames) - 1, stride)[:MAX_PAIRS]:
        yield frames[first], frames[first + 1]


def _read_clip(path: Path) -> list[Image]:
    import av

    try:
        with av.open(str(path)) as container:
            pictures = islice(container.decode(video=0), MAX_FRAMES)
            frames = [np.asarray(picture.to_ndarray(format="bgr24"), np.uint8) for picture in pictures]
    except (OSError, av.FFmpegError, IndexError) as error:
        raise SourceError(f"cannot read the clip {path}: {error}") from error
    if len(frames) < 2:
        raise SourceError(f"the clip {path} has fewer than two frames")
    return frames


def _read_image(path: Path) -> Image:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"cannot read the picture {path}")
    return np.asarray(image, np.uint8)
