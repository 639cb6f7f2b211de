"""Snappy as the slices use it (docs/protocol.md, section 4.3): the raw format, one block per slice, from anybody."""

from __future__ import annotations

import cramjam

from splitrtc_errors import CodecError

__all__ = ["compress", "decompress"]


def compress(data: bytes | memoryview) -> bytes:
    """Return ``data`` as one raw Snappy block: at most 32 + 7/6 of its size where it cannot be compressed."""
    return bytes(cramjam.snappy.compress_raw(data))


def decompress(data: bytes | memoryview, size: int) -> memoryview:
    """Return the content of the one raw Snappy block ``data``, which must have exactly ``size`` bytes (at least 1).

    Allocates ``size`` bytes, whatever the block says of itself. CodecError when it is not such a block.
    """
    content = bytearray(size)
    try:
        found = cramjam.snappy.decompress_raw_into(data, content)
    except cramjam.DecompressionError as error:
        raise CodecError(f"a damaged Snappy block: {error}") from error
    if found != size:
        raise CodecError(f"a Snappy block of {found} bytes, expected {size}")
    return memoryview(content)
