"""The profile avc: components as tiles of a gray picture, coded by H.264 (docs/protocol.md, section 4.10)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration
from models.codecs.avc_messages import Message, pack_message, parse_message
from models.codecs.base import DecodedFrame, Decoder, EncodedFrame, Encoder, check_tensors
from models.codecs.channels import calibrated_of
from models.codecs.h264 import IDR, PPS, SLICE, SPS, nal_type, split
from models.codecs.slices import MAX_SLICES
from models.codecs.tiles import Tiles
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, CodecError, MissingDependency

__all__ = ["AvcDecoder", "AvcEncoder"]

MIN_MESSAGE = 600
"""Bytes of a message's payload; a macroblock that hardly compresses must fit."""

_MARGIN = 64
"""Bytes by which x264's slices stay below a message: the parameter sets of a keyframe and our header."""
_ENDLESS = 1 << 30
_RATE = 30


def _tiles(tensors: Sequence[TensorSpec], components: int, calibration: Calibration | None) -> list[Tiles]:
    parts = calibrated_of("avc", "klt", tensors, calibration)
    return [Tiles(spec, part, components) for spec, part in zip(tensors, parts, strict=True)]


class AvcEncoder(Encoder):
    """Encodes avc, with x264."""

    def __init__(
        self,
        tensors: Sequence[TensorSpec],
        components: int,
        qp: int,
        refresh: int,
        calibration: Calibration | None,
        max_payload: int,
    ) -> None:
        """Prepare for frames of ``tensors`` and payloads of at most ``max_payload`` bytes.

        Args:
            tensors: as make_encoder() has them.
            components: of each tensor that are sent, at most.
            qp: H.264's quantiser, the same for all frames: rate control would save where much changes.
            refresh: frames in which a wave of intra blocks renews the picture, again and again, at least 2; then losses
                lead to no keyframe unless they hit one. 0: no wave.
            calibration: with klt tables for every tensor.
            max_payload: bytes.

        Raises:
            BadArgument: an argument is missing or out of range.
            CodecError: the tensors cannot be coded so.
            MissingDependency: PyAV has no x264.
        """
        if max_payload < MIN_MESSAGE:
            raise BadArgument(f"a payload of avc has at least {MIN_MESSAGE} bytes, not {max_payload}")
        self._tensors = tuple(tensors)
        self._tiles = _tiles(tensors, components, calibration)
        for tiles in self._tiles:
            tiles.check_invertible()
        self._max_payload = max_payload
        self._coders = [_x264(tiles, qp, refresh, max_payload) for tiles in self._tiles]
        self._waves = refresh > 0
        self._frames = 0
        self._keyframe = 0
        """Id of the last one."""
        self._wanted = True
        """Whether the next frame must be one."""

    def encode(self, frame_id: int, tensors: Sequence[NDArray[Any]]) -> EncodedFrame:
        """See Encoder.encode()."""
        check_tensors(self._tensors, tensors)
        pictures = [tiles.picture(tensor) for tiles, tensor in zip(self._tiles, tensors, strict=True)]
        intra, self._wanted = self._wanted, True  # until this frame is complete: whoever gets none of it needs one
        self._frames += 1
        slices: list[bytes] = []
        for number, (coder, picture) in enumerate(zip(self._coders, pictures, strict=True)):
            slices += self._messages(number, split(self._coded(coder, picture, intra)), intra)
        if not 0 < len(slices) <= MAX_SLICES or max(map(len, slices)) > self._max_payload:
            raise CodecError(f"frame {frame_id} does not fit into {MAX_SLICES} slices; use a larger qp")
        self._wanted = False
        if intra:
            self._keyframe = frame_id
        return EncodedFrame(slices, intra)

    def acknowledged(self, frame_id: int, received: Sequence[bool]) -> None:
        """See Encoder.acknowledged(). A loss before the last keyframe is healed already."""
        harmful = frame_id == self._keyframe if self._waves else frame_id >= self._keyframe
        if harmful and not all(received):
            self._wanted = True

    def _coded(self, coder: Any, picture: NDArray[np.uint8], intra: bool) -> bytes:
        frame = av.VideoFrame.from_ndarray(picture, format="gray")
        frame.pts, frame.time_base = self._frames, Fraction(1, _RATE)
        kinds = av.video.frame.PictureType
        frame.pict_type = kinds.I if intra else kinds.P
        try:
            return b"".join(bytes(packet) for packet in coder.encode(frame))
        except av.error.FFmpegError as error:
            raise CodecError(f"x264 failed: {error}") from error

    def _messages(self, number: int, units: Sequence[bytes], intra: bool) -> list[bytes]:
        """One message for each slice; with the parameter sets in each of a keyframe, as any may be the only one."""
        sets = tuple(unit for unit in units if intra and nal_type(unit) in (SPS, PPS))
        coded = [unit for unit in units if nal_type(unit) in (SLICE, IDR)]
        return [pack_message(Message(number, sets, unit)) for unit in coded]


def _x264(tiles: Tiles, qp: int, refresh: int, max_payload: int) -> Any:
    coder = _context("libx264", "w")
    coder.width, coder.height, coder.pix_fmt = tiles.width, tiles.height, "gray"
    coder.framerate, coder.time_base, coder.thread_count = Fraction(_RATE), Fraction(1, _RATE), 1
    wave = f"intra-refresh=1:keyint={refresh}" if refresh else f"keyint={_ENDLESS}"
    coder.options = {
        "preset": "medium",
        "tune": "psnr,zerolatency",  # components are no pictures: nothing of what is done for the eye
        "qp": str(qp),
        "forced-idr": "1",
        "x264-params": f"slice-max-size={max_payload - _MARGIN}:scenecut=0:aq-mode=0:ipratio=1:{wave}",
    }
    try:
        coder.open()
    except av.error.FFmpegError as error:
        raise CodecError(f"x264 cannot code a picture of {tiles.width}x{tiles.height}: {error}") from error
    return coder


def _context(name: str, mode: str) -> Any:
    try:
        return av.CodecContext.create(name, mode)  # type: ignore[call-overload]
    except av.codec.codec.UnknownCodecError:
        raise MissingDependency(f"this build of PyAV has no {name}") from None


class AvcDecoder(Decoder):
    """Decodes avc, with FFmpeg's decoder of H.264."""

    needs_every_frame = True

    def __init__(self, tensors: Sequence[TensorSpec], components: int, calibration: Calibration | None) -> None:
        """Prepare for frames of ``tensors``; arguments and errors are those of AvcEncoder."""
        self._tiles = _tiles(tensors, components, calibration)
        self._coders = [_decoder() for _ in self._tiles]
        self._pictures = [tiles.blank() for tiles in self._tiles]
        self._started = [False for _ in self._tiles]
        """Whether parameter sets came; before, there is nothing that a decoder could do."""

    def decode(
        self,
        frame_id: int,
        slices: Sequence[bytes | memoryview | None],
        intra: bool = True,
        reference: int | None = None,
    ) -> DecodedFrame:
        """See Decoder.decode(). What is missing of a picture, FFmpeg conceals."""
        found: list[list[Message]] = [[] for _ in self._tiles]
        good = damaged = 0
        next_free = (0, 0)
        for payload in slices:
            if payload is None:
                continue
            try:
                if reference is not None:
                    raise CodecError("this profile names no reference")
                message = parse_message(payload, intra, [(tiles.width, tiles.height) for tiles in self._tiles])
                first = message.first
                # So no picture is decoded twice, whatever a peer sends.
                if (message.tensor, first) < next_free:
                    raise CodecError("a slice that is out of order")
                if not (intra or self._started[message.tensor]):
                    raise CodecError("a picture before the first keyframe")
            except CodecError:
                damaged += 1
                continue
            next_free = (message.tensor, first + 1)
            found[message.tensor].append(message)
        for number, messages in enumerate(found):
            if messages and self._decode_picture(number, messages):
                good += len(messages)
            else:
                damaged += len(messages)
        tensors = [tiles.tensor(picture) for tiles, picture in zip(self._tiles, self._pictures, strict=True)]
        return DecodedFrame(tensors, 1 - good / max(len(slices), 1), damaged)

    def _decode_picture(self, number: int, messages: Sequence[Message]) -> bool:
        """Decode what came of one picture; returns whether the decoder made something of it."""
        units = [*messages[0].parameters, *(message.unit for message in messages)]
        self._started[number] = True
        packet = av.Packet(b"".join(b"\0\0\0\1" + unit for unit in units))
        try:
            frames = self._coders[number].decode(packet)
        except av.error.FFmpegError:
            return False
        if not frames:
            return False
        plane, tiles = frames[-1].planes[0], self._tiles[number]
        if (frames[-1].width, frames[-1].height) != (tiles.width, tiles.height):
            return False
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        self._pictures[number] = rows[: tiles.height, : tiles.width].copy()
        return True


def _decoder() -> Any:
    coder = _context("h264", "r")
    coder.thread_count, coder.thread_type = 1, "SLICE"  # frame threads keep frames back
    coder.options = {"flags": "+low_delay+output_corrupt", "flags2": "+showall"}
    return coder
