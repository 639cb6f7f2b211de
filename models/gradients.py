"""How sensitive a tail is to its inputs: true gradients, by running its ONNX graph in torch.

Needs the extra ``splitrtc[calibrate]``, and only while tables are made. Estimates from forward runs alone do not do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitrtc_errors import CodecError, MissingDependency

if TYPE_CHECKING:
    from models.task import Decoding

__all__ = ["Tail", "require_torch"]

DRAWS = 4
"""Random weightings of the outputs for each sample: backward passes."""

BOXES = 4.0
"""What boxes of scheme "ssd", whose sides are shares of the picture's, count beside scores."""

Operator = Callable[[Mapping[str, Any], Sequence[Any]], Any]


def require_torch() -> Any:
    """Return the module torch; MissingDependency when it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependency(
            "sensitivities need torch, once, while the tables are made: pip install 'splitrtc[calibrate]' "
            "(the CPU build of torch suffices)"
        ) from error
    # Threads that wait for each other cost more than they bring, where others use the machine too.
    torch.set_num_threads(1)
    return torch


class Tail:
    """A tail whose outputs can be differentiated by its inputs."""

    def __init__(self, path: Path, decoding: Decoding) -> None:
        """Take the model's file, and what its outputs are.

        CodecError names the operators that cannot be run in torch, if there are any.
        """
        import onnx

        self._torch = require_torch()
        graph = onnx.load(path).graph
        self._operators = _operators(self._torch)
        missing = sorted({node.op_type for node in graph.node} - self._operators.keys())
        if missing:
            raise CodecError(f"{path.name} has operators without gradients here: {', '.join(missing)}")
        self._nodes = [
            (
                node.op_type,
                {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
                list(node.input),
                list(node.output),
            )
            for node in graph.node
        ]
        self._constants = {
            tensor.name: self._torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
            for tensor in graph.initializer
        }
        self._inputs = [value.name for value in graph.input if value.name not in self._constants]
        self._decoding = decoding
        self._random = self._torch.Generator().manual_seed(0)

    def run(self, inputs: Sequence[NDArray[Any]]) -> dict[str, Any]:
        """Return all values of the graph by name, as torch tensors, for inputs in the graph's order."""
        values = {
            name: self._torch.from_numpy(np.array(value)) for name, value in zip(self._inputs, inputs, strict=True)
        }
        return self._run(values)

    def gradients(self, inputs: Sequence[NDArray[Any]]) -> Iterator[list[NDArray[np.float32]]]:
        """Yield `DRAWS` times the gradient of a randomly weighted sum of the outputs by each of the inputs.

        Their second moments are those of the change in the outputs that a small error makes. With schemes "ssd" and
        "yolox" boxes count as far as something is in them; with others all outputs count alike, each in units of its
        own size.
        """
        torch = self._torch
        leaves = [torch.from_numpy(np.array(value)).requires_grad_(True) for value in inputs]
        values = self._run(dict(zip(self._inputs, leaves, strict=True)))
        outputs = [values[name] for role in self._decoding.outputs for name in role]
        if self._decoding.scheme == "ssd":
            scores, boxes = outputs
            outputs = [scores, BOXES * scores.detach().amax(-1)[..., None, None] * boxes]
        elif self._decoding.scheme == "yolox":
            centres, sizes, shares = outputs[0].split((2, 2, outputs[0].shape[-1] - 4), -1)
            scores = shares[..., :1] * shares[..., 1:]
            # By how much of its own size a box moves and grows.
            boxes = torch.cat((centres * torch.exp(-sizes.detach()), sizes), -1)
            outputs = [scores, scores.detach().amax(-1, keepdim=True) * boxes]
        else:
            outputs = [output / output.detach().square().mean().sqrt().clamp(min=1e-9) for output in outputs]
        for draw in range(DRAWS):
            total = sum((self._draw(output) * output).sum() for output in outputs)
            slopes = torch.autograd.grad(total, leaves, retain_graph=draw < DRAWS - 1)
            yield [slope.numpy() for slope in slopes]

    def _draw(self, like: Any) -> Any:
        return self._torch.randn(like.shape, generator=self._random)

    def _run(self, values: dict[str, Any]) -> dict[str, Any]:
        values = {**self._constants, **values}
        for kind, attributes, inputs, outputs in self._nodes:
            result = self._operators[kind](attributes, [values[name] if name else None for name in inputs])
            results = result if isinstance(result, (tuple, list)) else [result]
            values.update(zip(outputs, results, strict=False))
        return values


def _operators(torch: Any) -> dict[str, Operator]:
    """The ONNX operators (opset 13 and later) that are known here, by name."""
    functional = torch.nn.functional

    def conv(a: Mapping[str, Any], x: Sequence[Any]) -> Any:
        strides, dilations = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
        pads = list(a.get("pads", [0, 0, 0, 0]))
        same = a.get("auto_pad", b"NOTSET")
        if same in (b"SAME_UPPER", b"SAME_LOWER"):
            for axis in range(2):
                reach = (x[1].shape[2 + axis] - 1) * dilations[axis] + 1
                size = x[0].shape[2 + axis]
                total = max((-(-size // strides[axis]) - 1) * strides[axis] + reach - size, 0)
                first = total // 2 if same == b"SAME_UPPER" else total - total // 2
                pads[axis], pads[2 + axis] = first, total - first
        padded = functional.pad(x[0], (pads[1], pads[3], pads[0], pads[2])) if any(pads) else x[0]
        bias = x[2] if len(x) > 2 else None
        return functional.conv2d(padded, x[1], bias, strides, 0, dilations, a.get("group", 1))

    def max_pool(a: Mapping[str, Any], x: Sequence[Any]) -> Any:
        pads = a.get("pads", [0, 0, 0, 0])
        padded = functional.pad(x[0], (pads[1], pads[3], pads[0], pads[2]), value=-torch.inf)
        kernel, rounded = a["kernel_shape"], bool(a.get("ceil_mode", 0))
        return functional.max_pool2d(
            padded, kernel, a.get("strides", [1, 1]), 0, a.get("dilations", [1, 1]), ceil_mode=rounded
        )

    def resize(a: Mapping[str, Any], x: Sequence[Any]) -> Any:
        how = a.get("mode", b"nearest"), a.get("coordinate_transformation_mode"), a.get("nearest_mode")
        if how != (b"nearest", b"asymmetric", b"floor") or len(x) < 3 or not x[2].numel():
            raise CodecError("Resize has gradients here with nearest, asymmetric, floor and given scales alone")
        result = x[0]
        for axis, scale in enumerate(x[2].tolist()):
            size = result.shape[axis]
            result = result.index_select(axis, (torch.arange(int(size * scale)) / scale).long())
        return result

    def reshape(_: Mapping[str, Any], x: Sequence[Any]) -> Any:
        return x[0].reshape([x[0].shape[i] if size == 0 else size for i, size in enumerate(x[1].tolist())])

    def squeeze(_: Mapping[str, Any], x: Sequence[Any]) -> Any:
        gone = {axis % x[0].dim() for axis in x[1].tolist()}
        return x[0].reshape([size for axis, size in enumerate(x[0].shape) if axis not in gone])

    def unsqueeze(_: Mapping[str, Any], x: Sequence[Any]) -> Any:
        result = x[0]
        for axis in sorted(axis % (x[0].dim() + x[1].numel()) for axis in x[1].tolist()):
            result = result.unsqueeze(axis)
        return result

    def slice_(_: Mapping[str, Any], x: Sequence[Any]) -> Any:
        starts, stops = x[1].tolist(), x[2].tolist()
        axes = x[3].tolist() if len(x) > 3 and x[3] is not None else range(len(starts))
        steps = x[4].tolist() if len(x) > 4 else [1] * len(starts)
        where = [slice(None)] * x[0].dim()
        for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
            where[axis] = slice(start, min(stop, 2**31), step)
        return x[0][tuple(where)]

    def split(a: Mapping[str, Any], x: Sequence[Any]) -> Any:
        axis = a.get("axis", 0)
        return torch.split(x[0], x[1].tolist() if len(x) > 1 else 1, axis)

    return {
        "Add": lambda _, x: x[0] + x[1],
        "Clip": lambda _, x: torch.clamp(x[0], *[*x[1:], None, None][:2]),
        "Concat": lambda a, x: torch.cat(list(x), a["axis"]),
        "Conv": conv,
        "Div": lambda _, x: x[0] / x[1],
        "Exp": lambda _, x: torch.exp(x[0]),
        "Identity": lambda _, x: x[0],
        "MaxPool": max_pool,
        "Mul": lambda _, x: x[0] * x[1],
        "Relu": lambda _, x: torch.relu(x[0]),
        "Reshape": reshape,
        "Resize": resize,
        "Sigmoid": lambda _, x: torch.sigmoid(x[0]),
        "Slice": slice_,
        "Softmax": lambda a, x: torch.softmax(x[0], a.get("axis", -1)),
        "Split": split,
        "Squeeze": squeeze,
        "Sub": lambda _, x: x[0] - x[1],
        "Sum": lambda _, x: sum(x[1:], x[0]),
        "Tanh": lambda _, x: torch.tanh(x[0]),
        "Transpose": lambda a, x: x[0].permute(list(a["perm"])),
        "Unsqueeze": unsqueeze,
    }
