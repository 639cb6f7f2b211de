"""Zstandard as the slices use it (docs/protocol.md, section 4.3): small frames, one per slice, from anybody."""

from __future__ import annotations

import zstandard

from splitrtc_errors import CodecError

__all__ = ["MAX_WINDOW", "Compressor", "Decompressor"]

MAX_WINDOW = 2**20
"""Bytes; what a reader grants a frame."""

_LEVEL = 1
"""Quantised features are noise to a match finder: only the Huffman stage gains, and higher levels cost time for nothing
(measured on ssdlite at 4 bits: 0.1 % between level 1 and level 22)."""

_MAGIC = b"\x28\xb5\x2f\xfd"


class Compressor:
    """Compresses slices. One thread at a time."""

    def __init__(self) -> None:
        # The reader knows the size from the slice's header, and SCTP and DTLS have checksums of their own.
        self._context = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=False, write_checksum=False)

    def compress(self, data: bytes | memoryview) -> bytes:
        """Return ``data`` as one Zstandard frame: at most 9 bytes more than it has where it cannot be compressed."""
        return self._context.compress(data)


class Decompressor:
    """Decompresses slices of unknown origin. One thread at a time."""

    def __init__(self) -> None:
        self._context = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)

    def decompress(self, data: bytes | memoryview, size: int) -> bytes:
        """Return the content of the one Zstandard frame ``data``, which must have exactly ``size`` bytes (at least 1).

        Allocates ``size`` bytes and the window, whatever the frame says of itself. CodecError when it is anything but
        one complete frame of that size, without dictionary and checksum, with a window of at most MAX_WINDOW.
        """
        # The library takes a skippable frame for an empty one.
        if data[:4] != _MAGIC:
            raise CodecError("not a Zstandard frame")
        try:
            frame = zstandard.get_frame_parameters(data)
            if frame.dict_id or frame.has_checksum or frame.window_size > MAX_WINDOW:
                raise CodecError("a Zstandard frame with a dictionary, a checksum or a window above 1 MiB")
            # Checked before decompress(), which allocates what the frame claims.
            if frame.content_size not in (size, zstandard.CONTENTSIZE_UNKNOWN):
                raise CodecError(f"a Zstandard frame of {frame.content_size} bytes, expected {size}")
            content = self._context.decompress(
                data, max_output_size=size, read_across_frames=False, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise CodecError(f"a damaged Zstandard frame: {error}") from error
        if len(content) != size:
            raise CodecError(f"a Zstandard frame of {len(content)} bytes, expected {size}")
        return content
