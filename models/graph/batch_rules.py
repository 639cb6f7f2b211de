"""For each operator: where the batch is in its outputs, given where it is in its inputs; or why there is none.

A tensor *has the batch at an axis* when, for N samples, it is N times as long there as for one. In that dimension come
first ``outer`` pieces, in each piece all samples, in each sample the rest. So the samples lie one after the other when
``outer`` is 1, and it is the batch's own dimension when one sample alone is 1 long there.

A rule holds when each sample's share of the outputs is what that sample alone would give; what is not batched is the
same for all samples. Rules may change the node, where it states a size of 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from onnx import helper

from models.graph.batch_op import Op, Refused

__all__ = ["RULES"]

_ALL = 2**63 - 1  # as an end in Slice: up to the end, however long

Rule = Callable[[Op], int]


def _elementwise(op: Op) -> int:
    return op.only(0)


def _broadcast(op: Op) -> int:
    """Numpy's broadcasting: dimensions are counted from the last."""
    out = op.shapes[op.node.output[0]]
    aligned = {op.axes[name] + len(out) - len(op.shapes[name]) for name in op.node.input if name in op.axes}
    if len(aligned) != 1:
        raise Refused("its inputs have the batch in different dimensions")
    axis = aligned.pop()
    batched = next(name for name in op.node.input if name in op.axes)
    for place, name in enumerate(op.node.input):
        own = axis - len(out) + len(op.shapes[name]) if name else -1
        size = op.shapes[name][own] if own >= 0 else 1
        if name in op.axes and size != out[axis]:
            raise Refused(f"{name} is {size} long in the batch's dimension, and not {out[axis]}")
        if name not in op.axes and size != 1:
            op.repeat(place, own, like=batched)
    return axis


def _first(*places: int) -> Rule:
    """Operators whose first dimension is the batch, as the standard says."""

    def rule(op: Op) -> int:
        if op.only(*places) != 0:
            raise Refused("the batch is not its first dimension")
        return 0

    return rule


def _not_along(default: int, name: str = "axis") -> Rule:
    """Operators that work along one dimension, which must not be the batch's."""

    def rule(op: Op) -> int:
        axis = op.only(0)
        if axis == op.attribute(name, default) % op.rank():
            raise Refused("it works along the batch's dimension")
        return axis

    return rule


def _softmax(op: Op) -> int:
    if op.opset >= 13:
        return _not_along(-1)(op)
    return _inner(1)(op)


def _inner(default: int) -> Rule:
    """Operators that work on all dimensions from ``axis`` on."""

    def rule(op: Op) -> int:
        axis = op.only(0)
        if axis >= op.attribute("axis", default) % op.rank():
            raise Refused("it works along the batch's dimension")
        return axis

    return rule


def _arg(op: Op) -> int:
    axis = _not_along(0)(op)
    along = op.attribute("axis", 0) % op.rank()
    return axis if op.attribute("keepdims", 1) else axis - (along < axis)


def _reduce(op: Op) -> int:
    axis = op.only(0)
    axes = op.integers(1, "axes")
    if not axes:
        if axes is not None and op.attribute("noop_with_empty_axes", 0):
            return axis
        raise Refused("it works along all dimensions")
    places = {along % op.rank() for along in axes}
    if axis in places:
        raise Refused("it works along the batch's dimension")
    return axis if op.attribute("keepdims", 1) else axis - sum(along < axis for along in places)


def _matmul(op: Op) -> int:
    left, right = op.input(0), op.input(3 if op.node.op_type == "QLinearMatMul" else 1)
    out = len(op.shapes[op.node.output[0]])
    if len(op.shapes[right]) == 1 and right not in op.axes and op.axes[left] < op.rank() - 1:
        return op.axes[left]
    aligned = set()
    if op.rank() == 1 or len(op.shapes[right]) == 1:
        raise Refused("it multiplies with a vector")
    for name, summed in ((left, -1), (right, -2)):
        rank = len(op.shapes[name])
        if name in op.axes:
            if op.axes[name] == rank + summed:
                raise Refused("it sums along the batch's dimension")
            aligned.add(op.axes[name] + out - rank)
    if len(aligned) != 1:
        raise Refused("its inputs have the batch in different dimensions")
    axis = aligned.pop()
    both = left in op.axes and right in op.axes
    if both and axis >= out - 2:
        raise Refused("its inputs have the batch in different dimensions")
    if axis < out - 2:  # one of those that are broadcast
        size = op.shapes[op.node.output[0]][axis]
        for name in (left, right):
            own = axis - out + len(op.shapes[name])
            if (op.shapes[name][own] if own >= 0 else 1) != (size if name in op.axes else 1):
                raise Refused(f"{name} does not fit in the batch's dimension")
    return axis


def _gemm(op: Op) -> int:
    if op.only(0) != 0 or op.attribute("transA", 0):
        raise Refused("it sums along the batch's dimension")
    if op.input(2) and len(shape := op.shapes[op.input(2)]) == 2 and shape[0] != 1:
        raise Refused("what it adds is longer than 1 in the batch's dimension")
    return 0


def _transpose(op: Op) -> int:
    order = list(op.attribute("perm", range(op.rank())[::-1]))
    return int(order.index(op.only(0)))


def _concat(op: Op) -> int:
    batched = [place for place, name in enumerate(op.node.input) if name in op.axes]
    axis = op.only(*batched)
    if op.attribute("axis", 0) % op.rank() == axis:
        raise Refused("it joins tensors in the batch's dimension")
    for place, name in enumerate(op.node.input):
        if name not in op.axes:
            op.repeat(place, axis, like=op.node.input[batched[0]])
    return axis


def _slice(op: Op) -> int:
    axis = op.only(0)
    starts, ends = op.integers(1, "starts") or [], op.integers(2, "ends") or []
    axes = op.integers(3, "axes") or list(range(len(starts)))
    steps = op.integers(4, "steps") or [1] * len(starts)
    size = op.shapes[op.input(0)][axis]
    for place, along in enumerate(axes):
        if along % op.rank() == axis:
            if starts[place] not in (0, -size) or ends[place] < size or steps[place] != 1:
                raise Refused("it takes a piece of the batch's dimension")
            ends[place] = _ALL
            if op.opset < 10:
                raise Refused("it takes a piece of the batch's dimension")
            op.node.input[2] = op.keep(np.array(ends, op.constant(op.input(2)).dtype.newbyteorder("=")))
    return axis


def _gather(op: Op) -> int:
    along = int(op.attribute("axis", 0)) % op.rank()
    data, indices = op.input(0), op.input(1)
    if data in op.axes and indices in op.axes:
        raise Refused("both its data and its indices depend on the sample")
    if indices in op.axes:
        return op.axes[indices] + along
    axis = op.axes[data]
    if axis == along:
        raise Refused("it takes pieces of the batch's dimension")
    return axis if axis < along else axis - 1 + op.rank(1)


def _gather_elements(op: Op) -> int:
    axis = _both(op)
    if op.attribute("axis", 0) % op.rank() == axis:
        raise Refused("it takes pieces of the batch's dimension")
    return axis


def _grid_sample(op: Op) -> int:
    if _both(op) != 0:
        raise Refused("the batch is not its first dimension")
    return 0


def _both(op: Op) -> int:
    """Two inputs that have to have the batch in the same dimension; one that is the same for all is repeated."""
    axis = op.only(0, 1)
    for place in (0, 1):
        if op.input(place) not in op.axes:
            op.repeat(place, axis, like=op.input(1 - place))
    return axis


def _expand(op: Op) -> int:
    axis = op.only(0)
    out = op.shapes[op.node.output[0]]
    aligned = axis + len(out) - op.rank()
    if out[aligned] != 1 or op.shapes[op.input(0)][axis] != 1:
        raise Refused("it repeats the batch's dimension")
    op.node.input[1] = op.keep(np.array(out, np.int64))
    return aligned


def _tile(op: Op) -> int:
    axis = op.only(0)
    if (op.integers(1, "") or [])[axis] != 1:
        raise Refused("it repeats the batch's dimension")
    return axis


def _pad(op: Op) -> int:
    axis = op.only(0)
    pads = op.integers(1, "pads") or []
    if op.input(3) or pads[axis] or pads[axis + op.rank()]:
        raise Refused("it may lengthen the batch's dimension")
    return axis


def _resize(op: Op) -> int:
    if _first(0)(op) == 0 and op.input(3):
        sizes = op.integers(3, "sizes") or []
        if op.attribute("axes") is not None or len(sizes) != op.rank() or sizes[0] != op.shapes[op.input(0)][0]:
            raise Refused("it states the size of the batch's dimension")
        op.node.input[3] = op.sizes(op.input(0), 0, sizes)
    elif op.opset >= 10 or op.input(1):
        place = 2 if op.opset >= 11 and op.node.op_type == "Resize" else 1
        if float(np.asarray(op.constant(op.input(place))).reshape(-1)[0]) != 1.0:
            raise Refused("it scales the batch's dimension")
    elif (op.attribute("scales") or [0])[0] != 1.0:
        raise Refused("it scales the batch's dimension")
    return 0


def _reshape(op: Op) -> int:
    """Whatever gives a tensor another shape: in memory, nothing moves."""
    axis = op.only(0)
    shape, out = op.shapes[op.input(0)], op.shapes[op.node.output[0]]
    if 0 in out:
        raise Refused("it is empty")
    pieces = math.prod(shape[:axis]) * op.outer  # the samples come one after the other in each of so many
    possible = {}
    for place, size in enumerate(out):
        outer, left = divmod(pieces, math.prod(out[:place]))
        if left == 0 and size % outer == 0:
            possible[place] = outer
    if not possible:
        raise Refused("it tears the samples apart")

    def likely(place: int) -> tuple[bool, ...]:  # any place is right; some let the rules go on
        is_row = len(out) == 2 and place == 0  # of a matrix
        behind, ahead = out[place + 1 :] == shape[axis + 1 :], out[:place] == shape[:axis]
        return out[place] == 1, is_row, behind, ahead, place == axis

    chosen = max(possible, key=likely)
    op.outer = possible[chosen]
    target = [-1 if place == chosen else size for place, size in enumerate(out)]
    name, data, made = op.node.name, op.input(0), op.node.output[0]
    op.node.CopyFrom(helper.make_node("Reshape", [data, op.keep(np.array(target, np.int64))], [made], name=name))
    return chosen


def _squeeze(op: Op) -> int:
    axis = op.only(0)
    places = {along % op.rank() for along in op.integers(1, "axes") or [axis]}
    return _reshape(op) if axis in places else axis - sum(along < axis for along in places)


def _unsqueeze(op: Op) -> int:
    out = len(op.shapes[op.node.output[0]])
    places = {along % out for along in op.integers(1, "axes") or []}
    return [place for place in range(out) if place not in places][op.only(0)]


def _quantise(op: Op) -> int:
    axis = op.only(0)
    if math.prod(op.shapes[op.input(1)]) != 1 and op.attribute("axis", 1) % op.rank() == axis:
        raise Refused("its scale differs along the batch's dimension")
    return axis


def _group(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: Mapping[str, Rule] = {
    **_group(
        _elementwise,
        "Relu Clip Sigmoid Exp Log Sqrt Neg Abs Tanh LeakyRelu Elu Selu Celu ThresholdedRelu HardSigmoid HardSwish"
        " Softplus Softsign Erf Floor Ceil Round Sign Cast CastLike Identity Not Sin Cos Tan Atan Reciprocal Gelu Mish"
        " QuickGelu IsNaN IsInf Dropout",
    ),
    **_group(
        _broadcast,
        "Add Sub Mul Div Pow Mod Sum Max Min Mean And Or Xor Equal Less Greater LessOrEqual GreaterOrEqual Where PRelu"
        " QLinearAdd QLinearMul",
    ),
    **_group(
        _first(0),
        "Conv ConvTranspose MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool BatchNormalization"
        " InstanceNormalization GroupNormalization LRN DepthToSpace SpaceToDepth QLinearConv ConvInteger FusedConv"
        " QLinearGlobalAveragePool",
    ),
    **_group(_not_along(0), "Split CumSum"),
    **_group(_not_along(-1), "TopK LpNormalization Hardmax"),
    **_group(_softmax, "Softmax LogSoftmax"),
    **_group(_inner(-1), "LayerNormalization"),
    **_group(_arg, "ArgMax ArgMin"),
    **_group(
        _reduce,
        "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp"
        " ReduceSumSquare",
    ),
    **_group(_reshape, "Reshape Flatten"),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    **_group(_resize, "Resize Upsample"),
    **_group(_quantise, "QuantizeLinear DequantizeLinear"),
    **_group(_matmul, "MatMul QLinearMatMul"),
    "Gemm": _gemm,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GridSample": _grid_sample,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
}
