"""Freeing the batch dimension of a part, so that an edge runs several devices' frames at once.

Most exported models state a batch of 1, in their inputs and in the middle of the graph. It is followed from the inputs
to the outputs, node by node (`batch_rules`); where it cannot be followed it is not freed. Then the result is run on
1, 2 and 5 samples, and compared with as many single runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from models.graph.batch_op import Op, Refused
from models.graph.batch_rules import RULES
from models.graph.index import used_names
from models.graph.model import Model
from models.graph.parts import Part, constant_node
from models.graph.running import Runner, difference, find_inputs, whole
from splitrtc_errors import CutError

__all__ = ["BATCH", "batched"]

BATCH = "batch"
"""The symbol of the dimension that is free."""

CHECKED = (1, 2, 5)

TOLERANCE = 1e-5
"""Of a batch against single runs, relative to the largest value: kernels may sum in another order for more rows."""


def batched(part: Part) -> Part:
    """Return the same part for any number of samples at once, in the first dimension of all inputs and outputs.

    CutError says which node stands in the way, and why, when that is not provably the same as single runs; or which
    output differs, when runs on 1, 2 and 5 samples show that it is not.
    """
    model = Model(part.proto, part.folder)
    shapes = {kind.name: [1, *(kind.shape or ())[1:]] for kind in model.input_types}
    for kind in model.input_types:
        if not kind.shape or kind.shape[0] in (0, *range(2, 2**16)) or not all(map(_is_size, shapes[kind.name])):
            raise CutError(f"the batch cannot be freed: {kind} does not begin with a dimension of 1, or is not fixed")
    one = model.fixed({name: tuple(filter(_is_size, shape)) for name, shape in shapes.items()})
    inputs = find_inputs(one)
    made = [one.graph.tensor_names[tensor] for makes in one.graph.makes for tensor in makes]
    values = {**inputs, **Runner(whole(one, made)).run(inputs)}
    result = Part(_freed(one, values), part.folder, part.nodes)
    _check(Runner(whole(one)), Runner(result), [find_inputs(one, seed=seed) for seed in range(max(CHECKED))])
    return result


def _is_size(size: int | str | None) -> TypeGuard[int]:
    return isinstance(size, int)


def _freed(model: Model, values: Mapping[str, Any]) -> ModelProto:
    """Follow the batch through a model for one sample; ``values`` are those of its tensors on some input."""
    graph, source = model.graph, model.proto.graph
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.proto.opset_import}
    initializers = {tensor.name: tensor for tensor in source.initializer}
    shapes = {name: tuple(tensor.dims) for name, tensor in initializers.items()}
    shapes |= {name: np.shape(value) for name, value in values.items() if not isinstance(value, (list, dict))}
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    for field in ("node", "value_info"):
        proto.graph.ClearField(field)
    taken = set(graph.tensor_names)

    def constant(name: str) -> NDArray[Any]:
        if name in axes:
            raise Refused(f"{name}, which should be constant, depends on the sample")
        return numpy_helper.to_array(initializers[name]) if name in initializers else np.asarray(values[name])

    def keep(value: NDArray[Any]) -> str:
        name = f"batch/{len(taken)}/const"
        while name in taken:
            name += "'"
        taken.add(name)
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    axes = {graph.tensor_names[tensor]: 0 for tensor in graph.inputs}
    outers: dict[str, int] = {}
    for i in range(len(graph.node_names)):
        node = NodeProto()
        node.CopyFrom(source.node[graph.order[i]])
        if node.op_type in ("Shape", "Size"):  # the same for each sample, as it is for one
            node = constant_node(node, np.asarray(values[node.output[0]]))
        elif i in graph.shapes:
            node = constant_node(node, np.array(graph.shapes[i], np.int64))
        elif any(name in axes for name in used_names(node)):
            try:
                op = Op(node, opsets.get(node.domain or "ai.onnx", 1), shapes, axes, outers, constant, keep)
                axis = _follow(op)
            except Refused as reason:
                where = f"node {graph.node_names[i]} ({node.op_type})"
                raise CutError(f"the batch cannot be freed: {where}: {reason}") from None
            proto.graph.node.extend(op.before)
            made = [name for name in node.output if name]
            axes |= dict.fromkeys(made, axis)
            outers |= dict.fromkeys(made, op.outer)
        elif not graph.free[i] and not any(graph.varying[tensor] for tensor in graph.uses[i]):
            raise CutError(f"the batch cannot be freed: node {graph.node_names[i]} ({node.op_type}) draws by chance")
        proto.graph.node.append(node)
    for name in filter(axes.__contains__, (value.name for value in proto.graph.output)):
        if outers.get(name, 1) != 1:
            raise CutError(f"the batch cannot be freed: it is not in the first dimension of output {name}")
    _declare(proto, axes, shapes)
    return proto


def _follow(op: Op) -> int:
    """Where the batch is in a node's outputs; Refused when it cannot be followed there."""
    rule = RULES.get(op.node.op_type)
    if rule is None or op.node.domain not in _DOMAINS:
        raise Refused("nothing is known of this operator")
    return rule(op)


_DOMAINS = ("", "ai.onnx", "com.microsoft")


def _declare(proto: ModelProto, axes: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """State in the inputs and outputs that their first dimension is free."""
    for value in proto.graph.output:
        name = value.name
        shape, axis = shapes[name], axes.get(name)
        if axis is None or shape[:1] != (1,) or math.prod(shape[:axis]) != 1:
            raise CutError(f"the batch cannot be freed: it is not in the first dimension of output {name}")
        if axis:  # it is a matter of how the same values are read
            _rename(proto.graph.node, name, f"{name}/batch")
            target = numpy_helper.from_array(np.array([-1, *shape[1:]]), f"{name}/batch/shape")
            proto.graph.initializer.append(target)
            proto.graph.node.append(helper.make_node("Reshape", [f"{name}/batch", target.name], [name]))
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name in axes:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH


def _rename(nodes: Iterable[NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new


def _check(one: Runner, many: Runner, samples: Sequence[Mapping[str, Any]]) -> None:
    """Compare runs on several samples with single runs."""
    single = [one.run(sample) for sample in samples]
    for count in CHECKED:
        given = {name: np.concatenate([sample[name] for sample in samples[:count]]) for name in samples[0]}
        for name, value in many.run(given).items():
            expected = np.concatenate([result[name] for result in single[:count]])
            scale = max(1.0, float(np.max(np.abs(expected.astype(np.float64)), initial=0.0)))
            if (apart := difference(expected, value)) > TOLERANCE * scale:
                raise CutError(
                    f"the batch cannot be freed: {name} for {count} samples differs from single runs by {apart:g}"
                )
