"""Smaller files of the same head: weights stored with fewer bits, and made float32 again when the head is loaded.

A runtime folds what stands between a stored weight and its use into a constant. So a variant takes no longer to run
than the original, and no more memory: only its file is smaller, and its weights are rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from models.graph.file import read_model, to_bytes
from splitrtc_errors import BadArgument

__all__ = ["with_weights_as"]

MIN_ELEMENTS = 256
"""Smaller tensors are biases, ranges and the like: rounding them harms, and saves nothing."""
INT8_MAX = 127


def with_weights_as(variant: str, head: bytes) -> bytes:
    """Return a head's file with its float32 weights as ``fp16`` or ``int8``; its inputs and outputs stay what they are.

    ``fp16`` rounds each weight to float16; a tensor with values beyond its range stays float32. ``int8`` has one scale
    for each index of the first axis, its largest magnitude over 127, and rounds half to even; tensors of one
    dimension become float16. The same bytes each time. Raises BadArgument for another variant, ModelFileError for what
    is no head with its weights inside.
    """
    stored = {"fp16": _half, "int8": _bytes}.get(variant)
    if stored is None:
        raise BadArgument(f"weights are stored as fp16 or int8, not {variant[:100]!r}")
    model = read_model(head)
    _replace_weights(model, stored)
    return to_bytes(model)


Stored = Callable[[str, NDArray[np.float32]], "tuple[list[TensorProto], list[NodeProto]] | None"]
"""From a weight's name and value to what stands for it: initialisers, and the nodes that compute it from them."""


def _replace_weights(model: ModelProto, stored: Stored) -> None:
    graph: GraphProto = model.graph
    visible = {value.name for value in (*graph.input, *graph.output)}
    kept, nodes = [], []
    for tensor in graph.initializer:
        replacement = None
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in visible:
            value = numpy_helper.to_array(tensor)
            if value.size >= MIN_ELEMENTS:
                replacement = stored(tensor.name, value)
        if replacement is None:
            kept.append(tensor)
        else:
            kept.extend(replacement[0])
            nodes.extend(replacement[1])
    nodes.extend(graph.node)  # after what they use
    for field, content in ((graph.initializer, kept), (graph.node, nodes)):
        copied = [type(item).FromString(item.SerializeToString()) for item in content]
        del field[:]
        field.extend(copied)


def _half(name: str, value: NDArray[np.float32]) -> tuple[list[TensorProto], list[NodeProto]] | None:
    with np.errstate(over="ignore"):
        rounded = value.astype(np.float16)
    if not np.isfinite(rounded).all():
        return None
    return [numpy_helper.from_array(rounded, f"{name}/fp16")], [_as_float(f"{name}/fp16", name)]


def _bytes(name: str, value: NDArray[np.float32]) -> tuple[list[TensorProto], list[NodeProto]] | None:
    if value.ndim < 2 or not np.isfinite(value).all():
        return _half(name, value)
    largest = np.abs(value).max(axis=tuple(range(1, value.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(INT8_MAX), np.float32(1.0)).astype(np.float32)
    rounded = np.clip(np.rint(value / scale), -INT8_MAX, INT8_MAX).astype(np.int8)
    initialisers: list[Any] = [
        numpy_helper.from_array(rounded, f"{name}/int8"),
        numpy_helper.from_array(scale, f"{name}/scale"),
    ]
    nodes = [
        _as_float(f"{name}/int8", f"{name}/unscaled"),
        helper.make_node("Mul", [f"{name}/unscaled", f"{name}/scale"], [name], name=f"{name}/dequantise"),
    ]
    return initialisers, nodes


def _as_float(source: str, target: str) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=TensorProto.FLOAT)
