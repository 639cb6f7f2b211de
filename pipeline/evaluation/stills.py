"""Codecs of pictures, and those that code every picture by itself: JPEG and WebP, by OpenCV."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from splitrtc_errors import CodecError, MissingDependency

if TYPE_CHECKING:
    from pipeline.frames import Image

__all__ = ["STILL_CODECS", "CodedPicture", "PictureCodec", "StillCodec"]


class CodedPicture(NamedTuple):
    """A frame after coding and decoding: its bytes, what that took in seconds, and the picture that came out."""

    size: int
    encode: float
    decode: float
    image: Image


@dataclass(frozen=True, slots=True)
class PictureCodec(ABC):
    """A codec and its settings; ``unit`` is what it calls quality, ``qualities`` are the points of its curve."""

    name: str
    unit: str
    qualities: tuple[int, ...]

    @abstractmethod
    def code(self, images: Sequence[Image], quality: int) -> Iterator[CodedPicture]:
        """Encode and decode the frames of a clip, all of one size. MissingDependency, CodecError when it cannot."""


@dataclass(frozen=True, slots=True)
class StillCodec(PictureCodec):
    """A format of OpenCV's. ``options`` are numbers of its ``IMWRITE_`` constants, by their names."""

    suffix: str
    options: Mapping[str, int | str]
    missing: str = ""
    """Why there is no such thing, where there is none."""

    def code(self, images: Sequence[Image], quality: int) -> Iterator[CodedPicture]:
        """See PictureCodec.code()."""
        import cv2

        if self.missing:
            raise MissingDependency(self.missing)
        parameters: list[int] = []
        for name, value in {**self.options, f"{self.suffix[1:].upper()}_QUALITY": quality}.items():
            parameters += [_constant(name), value if isinstance(value, int) else _constant(value)]
        for image in images:
            began = time.perf_counter()
            done, data = cv2.imencode(self.suffix, image, parameters)
            encoded = time.perf_counter()
            if not done:
                raise CodecError(f"{self.name} cannot code a picture of {image.shape[1]}x{image.shape[0]}")
            decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
            yield CodedPicture(data.size, encoded - began, time.perf_counter() - encoded, np.asarray(decoded, np.uint8))


def _constant(name: str) -> int:
    import cv2

    return int(getattr(cv2, f"IMWRITE_{name}"))


def _jpeg(sampling: str) -> StillCodec:
    options: dict[str, int | str] = {
        "JPEG_OPTIMIZE": 1,  # Huffman tables of its own: some 5 % smaller
        "JPEG_SAMPLING_FACTOR": f"JPEG_SAMPLING_FACTOR_{sampling.replace(':', '')}",
    }
    return StillCodec(f"jpeg {sampling}", "q", (30, 50, 75, 90, 95), ".jpeg", options)


STILL_CODECS: Mapping[str, tuple[StillCodec, ...]] = {
    "jpeg": (_jpeg("4:2:0"), _jpeg("4:4:4")),
    "webp": (
        StillCodec("webp 4:2:0", "q", (10, 30, 50, 75, 90, 97), ".webp", {}),
        StillCodec("webp 4:4:4", "q", (90,), ".webp", {}, "WebP's lossy format has no 4:4:4"),
    ),
}
