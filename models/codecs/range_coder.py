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
    """Return what an encoder has written: big-endian words without the zero bytes at their end."""
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype(">u4").tobytes().rstrip(b"\0")


def decoder(data: bytes | memoryview) -> Any:
    """Return a decoder of bytes from anybody. It raises AssertionError where no symbol fits."""
    whole = bytes(data)
    words = np.frombuffer(whole + bytes(-len(whole) % 4), ">u4").astype(np.uint32)
    return constriction.stream.queue.RangeDecoder(words)
