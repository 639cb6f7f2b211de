"""Snappy blocks from anybody: the content, or one clear error, and never more memory than expected."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.codecs.snappy import compress, decompress
from splitrtc_errors import CodecError


@given(st.binary(min_size=1, max_size=2000))
def test_what_is_compressed_comes_back(data: bytes) -> None:
    coded = compress(memoryview(data))
    assert bytes(decompress(coded, len(data))) == data
    assert len(coded) <= 32 + len(data) * 7 // 6


@pytest.mark.parametrize("size", [3, 5])
def test_content_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(CodecError, match="Snappy"):
        decompress(compress(b"abcd"), size)


@given(st.binary(max_size=60), st.integers(1, 100))
def test_any_bytes_give_the_expected_size_or_a_codec_error(data: bytes, size: int) -> None:
    try:
        content = decompress(data, size)
    except CodecError:
        return
    assert len(content) == size


def test_a_block_that_claims_gigabytes_allocates_none_of_them() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="damaged Snappy block"):
            decompress(b"\xff\xff\xff\xff\x0f" + bytes(20), 1000)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
