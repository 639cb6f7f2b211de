"""Video codecs with settings for low delay, by PyAV: a frame in, its bytes out, the frame before as the reference."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.stills import CodedPicture, PictureCodec
from pipeline.sources.video import exact_colours
from splitrtc_errors import CodecError, MissingDependency

if TYPE_CHECKING:
    from pipeline.frames import Image

__all__ = ["VIDEO_CODECS", "VideoCodec"]

FPS = 30
ENDLESS = "100000"
"""Frames between intra frames: a receiver asks for one when it needs one, as ours does."""


@dataclass(frozen=True, slots=True)
class VideoCodec(PictureCodec):
    """An encoder and a decoder of FFmpeg's. In ``options``, ``{}`` stands for the quality, which falls as it grows."""

    encoder: str
    decoder: str
    options: Mapping[str, str]

    def code(self, images: Sequence[Image], quality: int) -> Iterator[CodedPicture]:
        """See PictureCodec.code(). Conversion from and to BGR is part of the times."""
        import av

        height, width = images[0].shape[:2]
        try:
            coder = _Coder(self, width + width % 2, height + height % 2, quality)
            for image in (*images, None):
                for coded in coder.step(image):
                    yield coded._replace(image=coded.image[:height, :width])
        except av.error.FFmpegError as error:
            raise CodecError(f"{self.name} cannot code a picture of {width}x{height}: {error.strerror}") from error


class _Coder:
    """One clip's way through an encoder and a decoder. Some encoders give a frame's bytes with the next call only."""

    def __init__(self, codec: VideoCodec, width: int, height: int, quality: int) -> None:
        # SVT-AV1 writes pages of information to stderr for every clip.
        os.environ.setdefault("SVT_LOG", "1")
        from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

        self._encoder: Any = _context(codec.encoder, "w")
        self._encoder.width, self._encoder.height, self._encoder.pix_fmt = width, height, "yuv420p"
        self._encoder.framerate, self._encoder.time_base = Fraction(FPS), Fraction(1, FPS)
        self._encoder.thread_count = 1
        self._encoder.options = {name: value.format(quality) for name, value in codec.options.items()}
        self._decoder: Any = _context(codec.decoder, "r")
        self._decoder.thread_count, self._decoder.thread_type = 1, "SLICE"  # frame threads keep frames back
        if codec.decoder == "libdav1d":
            self._decoder.options = {"max_frame_delay": "1"}
        self._reformatters = VideoReformatter(), VideoReformatter()
        self._space, self._range = Colorspace.ITU601, ColorRange.MPEG
        self._exact = exact_colours()
        self._size = (height, width)
        self._count = 0
        self._bytes: dict[int, int] = {}
        self._encode = 0.0

    def step(self, image: Image | None) -> Iterator[CodedPicture]:
        """Take the next frame, None for the end of the clip, and yield those that are through."""
        began = time.perf_counter()
        packets = self._encoder.encode(None if image is None else self._frame(image))
        self._encode += time.perf_counter() - began
        for packet in packets:
            self._bytes[packet.pts] = self._bytes.get(packet.pts, 0) + packet.size
            yield from self._decoded(packet)
        if image is None:
            yield from self._decoded(None)

    def _decoded(self, packet: Any) -> Iterator[CodedPicture]:
        began = time.perf_counter()
        for frame in self._decoder.decode(packet):
            # The colours as the encoder was given them, whatever the decoder believes of the range.
            image = self._reformatters[1].reformat(
                frame, format="bgr24", src_colorspace=self._space, src_color_range=self._range, **self._exact
            )
            picture = np.asarray(image.to_ndarray(), np.uint8)
            now = time.perf_counter()
            yield CodedPicture(self._bytes.pop(frame.pts), self._encode, now - began, picture)
            self._encode, began = 0.0, time.perf_counter()

    def _frame(self, image: Image) -> Any:
        import av

        height, width = self._size
        padding = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
        frame = self._reformatters[0].reformat(
            av.VideoFrame.from_ndarray(np.pad(image, padding, "edge"), format="bgr24"),
            format="yuv420p", dst_colorspace=self._space, dst_color_range=self._range, **self._exact,
        )  # fmt: skip
        frame.pts, frame.time_base = self._count, Fraction(1, FPS)
        self._count += 1
        return frame


def _context(name: str, mode: str) -> Any:
    import av

    try:
        return av.CodecContext.create(name, mode)  # type: ignore[call-overload]
    except av.codec.codec.UnknownCodecError:
        raise MissingDependency(f"this build of PyAV has no {name}") from None


VIDEO_CODECS: Mapping[str, VideoCodec] = {
    "h264": VideoCodec(
        "h264", "crf", (4, 8, 12, 16, 20, 24, 28, 32, 36), "libx264", "h264",
        {"preset": "veryfast", "tune": "zerolatency", "crf": "{}", "g": ENDLESS},
    ),
    "vp8": VideoCodec(
        "vp8", "q", (0, 2, 6, 14, 22, 30, 40, 50), "libvpx", "vp8",
        # A fixed quantiser: its constrained quality hardly follows what is asked for.
        {"deadline": "realtime", "cpu-used": "-4", "lag-in-frames": "0", "auto-alt-ref": "0", "b": "50M",
         "qmin": "{0}", "qmax": "{0}", "g": ENDLESS},
    ),
    "vp9": VideoCodec(
        "vp9", "crf", (1, 3, 8, 16, 24, 32, 40, 48), "libvpx-vp9", "vp9",
        {"deadline": "realtime", "cpu-used": "6", "lag-in-frames": "0", "b": "0", "crf": "{}", "g": ENDLESS},
    ),
    "av1": VideoCodec(
        "av1", "crf", (1, 4, 10, 18, 26, 34, 42, 50), "libsvtav1", "libdav1d",
        {"preset": "8", "crf": "{}", "g": ENDLESS, "svtav1-params": "pred-struct=1:lp=1"},
    ),
}  # fmt: skip
