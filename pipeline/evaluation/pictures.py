"""The picture instead, as a contender: still and video codecs, at the model's input size and at the camera's.

Codecs get what makes them good without making them late: one frame in, one frame out, no periodic intra frames, one
thread. Only the codec's own payload is counted, neither containers nor packet headers. Nothing gets lost.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.evaluation.contender import Contender, Outcome, Segment
from pipeline.evaluation.stills import STILL_CODECS, PictureCodec
from pipeline.evaluation.video_codecs import VIDEO_CODECS
from splitrtc_errors import BadArgument

if TYPE_CHECKING:
    from pipeline.evaluation.vision import Vision

__all__ = ["PICTURES", "PictureContender", "picture_contenders"]

CODECS: dict[str, tuple[PictureCodec, ...]] = {
    **STILL_CODECS,
    **{name: (codec,) for name, codec in VIDEO_CODECS.items()},
}
PICTURES = ",".join(CODECS)
"""All of them."""
SIZES = ("input", "camera")
_ITEM = re.compile(r"(?P<codec>\w+)(?::(?P<quality>[0-9]{1,3}))?(?:@(?P<size>\w+))?")


@dataclass(frozen=True, slots=True, eq=False)
class PictureContender(Contender):
    """A codec at one quality, with pictures of one ``size``: "input", that of the model's, or "camera"."""

    codec: PictureCodec
    quality: int
    size: str

    def run(self, segment: Segment, vision: Vision) -> Iterator[Outcome]:
        """See Contender.run()."""
        at_input = self.size == "input"
        coded = self.codec.code(segment.small if at_input else segment.images, self.quality)
        for number, picture in enumerate(coded):
            began = time.perf_counter()
            found = vision.whole(picture.image)
            edge = picture.decode + time.perf_counter() - began
            device = picture.encode + (segment.resizing[number] if at_input else 0.0)
            yield Outcome(picture.size, picture.encode, picture.decode, device, edge, found)


def picture_contenders(text: str) -> list[PictureContender]:
    """Read ``CODEC[:QUALITY][@SIZE][,...]``; without a quality all of the codec's, without a size both.

    BadArgument for what is not known.
    """
    contenders = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None or match["codec"] not in CODECS or match["size"] not in (None, *SIZES):
            raise BadArgument(
                f"pictures are CODEC[:QUALITY][@SIZE][,...] with a codec of {PICTURES} and size {' or '.join(SIZES)}, "
                f"not {item[:100]!r}"
            )
        for codec in CODECS[match["codec"]]:
            for size in (match["size"],) if match["size"] else SIZES:
                for quality in (int(match["quality"]),) if match["quality"] else codec.qualities:
                    series = f"{codec.name} {size}"
                    name = f"{codec.name} {codec.unit}{quality} {size}"
                    contenders.append(PictureContender(name, series, "picture", codec, quality, size))
    return contenders
