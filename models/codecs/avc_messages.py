"""Messages of the profile avc: one H.264 slice each, what it needs checked (docs/protocol.md, section 4.10)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from models.codecs.h264 import IDR, PPS, SLICE, SPS, check_pps, check_sps, first_macroblock, nal_type
from splitrtc_errors import CodecError

__all__ = ["Message", "pack_message", "parse_message"]

_LENGTH = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Message:
    """A slice of the picture of tensor number ``tensor``; in keyframes with the parameter sets, SPS and PPS."""

    tensor: int
    parameters: tuple[bytes, ...]
    unit: bytes

    @property
    def first(self) -> int:
        """The macroblock at which the slice begins."""
        return first_macroblock(self.unit)


def pack_message(message: Message) -> bytes:
    """Return the bytes of a message."""
    parts = [bytes([message.tensor])]
    for unit in (*message.parameters, message.unit):
        parts += (_LENGTH.pack(len(unit)), unit)
    return b"".join(parts)


def parse_message(payload: bytes | memoryview, intra: bool, sizes: Sequence[tuple[int, int]]) -> Message:
    """Read a message from anybody.

    Args:
        payload: of a unit.
        intra: whether the frame is a keyframe.
        sizes: width and height of each tensor's picture.

    Raises:
        CodecError: it is malformed, or has anything that no encoder of this profile needs.
    """
    data = bytes(payload)
    if not data or data[0] >= len(sizes):
        raise CodecError(f"a slice without tensor, or of one beyond {len(sizes)}")
    units: list[bytes] = []
    start = 1
    while start < len(data):
        if start + _LENGTH.size > len(data):
            raise CodecError("a slice that ends in a length")
        (size,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        units.append(data[start : start + size])
        if len(units[-1]) != size:
            raise CodecError("a slice that ends too early")
        start += size
    expected = [SPS, PPS, IDR] if intra else [SLICE]
    if [nal_type(unit) for unit in units] != expected:
        raise CodecError(f"other NAL units than {expected}")
    message = Message(data[0], tuple(units[:-1]), units[-1])
    width, height = sizes[message.tensor]
    if intra:
        check_sps(units[0], width, height)
        check_pps(units[1])
    if message.first >= width * height // 256:
        raise CodecError("a slice beyond the picture")
    return message
