"""The parts of a model that was cut: complete ONNX models of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from models.graph.cuts import Cut, constant_nodes, nodes_between
from models.graph.file import to_bytes, write_model
from models.graph.model import Model
from models.graph.types import TensorType, tensor_type

__all__ = ["Part", "constant_node", "split"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a model: an ONNX model, whose weights may lie in other files, in ``folder``.

    ``nodes`` are those of the model that are in it.
    """

    proto: ModelProto
    folder: Path | None
    nodes: frozenset[int]

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        """What goes in: the model's inputs, or the tensors that cross, in the order of their names' bytes."""
        return tuple(map(tensor_type, self.proto.graph.input))

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        """What comes out: the tensors that cross, in the order of their names' bytes, or the model's outputs."""
        return tuple(map(tensor_type, self.proto.graph.output))

    def to_bytes(self) -> bytes:
        """The content of its file. ModelFileError when its weights are in others."""
        return to_bytes(self.proto)

    def write(self, path: Path) -> list[Path]:
        """Write it in one step; returns the files. UserError when that fails."""
        copy = ModelProto()
        copy.CopyFrom(self.proto)
        return write_model(copy, path, self.folder)


def split(model: Model, cuts: Sequence[Cut]) -> tuple[Part, ...]:
    """Cut a model in consecutive parts, one more than there are cuts: head and tail; UE, edge and cloud.

    Each part's outputs are the next one's inputs, in the same order; a tensor that is needed further on passes through.
    What does not depend on the model's inputs goes into each part that uses it.

    Raises CutError when a head is not inside the next one, or the type of a tensor that crosses cannot be found out.
    """
    graph = model.graph
    crossings = ([graph.tensor_id(name) for name in cut.crossing] for cut in cuts)
    ends = [list(graph.inputs), *crossings, list(graph.outputs)]
    return tuple(_part(model, ends[i], ends[i + 1], i == 0, i == len(cuts)) for i in range(len(cuts) + 1))


def _part(model: Model, inputs: Sequence[int], outputs: Sequence[int], first: bool, last: bool) -> Part:
    graph = model.graph
    nodes = nodes_between(graph, inputs, outputs)
    names = graph.tensor_names
    values = constant_nodes(graph, inputs, nodes)
    source = model.proto.graph
    inputs_now = model.inputs if first else model.values([names[tensor] for tensor in inputs])
    outputs_now = list(source.output) if last else model.values([names[tensor] for tensor in outputs])
    proto = ModelProto()
    _copy_fields(model.proto, proto, leave=("graph", "training_info"))
    proto.ir_version = max(proto.ir_version, 4)  # below, initialisers would have to be listed as inputs
    _copy_fields(source, proto.graph, leave=_CHOSEN)
    part = proto.graph
    chosen = sorted(nodes)
    for i in chosen:
        node = source.node[graph.order[i]]
        part.node.append(constant_node(node, np.array(graph.shapes[i], np.int64)) if i in values else node)
    part.input.extend(inputs_now)
    part.output.extend(outputs_now)
    read = {names[tensor] for i in nodes - values for tensor in graph.uses[i]}
    made = {names[tensor] for i in nodes for tensor in graph.makes[i]}
    ends = {value.name for value in (*inputs_now, *outputs_now)}
    inside = (read | made) - ends
    about = [item for item in source.quantization_annotation if item.tensor_name in inside | ends]
    part.quantization_annotation.extend(about)
    constants = read | ends | {entry.value for item in about for entry in item.quant_parameter_tensor_names}
    part.initializer.extend(model.initializers(constants))
    part.sparse_initializer.extend(t for t in source.sparse_initializer if t.values.name in constants)
    part.value_info.extend(value for value in source.value_info if value.name in inside)
    return Part(proto, model.folder, frozenset(nodes))


_CHOSEN = ("node", "input", "output", "initializer", "sparse_initializer", "value_info", "quantization_annotation")


def _copy_fields(source: ModelProto | GraphProto, target: ModelProto | GraphProto, leave: Iterable[str]) -> None:
    """Copy every field that is set but some, also those that are newer than this code."""
    for field, value in source.ListFields():
        if field.name in leave:
            continue
        if isinstance(value, (str, bytes, int, float)):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).MergeFrom(value)


def constant_node(node: NodeProto, value: NDArray[Any]) -> NodeProto:
    """A node that makes a known value, in place of one that would compute it from a shape."""
    made = helper.make_node(
        "Constant", [], [name for name in node.output if name], node.name, value=numpy_helper.from_array(value)
    )
    made.doc_string = node.doc_string
    return made
