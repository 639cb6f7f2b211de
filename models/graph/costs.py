"""What each node and each tensor of a model costs: MACs, weights, bytes; and what every cut costs then."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from models.graph.datapath import DataPath
from models.graph.index import bodies
from models.graph.macs import macs_of
from models.graph.memory import frontier_memory
from models.graph.model import Model
from models.graph.types import TensorType, tensor_type, without_weights
from models.tensor import ITEM_SIZES
from splitrtc_errors import ModelFileError

__all__ = ["Costs", "costs_of"]

Shape = tuple[int, ...]

_PLACES = ("int64", "bool")
"""Element types of constants that say sizes and places, and are no weights."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a model costs, with inputs of fixed shapes.

    Attributes:
        model: the model.
        path: its data path, whose places the lists below are by. A node with weights in its bodies reads one more
            constant, of a number that no tensor has: all of them together.
        inputs: the shapes of the inputs that these costs are for.
        types: type and shape of each tensor, by name; ``shape`` of every one in ``sizes`` is fixed.
        sizes: bytes of each tensor, by its number, constants among them, where that is known.
        macs: multiply-accumulate operations of each node; 0 where they are not known.
        held: how many weights such a constant stands for, by its number.
        unknown: the names of the nodes whose MACs are not known, as a shape is not.
    """

    model: Model
    path: DataPath
    inputs: Mapping[str, Shape]
    types: Mapping[str, TensorType]
    sizes: Mapping[int, int]
    macs: tuple[int, ...]
    held: Mapping[int, int]
    unknown: tuple[str, ...]

    @property
    def total_macs(self) -> int:
        """MACs of one run of the whole model."""
        return sum(self.macs)

    @property
    def parameters(self) -> int:
        """Number of weights: the elements of all constants but those that say sizes and places (int64, bool)."""
        names = self.model.graph.tensor_names
        count = sum(self.held.values())
        for t in {t for read in self.path.constants for t in read}:
            kind = None if t in self.held else self.types.get(names[t])
            if kind is not None and t in self.sizes and kind.dtype not in _PLACES:
                count += math.prod(size for size in kind.shape or () if isinstance(size, int))
        return count

    @property
    def peak_memory(self) -> int:
        """Bytes that a run of the whole model needs: weights, and tensors when most of them live."""
        return frontier_memory(self.path, self.sizes)[0][-1].total

    def can_be_sent(self, t: int) -> bool:
        """Whether a tensor has a type and a size that cross a link."""
        kind = self.types.get(self.model.graph.tensor_names[t])
        return kind is not None and kind.kind == "tensor" and kind.dtype in ITEM_SIZES and self.sizes.get(t, 0) > 0


def costs_of(model: Model, shapes: Mapping[str, Sequence[int]] | None = None) -> Costs:
    """Work out what a model costs: by shape inference, and by a run where that gives up.

    ``shapes`` are those of inputs with free dimensions; for those that are not given, sizes are looked for at which the
    model runs.

    Raises BadArgument for shapes that do not fit; ModelError when a run is needed and the model does not run.
    """
    path = DataPath.of(model.graph)
    names = model.graph.tensor_names
    stated = {value.name: tensor_type(value) for value in model.inputs}
    values: dict[str, Any] | None = None
    if shapes or not all(_is_fixed(kind) for kind in stated.values()):
        from models.graph.running import find_inputs

        values = find_inputs(model, shapes)
        inputs = {name: tuple(np.shape(value)) for name, value in values.items()}
        proto, types = _infer(model, inputs)
    else:
        inputs = {
            name: tuple(size for size in kind.shape or () if isinstance(size, int)) for name, kind in stated.items()
        }
        proto, types = model.proto, model.types
        if any(True for node in proto.graph.node for _ in bodies(node)):
            proto, types = _infer(model, inputs)  # which tells what is in the bodies, too
    missing = [t for t in path.readers if not _is_fixed(types.get(names[t]))]
    if missing:
        types = {**types, **_run(model, [names[t] for t in missing], values)}
    fixed = {name: kind.shape for name, kind in types.items() if _is_fixed(kind)}
    known: dict[str, Shape] = {name: tuple(map(int, shape or ())) for name, shape in fixed.items()}  # type: ignore[arg-type]
    known |= {tensor.name: tuple(tensor.dims) for tensor in model.proto.graph.initializer}
    types = {**types, **_weights(model, types)}
    counts = macs_of(proto, known)
    order = model.graph.order
    on_path = [counts[order[node]] for node in path.nodes]
    sizes = _sizes(path, names, types, known)
    held: dict[int, int] = {}
    constants = list(path.constants)
    for place, node in enumerate(path.nodes):
        if weights := list(_weights_inside(proto.graph.node[order[node]])):
            t = len(names) + place
            constants[place] = (*constants[place], t)
            sizes[t] = sum(math.prod(weight.dims) * _item_size(_type(weight)) for weight in weights)
            held[t] = sum(math.prod(weight.dims) for weight in weights if _type(weight).dtype not in _PLACES)
    return Costs(
        model=model,
        path=replace(path, constants=tuple(constants)),
        inputs=inputs,
        types=types,
        sizes=sizes,
        macs=tuple(count or 0 for count in on_path),
        held=held,
        unknown=tuple(
            model.graph.node_names[node] for node, count in zip(path.nodes, on_path, strict=True) if count is None
        ),
    )


def _is_fixed(kind: TensorType | None) -> bool:
    return kind is not None and kind.shape is not None and all(isinstance(size, int) for size in kind.shape)


def _sizes(
    path: DataPath, names: Sequence[str], types: Mapping[str, TensorType], shapes: Mapping[str, Shape]
) -> dict[int, int]:
    sizes = {}
    for t in (*path.readers, *{t for read in path.constants for t in read}):
        kind, shape = types.get(names[t]), shapes.get(names[t])
        if kind is not None and shape is not None and (item := _item_size(kind)):
            sizes[t] = math.prod(shape) * item
    return sizes


def _item_size(kind: TensorType) -> int:
    return ITEM_SIZES.get(kind.dtype, 2 if kind.dtype == "bfloat16" else 1 if kind.dtype.startswith("float8") else 0)


def _weights(model: Model, known: Mapping[str, TensorType]) -> dict[str, TensorType]:
    """The types of the initialisers, which inference leaves out."""
    return {tensor.name: _type(tensor) for tensor in model.proto.graph.initializer if tensor.name not in known}


def _weights_inside(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """The weights in the bodies of a node, and in those of the nodes in there."""
    for body in bodies(node):
        yield from body.initializer
        for inner in body.node:
            yield from _weights_inside(inner)
            if inner.op_type == "Constant":
                yield from (attribute.t for attribute in inner.attribute if attribute.name == "value")


def _type(tensor: onnx.TensorProto) -> TensorType:
    return tensor_type(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _infer(model: Model, inputs: Mapping[str, Shape]) -> tuple[onnx.ModelProto, dict[str, TensorType]]:
    """Shape inference with inputs of these shapes; what the file states of free sizes is forgotten."""
    fixed = without_weights(model.proto)
    graph = fixed.graph
    for value in graph.input:
        if value.name in inputs and value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
            for size in inputs[value.name]:
                value.type.tensor_type.shape.dim.add(dim_value=size)
    stated = [value for value in graph.value_info if _is_fixed(tensor_type(value))]
    graph.ClearField("value_info")
    graph.value_info.extend(stated)
    for value in graph.output:
        if value.type.HasField("tensor_type") and not _is_fixed(tensor_type(value)):
            value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except Exception as error:  # its errors are of several unrelated classes
        raise ModelFileError(f"shape inference fails: {' '.join(str(error).split())[:500]}") from error
    graph = inferred.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return inferred, {value.name: tensor_type(value) for value in values}


def _run(model: Model, names: Sequence[str], values: Mapping[str, Any] | None) -> dict[str, TensorType]:
    """Types of tensors as a run of the whole model makes them."""
    from models.graph.running import Runner, find_inputs, whole

    found = Runner(whole(model, names)).run(find_inputs(model) if values is None else values)
    return {
        name: TensorType(name, "tensor", found[name].dtype.name, tuple(found[name].shape))
        for name in names
        if isinstance(found[name], np.ndarray) and found[name].dtype.name in ITEM_SIZES
    }
