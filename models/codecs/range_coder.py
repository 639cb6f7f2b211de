"""The range coder of the klt and the range profiles: that of the library constriction (docs/protocol.md, section 4.6).

32-bit words, intervals of 24 bits. Its models take floating-point weights; ours are whole numbers that it turns into
intervals without rounding, see `model`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

__all__ = ["decoder", "model", "written"]

_PRECISION = 24


@lru_cache(maxsize=4096)
def model(weights: bytes) -> Any:
    """The model in which each symbol has an interval of its weight, uint16, in 2^-16.

    The library turns floating-point weights w into intervals of 1 + w * (2^24 - n) / (sum of all w), n the number of
    symbols. Ours are so that the factor is one: then nothing is rounded.
    """
    wide = np.frombuffer(weights, np.uint16).astype(np.float64) * 2 ** (_PRECISION - 16)
    return constriction.stream.model.Categorical(wide - 1, perfect=False)


def written(coder: Any) -> bytes:
    """The bytes of a range coder, as few as make a decoder end up in its last interval: the rest it reads as zeros."""
    words: NDArray[np.uint32] = coder.get_compressed()
    done: int
    lower: int
    size: int
    done, (lower, size) = coder.pos()
    # The interval may reach beyond 2^64: a carry into the words before, which are as the library's own end has them.
    carried = int(words[done]) < lower >> 32
    end = min(lower + size, (1 + carried) << 64)
    lower = max(lower, carried << 64)
    shift = next(shift for shift in range(64, -1, -8) if -(-lower >> shift) << shift < end)
    last = (-(-lower >> shift) << shift) % 2**64
    return (words[:done].astype(">u4").tobytes() + last.to_bytes(8, "big")).rstrip(b"\0")


def decoder(data: bytes | memoryview) -> Any:
    """Return a decoder of bytes from anybody. It raises AssertionError where no symbol fits."""
    whole = bytes(data)
    words = np.frombuffer(whole + bytes(-len(whole) % 4), ">u4").astype(np.uint32)
    return constriction.stream.queue.RangeDecoder(words)
