"""What is measured on: which frames of a clip, which pictures of a folder, and reading them a segment at a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.frames import Image
from pipeline.sources.stills import IMAGE_SUFFIXES
from pipeline.sources.video import VideoFile
from splitrtc_errors import BadArgument, SourceError

__all__ = ["DEFAULT_FRAMES", "Material", "Span", "chosen_spans", "parse_segments", "survey"]

DEFAULT_FRAMES = 300
SEGMENT = 60
"""Frames of a segment when not all frames are taken: two seconds at 30 frames per second."""
MAX_SEGMENT_BYTES = 2**31
"""Frames of one segment are held in memory."""


@dataclass(frozen=True, slots=True)
class Span:
    """``count`` frames from number ``start`` on."""

    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Material:
    """The frames to measure on. Each span is a clip of its own: no codec remembers anything of the one before.

    Of a folder, every picture is a span, and ``pictures`` has the files.
    """

    path: Path
    total: int
    spans: tuple[Span, ...]
    pictures: tuple[Path, ...] = ()

    @property
    def frames(self) -> int:
        """How many frames are measured."""
        return sum(span.count for span in self.spans)

    def __str__(self) -> str:
        """The choice, for people."""
        if self.pictures:
            return f"{self.path}: {self.frames} of {self.total} pictures"
        if self.frames == self.total:
            return f"{self.path}: all {self.total} frames"
        spans = ", ".join(f"{span.start}:{span.count}" for span in self.spans)
        return f"{self.path}: {self.frames} of {self.total} frames, as segments START:COUNT {spans}"

    def read(self) -> Iterator[list[Image]]:
        """Read the frames, a span at a time. Raises SourceError, BadArgument for a span too large to be held."""
        if self.pictures:
            yield from ([_read_picture(self.pictures[span.start])] for span in self.spans)
            return
        source = VideoFile(self.path, exact=True)
        source.open()
        try:
            position = 0
            for span in self.spans:
                images: list[Image] = []
                while position < span.start + span.count and (picture := source.read()) is not None:
                    if position >= span.start:
                        images.append(picture.image)
                        _check_size(picture.image, span)
                    position += 1
                yield images
        finally:
            source.close()


def _check_size(image: Image, span: Span) -> None:
    if image.nbytes * span.count > MAX_SEGMENT_BYTES:
        raise BadArgument(
            f"a segment of {span.count} frames of {image.shape[1]}x{image.shape[0]} does not fit into "
            f"{MAX_SEGMENT_BYTES >> 20} MiB: name shorter ones with --segments"
        )


def survey(
    path: Path,
    *,
    frames: int | None = None,
    segments: tuple[Span, ...] = (),
    wanted: Callable[[str], bool] | None = None,
) -> Material:
    """Look at a video file or a folder of pictures, and choose.

    Args:
        path: the file or folder.
        frames: how many at most; DEFAULT_FRAMES unless given.
        segments: the spans of a clip to take instead.
        wanted: which pictures of a folder, by file name; all unless given.

    Raises:
        SourceError: it cannot be read.
        BadArgument: there are no such segments, or no picture that is wanted.
    """
    if path.is_dir():
        if segments:
            raise BadArgument(f"{path} is a folder of pictures: segments are of a clip")
        pictures = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
        if not pictures:
            raise SourceError(f"no pictures in {path} ({', '.join(sorted(IMAGE_SUFFIXES))})")
        if wanted is not None:
            pictures = [picture for picture in pictures if wanted(picture.name)]
            if not pictures:
                raise BadArgument(f"the annotations are for none of the pictures in {path}")
        limit = min(frames or DEFAULT_FRAMES, len(pictures))
        spans = tuple(Span(number * len(pictures) // limit, 1) for number in range(limit))
        return Material(path, len(pictures), spans, tuple(pictures))
    if not path.exists():
        raise SourceError(f"no file {path}: expected a video file or a folder of pictures")
    total = _count(path)
    if segments and segments[-1].start + segments[-1].count > total:
        raise BadArgument(f"{path} has {total} frames: no segment {segments[-1].start}:{segments[-1].count}")
    return Material(path, total, segments or chosen_spans(total, frames or DEFAULT_FRAMES))


def chosen_spans(total: int, limit: int) -> tuple[Span, ...]:
    """All frames of a clip, or of a longer one segments of SEGMENT frames at most, evenly spread, ``limit`` in all."""
    if total <= limit:
        return (Span(0, total),)
    count = -(-limit // SEGMENT)
    length = limit // count
    gaps = max(count - 1, 1)
    return tuple(Span(number * (total - length) // gaps, length) for number in range(count))


def parse_segments(text: str) -> tuple[Span, ...]:
    """Read ``START:COUNT[,START:COUNT ...]``: ascending, without overlaps. BadArgument when it is something else."""
    spans = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9}):([0-9]{1,9})\s*", part)
        if match is None or not int(match[2]):
            raise BadArgument(f"segments are START:COUNT[,START:COUNT ...], not {text[:100]!r}")
        spans.append(Span(int(match[1]), int(match[2])))
    if any(one.start + one.count > other.start for one, other in itertools.pairwise(spans)):
        raise BadArgument(f"segments come in ascending order and do not overlap, unlike {text[:100]!r}")
    return tuple(spans)


def _count(path: Path) -> int:
    """The number of frames, by decoding them: what a file says of itself need not be so."""
    source = VideoFile(path)
    source.open()
    try:
        total = 0
        while source.read() is not None:
            total += 1
    finally:
        source.close()
    if not total:
        raise SourceError(f"{path} holds no frame")
    return total


def _read_picture(path: Path) -> Image:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"cannot read the picture {path}")
    return np.asarray(image, np.uint8)
