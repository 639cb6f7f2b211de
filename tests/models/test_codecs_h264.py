from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.codecs.avc_messages import Message, pack_message, parse_message
from models.codecs.h264 import (
    IDR,
    PPS,
    SLICE,
    SPS,
    BitReader,
    check_pps,
    check_sps,
    first_macroblock,
    nal_type,
    split,
)
from splitrtc_errors import CodecError


class BitWriter:
    """The inverse of BitReader."""

    def __init__(self) -> None:
        self.text = ""

    def bits(self, value: int, count: int) -> BitWriter:
        self.text += f"{value:0{count}b}" if count else ""
        return self

    def golomb(self, value: int) -> BitWriter:
        digits = (value + 1).bit_length()
        return self.bits(0, digits - 1).bits(value + 1, digits)

    def unit(self, kind: int) -> bytes:
        """A NAL unit with what was written, a stop bit and emulation prevention."""
        text = self.text + "1"
        text += "0" * (-len(text) % 8)
        payload = bytearray()
        for byte in int(text, 2).to_bytes(len(text) // 8, "big"):
            if payload[-2:] == b"\0\0" and byte <= 3:
                payload.append(3)
            payload.append(byte)
        return bytes([0x60 | kind]) + bytes(payload)


def sps(**changes: int) -> bytes:
    """A good one of 64 x 32 pixels, with fields changed."""
    field = {
        "profile": 100, "level": 30, "id": 0, "chroma": 0, "luma_bits": 0, "chroma_bits": 0, "bypass": 0, "scaling": 0,
        "frame_number": 0, "order": 2, "order_bits": 0, "references": 1, "gaps": 0, "width": 4, "height": 2,
        "progressive": 1, "direct": 1, "cropping": 0, "vui": 0,
    } | changes  # fmt: skip
    writer = BitWriter().bits(field["profile"], 8).bits(0, 8).bits(field["level"], 8).golomb(field["id"])
    if field["profile"] == 100:
        writer.golomb(field["chroma"]).golomb(field["luma_bits"]).golomb(field["chroma_bits"])
        writer.bits(field["bypass"], 1).bits(field["scaling"], 1)
    writer.golomb(field["frame_number"]).golomb(field["order"])
    if field["order"] == 0:
        writer.golomb(field["order_bits"])
    writer.golomb(field["references"]).bits(field["gaps"], 1)
    writer.golomb(field["width"] - 1).golomb(field["height"] - 1)
    writer.bits(field["progressive"], 1).bits(field["direct"], 1).bits(field["cropping"], 1).bits(field["vui"], 1)
    return writer.unit(SPS)


def pps(number: int = 0, of: int = 0, groups: int = 0) -> bytes:
    return BitWriter().golomb(number).golomb(of).bits(1, 1).bits(0, 1).golomb(groups).bits(0, 9).unit(PPS)


def coded(first: int = 0, kind: int = IDR) -> bytes:
    return BitWriter().golomb(first).golomb(7).golomb(0).bits(0x5A, 8).unit(kind)


@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 24)), max_size=20))
def test_what_is_written_is_read(fields: list[tuple[int, int]]) -> None:
    writer = BitWriter()
    for value, count in fields:
        writer.golomb(value).bits(value % 2**count, count)
    reader = BitReader(writer.unit(SPS))
    for value, count in fields:
        assert (reader.golomb(), reader.bits(count)) == (value, value % 2**count)


@given(st.binary(max_size=40))
@example(b"")
@example(b"\0\0\0\0\0\0")
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    readers: list[Callable[[], Any]] = [
        lambda: check_sps(data, 64, 32),
        lambda: check_pps(data),
        lambda: first_macroblock(data),
        lambda: nal_type(data),
        lambda: parse_message(data, True, [(64, 32)]),
        lambda: parse_message(data, False, [(64, 32)]),
    ]
    for read in readers:
        try:
            read()
        except CodecError:
            continue


def test_a_number_of_too_many_digits_is_refused() -> None:
    with pytest.raises(CodecError, match="more than 32 bits"):
        BitReader(bytes(9)).golomb()


@given(
    st.integers(1, 300), st.integers(1, 300), st.sampled_from((66, 77, 100)), st.sampled_from((0, 2)), st.integers(0, 4)
)
def test_the_size_is_the_expected_one(width: int, height: int, profile: int, order: int, references: int) -> None:
    unit = sps(width=width, height=height, profile=profile, order=order, references=references, vui=1)
    check_sps(unit, 16 * width, 16 * height)
    for wrong in ((16 * width + 16, 16 * height), (16 * width, 16 * height - 16)):
        with pytest.raises(CodecError, match=f"a picture of {16 * width}x{16 * height}, expected"):
            check_sps(unit, *wrong)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"profile": 244}, "profile 244"),
        ({"id": 32}, "a number above 31"),
        ({"chroma": 2}, "neither gray nor 4:2:0"),
        ({"luma_bits": 2}, "more than 8 bits"),
        ({"chroma_bits": 1}, "more than 8 bits"),
        ({"scaling": 1}, "scaling matrices"),
        ({"frame_number": 13}, "frame numbers"),
        ({"order": 1}, "picture order of type 1"),
        ({"order": 0, "order_bits": 13}, "picture orders"),
        ({"references": 5}, "5 reference frames"),
        ({"width": 2**16}, "1048576x32"),
        ({"progressive": 0}, "interlaced"),
        ({"cropping": 1}, "cropping"),
    ],
)
def test_parameter_sets_with_surprises_are_refused(changes: dict[str, int], reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        check_sps(sps(**changes), 64, 32)


def test_picture_parameter_sets() -> None:
    check_pps(pps())
    for unit, reason in (
        (pps(number=256), "out of range"),
        (pps(of=32), "out of range"),
        (pps(groups=1), "slice groups"),
    ):
        with pytest.raises(CodecError, match=reason):
            check_pps(unit)


def test_a_stream_is_split() -> None:
    units = [sps(), pps(), coded()]
    assert split(b"".join(b"\0\0\0\1" + unit for unit in units)) == units
    assert split(b"\0\0\1".join([b"", *units])) == units
    assert split(b"") == []


@pytest.mark.parametrize("unit", [b"", b"\xe7"])
def test_no_unit(unit: bytes) -> None:
    with pytest.raises(CodecError, match="empty or"):
        nal_type(unit)


@pytest.mark.parametrize("end", [b"\0\0\0", b"\0\0\1", b"\0\0\2"])
@pytest.mark.parametrize("hidden_in", [0, 1, 2])
def test_no_unit_hides_another_one(end: bytes, hidden_in: int) -> None:
    # A decoder would allocate what the parameter set in there says.
    units = [sps(), pps(), coded()]
    units[hidden_in] += end + sps(width=1000, height=1000)
    with pytest.raises(CodecError, match="a start code inside"):
        parse_message(pack_message(Message(0, (units[0], units[1]), units[2])), True, [(64, 32)])


@pytest.mark.parametrize("intra", [True, False])
def test_messages_come_back(intra: bool) -> None:
    message = Message(1, (sps(), pps()) if intra else (), coded(7, IDR if intra else SLICE))
    assert parse_message(pack_message(message), intra, [(16, 16), (64, 32)]) == message
    assert message.first == 7


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "without tensor"),
        (b"\1", "beyond 1"),
        (b"\0", "other NAL units"),
        (b"\0\0", "ends in a length"),
        (b"\0\0\2\x41", "ends too early"),
        (pack_message(Message(0, (), coded())), "other NAL units"),
        (pack_message(Message(0, (sps(), pps(), pps()), coded())), "other NAL units"),
        (pack_message(Message(0, (pps(), sps()), coded())), "other NAL units"),
        (pack_message(Message(0, (sps(), pps()), coded(kind=SLICE))), "other NAL units"),
        (pack_message(Message(0, (sps(width=5), pps()), coded())), "a picture of 80x32"),
        (pack_message(Message(0, (sps(), pps(groups=1)), coded())), "slice groups"),
        (pack_message(Message(0, (sps(), pps()), coded(8))), "beyond the picture"),
    ],
)
def test_messages_that_no_encoder_writes_are_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        parse_message(payload, True, [(64, 32)])
