"""Arrays as members of a calibration file: base64, little-endian, in C order."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitrtc_errors import CodecError

__all__ = ["decoded", "encoded"]


def encoded(values: NDArray[Any]) -> str:
    """Return an array as text."""
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def decoded(text: str, dtype: np.dtype[Any], *shape: int) -> NDArray[Any]:
    """Read an array, read-only, in the machine's byte order. CodecError when it is not of this shape."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CodecError(f"a table is not base64: {error}") from error
    size = int(np.prod(shape)) * dtype.itemsize
    if len(data) != size:
        raise CodecError(f"a table of {len(data)} bytes, expected {size}")
    values = np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)
    values.flags.writeable = False
    return values
