from __future__ import annotations

import random
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from models.codecs.zstd import MAX_WINDOW, Compressor, Decompressor
from splitrtc_errors import CodecError

MAGIC = b"\x28\xb5\x2f\xfd"
RAW, RLE, RESERVED = 0, 1, 3


def block(kind: int, size: int, content: bytes, last: bool = True) -> bytes:
    return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + content


def frame(*blocks: bytes, window: int = 0x50) -> bytes:
    """A frame of unknown content size; windows are 1 KiB << (window >> 3), plus eighths."""
    return MAGIC + bytes((0, window)) + b"".join(blocks)


ABC = block(RAW, 3, b"abc")


@given(st.binary(min_size=1, max_size=5000))
def test_round_trip(data: bytes) -> None:
    compressed = Compressor().compress(data)
    assert len(compressed) <= len(data) + 9
    assert Decompressor().decompress(compressed, len(data)) == data
    assert Decompressor().decompress(memoryview(compressed), len(data)) == data


def test_contexts_are_used_again_after_damage() -> None:
    decompressor = Decompressor()
    for _ in range(2):
        with pytest.raises(CodecError):
            decompressor.decompress(frame(block(RESERVED, 0, b"")), 3)
        assert decompressor.decompress(frame(ABC), 3) == b"abc"


def test_frames_carry_neither_content_size_nor_checksum() -> None:
    parameters = zstandard.get_frame_parameters(Compressor().compress(bytes(1000)))
    assert parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN
    assert not parameters.has_checksum
    assert parameters.window_size <= MAX_WINDOW


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(ABC), id="window of 1 MiB, the largest"),
        pytest.param(frame(ABC, window=0), id="smallest window"),
        pytest.param(frame(block(RAW, 1, b"a", last=False), block(RAW, 2, b"bc")), id="two blocks"),
        pytest.param(frame(block(RAW, 3, b"abc", last=False), block(RAW, 0, b"")), id="empty last block"),
        pytest.param(MAGIC + b"\x20\x03" + ABC, id="single segment with its size"),
        pytest.param(zstandard.ZstdCompressor(level=19).compress(b"abc"), id="another writer"),
    ],
)
def test_other_writers_frames_are_read(data: bytes) -> None:
    assert Decompressor().decompress(data, 3) == b"abc"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "not a Zstandard frame", id="nothing"),
        pytest.param(b"abc", "not a Zstandard frame", id="no frame"),
        pytest.param(b"\x50\x2a\x4d\x18\x03\0\0\0abc", "not a Zstandard frame", id="skippable frame"),
        pytest.param(b"\x50\x2a\x4d\x18\0\0\0\0" + frame(ABC), "not a Zstandard frame", id="skippable frame first"),
        pytest.param(MAGIC, "damaged", id="magic number alone"),
        pytest.param(frame(ABC)[:-1], "damaged", id="truncated"),
        pytest.param(frame(block(RAW, 3, b"abc", last=False)), "damaged", id="last block missing"),
        pytest.param(frame(block(RESERVED, 3, b"abc")), "damaged", id="reserved block type"),
        pytest.param(frame(ABC) + b"\0", "damaged", id="trailing byte"),
        pytest.param(frame(ABC) + frame(ABC), "damaged", id="two frames"),
        pytest.param(frame(ABC) + b"\x50\x2a\x4d\x18\0\0\0\0", "damaged", id="trailing skippable frame"),
        pytest.param(frame(block(RAW, 2, b"ab")), "of 2 bytes, expected 3", id="too short"),
        pytest.param(frame(block(RAW, 0, b"")), "of 0 bytes, expected 3", id="empty"),
        pytest.param(frame(block(RAW, 4, b"abcd")), "damaged", id="too long"),
        pytest.param(frame(block(RLE, 2**17, b"a")), "damaged", id="bomb"),
        pytest.param(MAGIC + b"\x20\x02" + ABC, "of 2 bytes, expected 3", id="claims less"),
        pytest.param(MAGIC + b"\x20\x03" + block(RAW, 2, b"ab"), "damaged", id="has less than it claims"),
        pytest.param(MAGIC + b"\xe0" + struct.pack("<Q", 2**60) + ABC, "window", id="claims much, single segment"),
        pytest.param(MAGIC + b"\xc0\x50" + struct.pack("<Q", 2**60) + ABC, "expected 3", id="claims much"),
        pytest.param(frame(ABC, window=0x51), "window", id="window above 1 MiB"),
        pytest.param(frame(ABC, window=0xFF), "damaged", id="largest window there is"),
        pytest.param(MAGIC + b"\x21\x07\x03" + ABC, "dictionary", id="dictionary"),
        pytest.param(zstandard.ZstdCompressor(write_checksum=True).compress(b"abc"), "checksum", id="checksum"),
    ],
)
def test_anything_else_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        Decompressor().decompress(data, 3)


def test_mutated_frames_are_decoded_or_refused() -> None:
    dice = random.Random(1)
    content = bytes(dice.choices(range(16), weights=range(1, 17), k=600))
    good = Compressor().compress(content)
    decompressor = Decompressor()
    refused = 0
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            assert len(decompressor.decompress(bytes(data[: dice.randint(1, 2 * len(data))]), 600)) == 600
        except CodecError:
            refused += 1
    assert 0 < refused < 2000
