"""Cutting an ONNX graph in two: pure functions from bytes to bytes.

``onnx.utils.extract_model`` checks late (an incomplete cut ends in "not topologically sorted"), misses tensors that
the bodies of If and Loop capture, and drops metadata. So the cut is computed here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from models.tensor import TensorSpec
from splitrtc_errors import CutError, ModelFileError, TensorError

__all__ = ["SplitModel", "split"]

_ONNX_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}  # the others are ours in capitals


@dataclass(frozen=True, slots=True)
class SplitModel:
    """A model cut in two: the parts as ONNX files, and the tensors that cross, in the order of their names' bytes.

    These are the head's outputs and the tail's inputs, in this order.
    """

    head: bytes
    tail: bytes
    crossing: tuple[TensorSpec, ...]


def split(model: bytes, tensors: Sequence[str]) -> SplitModel:
    """Cut a model at the named tensors: the head is everything that they are computed from.

    What does not depend on the model's inputs (constants, initialisers) goes into each part that uses it. The parts
    keep the model's opsets, functions and metadata.

    Raises:
        CutError: the tensors do not separate the inputs from the outputs (it names what else crosses), one of
            them does not cross, or its type or shape is not fixed.
        ModelFileError: the bytes are no ONNX model, or its weights are in other files.
    """
    try:
        whole = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's errors differ between its implementations
        raise ModelFileError(f"this is not an ONNX model: {error}") from error
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in whole.graph.initializer):
        raise ModelFileError("the model's weights are in other files; save it as one file")
    wanted = sorted(set(tensors), key=str.encode)
    graph = _Graph(whole.graph)
    graph.check_names(wanted)
    head = graph.ancestors(wanted)
    tail, crossing = graph.rest(head)
    if others := sorted(crossing.difference(wanted)):
        shown = (f"{name} (a model input: the picture itself)" if name in graph.inputs else name for name in others)
        raise CutError(f"{', '.join(wanted)}: this does not cut the model in two, as these cross too: {_list(shown)}")
    if idle := sorted(set(wanted) - crossing):
        raise CutError(f"the rest of the model does not use {_list(idle)}; leave it out of the cut")
    if not tail:
        raise CutError(f"{_list(wanted)}: nothing is left for the tail, these are the model's outputs")
    values = _values(whole, wanted)
    return SplitModel(
        head=_part(whole, head, graph.uses, list(graph.inputs.values()), values),
        tail=_part(whole, tail, graph.uses, values, list(whole.graph.output)),
        crossing=tuple(_spec(value) for value in values),
    )


class _Graph:
    """Who makes and who uses each tensor. Nodes are numbered in the graph's order, which ONNX demands topological."""

    def __init__(self, graph: GraphProto) -> None:
        constants = {tensor.name for tensor in graph.initializer}
        constants.update(tensor.values.name for tensor in graph.sparse_initializer)
        # Up to IR version 3 every initialiser is an input as well, one that need not be given.
        self.inputs = {value.name: value for value in graph.input if value.name not in constants}
        self.uses = [_used_names(node) for node in graph.node]
        self._outputs = [value.name for value in graph.output]
        self._producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
        self._varying = set(self.inputs)  # what depends on the model's inputs
        for node, uses in zip(graph.node, self.uses, strict=True):
            if not uses.isdisjoint(self._varying):
                self._varying.update(node.output)

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse to cut at what no node makes, or what is constant."""
        if not names:
            raise CutError("a cut needs at least one tensor")
        for name in names:
            if name in self.inputs:
                raise CutError(f"{name} is an input of the model: nothing would be left for the head")
            if name not in self._producer:
                near = difflib.get_close_matches(name, self._producer, n=3, cutoff=0.5)
                raise CutError(f"the model has no tensor {name!r}" + (f"; near it are {_list(near)}" if near else ""))
            if name not in self._varying:
                raise CutError(f"{name} is constant: it does not depend on the model's inputs")

    def ancestors(self, names: Iterable[str]) -> set[int]:
        """Return the nodes that the named tensors are computed by."""
        nodes: set[int] = set()
        waiting = [self._producer[name] for name in names]
        while waiting:
            node = waiting.pop()
            if node not in nodes:
                nodes.add(node)
                waiting += (self._producer[name] for name in self.uses[node] if name in self._producer)
        return nodes

    def rest(self, head: set[int]) -> tuple[set[int], set[str]]:
        """Return the nodes that the model's outputs need after the head, and every tensor that crosses to them."""
        nodes: set[int] = set()
        crossing: set[str] = set()
        waiting = list(self._outputs)
        while waiting:
            name = waiting.pop()
            node = self._producer.get(name)
            if name in self.inputs or (node in head and name in self._varying):
                crossing.add(name)
            elif node is not None and node not in nodes:
                nodes.add(node)
                waiting += self.uses[node]
        return nodes, crossing


def _used_names(node: NodeProto) -> set[str]:
    """Names of the tensors that a node reads, also those that the bodies of its If, Loop or Scan capture."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            inner = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            inner.update(tensor.values.name for tensor in body.sparse_initializer)
            inner.update(name for inner_node in body.node for name in inner_node.output)
            read = {value.name for value in body.output}.union(*map(_used_names, body.node))
            names |= read - inner
    return names


def _values(whole: ModelProto, names: Sequence[str]) -> list[ValueInfoProto]:
    """Return type and shape of the named tensors; inferred where the model does not state them."""
    known = {value.name: value for value in (*whole.graph.output, *whole.graph.value_info)}
    if not all(name in known for name in names):
        inferred = onnx.shape_inference.infer_shapes(whole, data_prop=True)
        known |= {value.name: value for value in inferred.graph.value_info}
    if unknown := [name for name in names if name not in known]:
        raise CutError(f"the type and shape of {_list(unknown)} cannot be found out; choose another cut")
    return [known[name] for name in names]


def _spec(value: ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    sizes = [size.dim_value for size in kind.shape.dim]
    if not kind.HasField("shape") or not all(sizes):
        shown = [size.dim_value or size.dim_param or "?" for size in kind.shape.dim]
        raise CutError(f"{value.name} has no fixed shape ({shown}); fix the model's input shape first")
    name = TensorProto.DataType.Name(kind.elem_type)
    try:
        return TensorSpec(value.name, _ONNX_NAMES.get(name, name.lower()), tuple(sizes))
    except TensorError as error:
        raise CutError(f"this tensor cannot cross: {error}") from error


def _part(
    whole: ModelProto,
    nodes: set[int],
    uses: Sequence[set[str]],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
) -> bytes:
    """Return a model of the chosen nodes that keeps everything of the whole one that still has a meaning."""
    graph = whole.graph
    chosen = sorted(nodes)
    names = {name for i in chosen for name in (*graph.node[i].output, *uses[i])} | {value.name for value in outputs}
    ends = {value.name for value in (*inputs, *outputs)}
    part = ModelProto()
    part.CopyFrom(whole)
    part.ClearField("training_info")
    part.ir_version = max(part.ir_version, 4)  # below, initialisers would have to be listed as inputs
    for field in ("node", "input", "output", "initializer", "sparse_initializer", "value_info"):
        part.graph.ClearField(field)
    part.graph.ClearField("quantization_annotation")
    part.graph.node.extend(graph.node[i] for i in chosen)
    part.graph.input.extend(inputs)
    part.graph.output.extend(outputs)
    part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in names)
    part.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in names)
    part.graph.value_info.extend(value for value in graph.value_info if value.name in names - ends)
    part.graph.quantization_annotation.extend(a for a in graph.quantization_annotation if a.tensor_name in names)
    data: bytes = part.SerializeToString(deterministic=True)
    return data


def _list(names: Iterable[str]) -> str:
    """At most five names, and how many more there are."""
    shown = list(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
