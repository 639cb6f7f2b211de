"""Types and shapes of a model's tensors: what the file states, then what can be inferred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, TypeProto, ValueInfoProto

from models.tensor import TensorSpec
from splitrtc_errors import CutError, MissingDependency, ModelError, ModelFileError, TensorError

__all__ = ["TensorType", "ask_runtime", "infer", "is_known", "tensor_type", "without_weights"]

SMALL_BYTES = 1024
"""Weights up to this size may be shapes and the like, which inference needs; larger ones it need not see."""

_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"}  # the others are numpy's names in capitals


@dataclass(frozen=True, slots=True)
class TensorType:
    """What is known of a tensor: element type and shape.

    ``kind`` is "tensor", or "sequence", "optional", "map", "sparse_tensor". ``dtype`` is numpy's name of the element
    type (of a sequence's or an optional's tensors too), "" when unknown. ``shape`` is None when not even the rank is
    known; a size in it is an integer, a symbol, or None.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    @property
    def is_fixed(self) -> bool:
        """Whether all sizes are known."""
        return self.shape is not None and all(isinstance(size, int) for size in self.shape)

    def __str__(self) -> str:
        sizes = "?" if self.shape is None else "x".join(str(size or "?") for size in self.shape)
        return f"{self.name} {'' if self.kind == 'tensor' else self.kind + ' of '}{self.dtype or '?'}[{sizes}]"

    def to_json(self) -> dict[str, Any]:
        """The same as plain values: sizes are integers, texts (symbols) or None."""
        shape = None if self.shape is None else list(self.shape)
        return {"name": self.name, "kind": self.kind, "type": self.dtype, "shape": shape}

    def spec(self) -> TensorSpec:
        """The same as a TensorSpec; CutError when it is no tensor of fixed shape, or beyond the protocol's limits."""
        if self.kind != "tensor":
            raise CutError(f"{self.name} is a {self.kind}, which cannot be sent; choose another cut")
        if self.shape is None or not self.dtype:
            raise CutError(f"the type and shape of {self.name} cannot be found out; choose another cut")
        sizes = tuple(size for size in self.shape if isinstance(size, int))
        if len(sizes) < len(self.shape) or not all(sizes):
            shown = [size or "?" for size in self.shape]
            raise CutError(f"{self.name} has no fixed shape ({shown}); fix the model's input shape first")
        try:
            return TensorSpec(self.name, self.dtype, sizes)
        except TensorError as error:
            raise CutError(f"this tensor cannot cross: {error}") from error


def tensor_type(value: ValueInfoProto) -> TensorType:
    """Read a value's type."""
    kind = value.type.WhichOneof("value") or "tensor_type"
    inner = value.type
    while inner.WhichOneof("value") in ("sequence_type", "optional_type"):
        inner = getattr(inner, inner.WhichOneof("value")).elem_type
    tensor = inner.sparse_tensor_type if inner.WhichOneof("value") == "sparse_tensor_type" else inner.tensor_type
    name = TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type else ""
    shape: tuple[int | str | None, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(
            size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in tensor.shape.dim
        )
    return TensorType(value.name, kind.removesuffix("_type"), _DTYPES.get(name, name.lower()), shape)


def infer(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Return what the file states, and what ONNX's inference finds out, of the tensors of the main graph.

    ModelFileError when types do not fit each other. Weights are not looked at, but for the small ones.
    """
    skeleton = without_weights(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton.SerializeToString(), check_type=True, data_prop=True)
    except Exception as error:  # its errors are of several unrelated classes
        raise ModelFileError(f"the model is damaged: {' '.join(str(error).split())[:500]}") from error
    graph = inferred.graph
    known = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    return {name: value for name, value in known.items() if _has_type(value.type)}


def ask_runtime(model: ModelProto, names: Sequence[str]) -> dict[str, ValueInfoProto]:
    """Return what the runtime can tell of some tensors without running: it knows operators that ONNX does not.

    Nothing when there is no runtime, or it cannot load the model.
    """
    from models.runtime import open_session

    outputs = {value.name for value in model.graph.output}
    skeleton = without_weights(model)
    skeleton.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in outputs)
    try:
        session = open_session(skeleton.SerializeToString(), "cpu", optimise=False, quiet=True)
    except (MissingDependency, ModelError):
        return {}
    asked = set(names)
    values = (_from_runtime(found.name, found.type, found.shape) for found in session.get_outputs())
    return {value.name: value for value in values if value is not None and value.name in asked}


def _from_runtime(name: str, kind: str, shape: list[int | str | None]) -> ValueInfoProto | None:
    """A value of a type as ONNX Runtime writes it, ``tensor(float)``; None for those that are no tensors."""
    element = kind.removeprefix("tensor(").removesuffix(")")
    names = {"float": "FLOAT", "double": "DOUBLE"}
    try:
        number = TensorProto.DataType.Value(names.get(element, element.upper()))
    except ValueError:
        return None
    return onnx.helper.make_tensor_value_info(name, number, shape or None)  # it says [] of an unknown rank too


def is_known(value: ValueInfoProto | None) -> bool:
    """Whether a value's type is known, and of a tensor at least the rank: a file has to state that."""
    if value is None or not _has_type(value.type):
        return False
    return value.type.WhichOneof("value") != "tensor_type" or bool(value.type.tensor_type.HasField("shape"))


def without_weights(model: ModelProto) -> ModelProto:
    """The model with its larger weights as inputs: small enough to be handed about, and of the same types."""
    skeleton = ModelProto(ir_version=max(model.ir_version, 4))
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    source, graph = model.graph, skeleton.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    for field in ("output", "value_info"):
        getattr(graph, field).extend(getattr(source, field))
    weights = {tensor.name for tensor in source.initializer}
    for sparse in source.sparse_initializer:  # the runtime makes them dense, and so they are used
        kind = onnx.helper.make_tensor_value_info(sparse.values.name, sparse.values.data_type, list(sparse.dims))
        graph.input.append(kind)
        weights.add(sparse.values.name)
    graph.input.extend(value for value in source.input if value.name not in weights)
    for tensor in source.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and tensor.ByteSize() <= SMALL_BYTES:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return skeleton


def _has_type(kind: TypeProto) -> bool:
    which = kind.WhichOneof("value")
    return which is not None and (which != "tensor_type" or kind.tensor_type.elem_type != 0)
