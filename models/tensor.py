"""The description of a tensor, shared by cards, partitions, codecs and the control channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from splitrtc_errors import TensorError

__all__ = ["ITEM_SIZES", "MAX_ELEMENTS", "MAX_RANK", "MAX_SIZE", "MAX_TENSOR_NAME", "TensorSpec", "is_tensor_name"]

ITEM_SIZES: dict[str, int] = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("float16", "int16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64"), 8),
}
"""Element types that may cross a cut (docs/protocol.md, section 2), which are also numpy's names, and their bytes."""

MAX_RANK = 8
MAX_SIZE = 2**24
MAX_ELEMENTS = 2**26
MAX_TENSOR_NAME = 512


def is_tensor_name(name: str) -> bool:
    """Whether a text can name a tensor that crosses: 1 to 512 bytes of UTF-8."""
    try:
        return 1 <= len(name.encode()) <= MAX_TENSOR_NAME
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can smuggle in
        return False


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, element type and shape of one tensor. TensorError when they are outside the protocol's limits."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not is_tensor_name(self.name):
            raise TensorError(f"a tensor's name has 1 to {MAX_TENSOR_NAME} bytes of UTF-8, not {self.name[:100]!r}")
        if self.dtype not in ITEM_SIZES:
            raise TensorError(f"tensor {self.name}: element type {self.dtype!r} is not one of {', '.join(ITEM_SIZES)}")
        if len(self.shape) > MAX_RANK or not all(1 <= size <= MAX_SIZE for size in self.shape):
            raise TensorError(f"tensor {self.name}: a shape has at most {MAX_RANK} sizes from 1 to {MAX_SIZE}")
        if self.elements > MAX_ELEMENTS:
            raise TensorError(f"tensor {self.name}: {self.elements} elements, at most {MAX_ELEMENTS} are allowed")

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes, uncompressed."""
        return self.elements * ITEM_SIZES[self.dtype]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{'x'.join(map(str, self.shape))}]"

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read ``{"name", "type", "shape"}``; other members are ignored. TensorError when it is malformed."""
        match value:
            # type, not isinstance: True is no size
            case {"name": str(name), "type": str(dtype), "shape": list(shape)} if all(type(n) is int for n in shape):
                return cls(name, dtype, tuple(shape))
            case _:
                raise TensorError("a tensor is described by a name (text), a type (text), a shape (list of integers)")

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        return {"name": self.name, "type": self.dtype, "shape": list(self.shape)}
