"""Multiply-accumulate operations of nodes, from the shapes of what they read and make.

Counted is what the literature counts: convolutions, matrix products and recurrent cells. Everything else (activations,
pooling, sums, normalisation that is not folded into a convolution) counts as nothing, however long it takes: for time,
measure (`models.graph.timing`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

__all__ = ["macs_of"]

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Fixed shapes by a tensor's name, where they are known."""

MAX_DEPTH = 32
"""Of bodies and functions within each other."""


def macs_of(model: ModelProto, shapes: Shapes) -> list[int | None]:
    """Return the MACs of each node of a model's main graph, in the file's order; None where a shape is not known.

    ``model`` has been through shape inference, so that the bodies of its nodes know their tensors' shapes. Of an If,
    the branch with more counts; a body of Loop once for each trip where their number is a constant, else once; one of
    Scan once for each element. ``shapes`` are those of the main graph.
    """
    counter = _Counter(model)
    return [counter.node(node, shapes, 0) for node in model.graph.node]


class _Counter:
    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._functions = {(function.domain, function.name): function for function in model.functions}
        self._trips = {t.name: t for t in model.graph.initializer if not t.dims or list(t.dims) == [1]}

    def node(self, node: NodeProto, shapes: Shapes, depth: int) -> int | None:
        if depth > MAX_DEPTH:
            return None
        function = self._functions.get((node.domain, node.op_type))
        try:
            if function is not None:
                return self._function(node, function, shapes, depth)
            if node.op_type in ("If", "Loop", "Scan"):
                return self._bodies(node, shapes, depth)
            count = _COUNTS.get(node.op_type)
            return 0 if count is None else count(node, shapes)
        except (KeyError, IndexError):  # a shape that is not known, or not what the operator demands
            return None

    def _graph(self, graph: GraphProto, outer: Shapes, depth: int) -> int | None:
        shapes = {**outer, **_stated(graph)}
        return _sum(self.node(node, shapes, depth + 1) for node in graph.node)

    def _bodies(self, node: NodeProto, shapes: Shapes, depth: int) -> int | None:
        counts = [self._graph(a.g, shapes, depth) for a in node.attribute if a.HasField("g")]
        if None in counts:
            return None
        most = max((count for count in counts if count is not None), default=0)
        if node.op_type == "Loop" and most and node.input[0] in self._trips:
            from onnx import numpy_helper

            return most * int(numpy_helper.to_array(self._trips[node.input[0]]).reshape(-1)[0])
        if node.op_type == "Scan" and most:
            scanned = int(_attribute(node, "num_scan_inputs", 1))
            axes = _attribute(node, "scan_input_axes", None) or [0]
            return int(most * shapes[node.input[len(node.input) - scanned]][axes[0]])
        return most

    def _function(self, node: NodeProto, function: FunctionProto, shapes: Shapes, depth: int) -> int | None:
        """The nodes of a local function, whose shapes follow from those that go in."""
        from onnx import TensorProto, helper, inliner, shape_inference

        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])
            for name in dict.fromkeys(node.input)
            if name
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        alone = helper.make_model(
            helper.make_graph([node], "function", inputs, outputs),
            functions=list(self._model.functions),
            opset_imports=[*self._model.opset_import, *_imports(function, self._model)],
            ir_version=self._model.ir_version,
        )
        flat = shape_inference.infer_shapes(inliner.inline_local_functions(alone))
        return self._graph(flat.graph, shapes, depth)


def _imports(function: FunctionProto, model: ModelProto) -> list[Any]:
    known = {opset.domain for opset in model.opset_import}
    return [opset for opset in function.opset_import if opset.domain not in known]


def _stated(graph: GraphProto) -> dict[str, Shape]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim):
            shapes[value.name] = tuple(size.dim_value for size in kind.shape.dim)
    return shapes


def _sum(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _conv(weights: int) -> Callable[[NodeProto, Shapes], int]:
    def count(node: NodeProto, shapes: Shapes) -> int:
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[weights]][1:])

    return count


def _transposed_conv(node: NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _product(node: NodeProto, shapes: Shapes) -> int:
    left = shapes[node.input[0]]
    summed = left[-2] if _attribute(node, "transA", 0) else left[-1]
    return math.prod(shapes[node.output[0]]) * summed


def _recurrent(node: NodeProto, shapes: Shapes) -> int:
    sequence, batch = shapes[node.input[0]][:2]
    return sequence * batch * (math.prod(shapes[node.input[1]]) + math.prod(shapes[node.input[2]]))


def _einsum(node: NodeProto, shapes: Shapes) -> int:
    equation = _attribute(node, "equation", b"").decode().replace(" ", "").partition("->")[0]
    terms = equation.split(",")
    if len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        shape = shapes[name]
        before, dots, after = term.partition("...")
        letters = list(before) + [f".{k}" for k in range(len(shape) - len(before) - len(after) if dots else 0)]
        for letter, size in zip((*letters, *after), shape, strict=False):
            sizes[letter] = max(size, sizes.get(letter, 1))  # 1 is broadcast
    return math.prod(sizes.values())


_COUNTS: dict[str, Callable[[NodeProto, Shapes], int]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "DeformConv", "FusedConv"), _conv(1)),
    "QLinearConv": _conv(3),
    "ConvTranspose": _transposed_conv,
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "Gemm", "QGemm"), _product),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Einsum": _einsum,
}
