"""What the profile avc reads of H.264 itself, before any decoder sees it (ITU-T H.264, clauses 7.3 and 7.4).

A decoder allocates what a sequence parameter set says. So what a stranger sends is parsed here as far as that goes, and
refused when it is anything but what a small picture without surprises needs.
"""

from __future__ import annotations

from splitrtc_errors import CodecError

__all__ = ["IDR", "PPS", "SLICE", "SPS", "BitReader", "check_pps", "check_sps", "first_macroblock", "nal_type", "split"]

SLICE, IDR, SPS, PPS = 1, 5, 7, 8
"""Types of NAL units (table 7-1)."""
MACROBLOCK = 16
"""Pixels along its edge."""

_START = b"\0\0\1"
_ENDS = (b"\0\0\0", _START, b"\0\0\2")
_PROFILES = (66, 77, 100)
"""Baseline, main and high."""
_HIGH = 100
_MAX_REFERENCES = 4


def split(stream: bytes) -> list[bytes]:
    """Return the NAL units of a byte stream (annex B), without start codes."""
    return [unit.rstrip(b"\0") for unit in stream.split(_START)[1:]]


def nal_type(unit: bytes) -> int:
    """Return a NAL unit's type. CodecError when it is empty, has its forbidden bit set, or is more than one unit."""
    if not unit or unit[0] & 0x80:
        raise CodecError("a NAL unit that is empty or has its forbidden bit set")
    # Where these stand, a decoder sees the end of the unit (7.4.1), and behind it another one that nobody has checked.
    if any(end in unit for end in _ENDS):
        raise CodecError("a NAL unit with a start code inside")
    return unit[0] & 31


class BitReader:
    """Reads the payload of a NAL unit, of anybody's, bit by bit."""

    def __init__(self, unit: bytes) -> None:
        """Take the unit, its header included, with emulation prevention (clause 7.4.1)."""
        data = unit[1:].replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def bits(self, count: int) -> int:
        """Return an unsigned number of so many bits, u(n). CodecError when there are fewer."""
        if count > self._left:
            raise CodecError("a NAL unit that ends too early")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """Return an Exp-Golomb number, ue(v), of at most 32 bits (clause 9.1)."""
        zeros = 0
        while not self.bits(1):
            zeros += 1
            if zeros > 31:
                raise CodecError("an Exp-Golomb number of more than 32 bits")
        return (1 << zeros) - 1 + self.bits(zeros)


def _check(right: bool, what: str) -> None:
    if not right:
        raise CodecError(f"a parameter set with {what}")


def check_sps(unit: bytes, width: int, height: int) -> None:
    """CodecError unless a sequence parameter set (7.3.2.1.1) describes what is expected.

    Frames of ``width`` x ``height`` pixels, multiples of 16, uncropped, of 8 bits, gray or 4:2:0, with few references.
    """
    reader = BitReader(unit)
    profile = reader.bits(8)
    _check(profile in _PROFILES, f"profile {profile}")
    reader.bits(16)  # constraints and level
    _check(reader.golomb() <= 31, "a number above 31")
    if profile == _HIGH:
        _check(reader.golomb() <= 1, "neither gray nor 4:2:0")
        _check(reader.golomb() == 0 and reader.golomb() == 0, "more than 8 bits")
        reader.bits(1)
        _check(not reader.bits(1), "scaling matrices")
    _check(reader.golomb() <= 12, "too long frame numbers")
    order = reader.golomb()
    _check(order in (0, 2), f"picture order of type {order}")
    _check(order == 2 or reader.golomb() <= 12, "too long picture orders")
    references = reader.golomb()
    _check(references <= _MAX_REFERENCES, f"{references} reference frames")
    reader.bits(1)  # gaps in frame numbers are what loss makes
    size = ((reader.golomb() + 1) * MACROBLOCK, (reader.golomb() + 1) * MACROBLOCK)
    _check(size == (width, height), f"a picture of {size[0]}x{size[1]}, expected {width}x{height}")
    _check(bool(reader.bits(1)), "interlaced pictures")
    reader.bits(1)
    _check(not reader.bits(1), "cropping")


def check_pps(unit: bytes) -> None:
    """CodecError unless a picture parameter set (7.3.2.2) is a plain one: without slice groups."""
    reader = BitReader(unit)
    _check(reader.golomb() <= 255 and reader.golomb() <= 31, "a number out of range")
    reader.bits(2)
    _check(reader.golomb() == 0, "slice groups")


def first_macroblock(unit: bytes) -> int:
    """Return the macroblock at which a slice begins (7.3.3)."""
    return BitReader(unit[:16]).golomb()
