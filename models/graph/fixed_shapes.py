"""Values that follow from fixed shapes: what Shape, Size, and Gather of a Shape make, where the sizes are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

__all__ = ["FixedShapes", "Shapes", "Value"]

Shapes = Mapping[str, Sequence[int | str | None]]
"""Shapes of tensors, by name: each dimension a size, a symbol, or None where nothing is known."""

Value = tuple[int, ...] | int
"""A tuple is one-dimensional, an integer a scalar; int64."""

_MAIN = ("", "ai.onnx")
_INT64 = 7  # TensorProto.INT64


class FixedShapes:
    """Finds the values of nodes that read shapes: ``weights`` are the initialisers, ``makers`` the nodes, by tensor."""

    def __init__(self, shapes: Shapes, weights: Mapping[str, TensorProto], makers: Mapping[str, NodeProto]) -> None:
        self._shapes = shapes
        self._weights = weights
        self._makers = makers

    def value(self, node: NodeProto) -> Value | None:
        """What a node makes of the fixed part of a tensor's shape; None when that is not fixed, or it does not."""
        if node.domain not in _MAIN or node.op_type not in ("Shape", "Size", "Gather"):
            return None
        if node.op_type == "Gather":
            return self._gathered(node)
        sizes = self._sizes(node)
        found = tuple(size for size in sizes or () if isinstance(size, int))
        if sizes is None or len(found) < len(sizes):
            return None
        return found if node.op_type == "Shape" else math.prod(found)

    def _gathered(self, node: NodeProto) -> Value | None:
        """Gather of a shape that is fixed in those places: how exporters read one size among unknown ones."""
        source = self._makers.get(node.input[0]) if len(node.input) == 2 else None
        if source is None or source.op_type != "Shape" or source.domain not in _MAIN:
            return None
        sizes, indices = self._sizes(source), self._indices(node.input[1])
        if sizes is None or indices is None:
            return None
        wanted = (indices,) if isinstance(indices, int) else indices
        if not all(-len(sizes) <= index < len(sizes) for index in wanted):
            return None
        found = tuple(size for index in wanted if isinstance(size := sizes[index], int))
        if len(found) < len(wanted):
            return None
        return found[0] if isinstance(indices, int) else found

    def _indices(self, name: str) -> Value | None:
        """The value of a constant, when it is an integer or a list of them."""
        if name in self._weights:
            return _integers(self._weights[name])
        maker = self._makers.get(name)
        for attribute in maker.attribute if maker is not None and maker.op_type == "Constant" else ():
            if attribute.name == "value_int":
                return int(attribute.i)
            if attribute.name == "value_ints":
                return tuple(attribute.ints)
            if attribute.name == "value":
                return _integers(attribute.t)
        return None

    def _sizes(self, node: NodeProto) -> Sequence[int | str | None] | None:
        sizes = self._shapes.get(node.input[0])
        if sizes is None:
            return None
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        return sizes[slice(ends.get("start"), ends.get("end"))]


def _integers(tensor: TensorProto) -> Value | None:
    """The value of an int64 tensor of at most one dimension."""
    if tensor.data_type != _INT64 or len(tensor.dims) > 1:
        return None
    raw = tensor.raw_data
    values = [int.from_bytes(raw[k : k + 8], "little", signed=True) for k in range(0, len(raw), 8)]
    values = values or list(tensor.int64_data)
    if tensor.dims:
        return tuple(values)
    return values[0] if values else None
