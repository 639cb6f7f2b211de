"""Big architectures with random weights, made here: what the split engine is tested and measured on.

They have the structure and the number of nodes of what people train, and narrow layers, so that they run fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

__all__ = [
    "ARCHITECTURES",
    "chain",
    "densenet",
    "external",
    "feature_pyramid",
    "inception",
    "lstm",
    "nested_bodies",
    "quantised",
    "resnet",
    "transformer",
    "unet",
]

OPSET = 17


class Net:
    """A graph under construction; every method adds a node and returns the name of what it makes."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name = name
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.random = np.random.default_rng(seed)

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node; of several outputs, ``NAME`` and ``NAME.1`` and so on, the first name is returned."""
        name = f"{op}_{len(self.nodes)}"
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), names, name, **attributes))
        return name

    def weights(self, *shape: int, scale: float | None = None) -> str:
        """Random weights, so scaled that values neither grow nor vanish from layer to layer."""
        fan_in = int(np.prod(shape[1:])) or 1
        values = self.random.standard_normal(shape) * (scale or (2 / fan_in) ** 0.5)
        return self.constant(values.astype(np.float32))

    def constant(self, value: Any) -> str:
        """An initialiser."""
        name = f"w{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ones(self, *shape: int) -> str:
        """Ones: smaller factors would, layer by layer, end in numbers that are slow to compute with."""
        return self.constant(np.ones(shape, np.float32))

    def conv(self, x: str, inside: int, outside: int, size: int = 3, stride: int = 1, norm: bool = True) -> str:
        """A convolution of same size (but for the stride) with its batch normalisation."""
        pads = [size // 2] * 4
        x = self.add("Conv", x, self.weights(outside, inside, size, size), pads=pads, strides=[stride] * 2)
        return self.norm(x, outside) if norm else x

    def norm(self, x: str, channels: int) -> str:
        """Batch normalisation, as in inference."""
        bias, mean = (self.weights(channels, scale=0.1) for _ in range(2))
        return self.add("BatchNormalization", x, self.ones(channels), bias, mean, self.ones(channels))

    def written_norm(self, x: str, channels: int) -> str:
        """Batch normalisation, as some exporters write it: four nodes."""
        mean, bias = (self.weights(channels, 1, 1, scale=0.1) for _ in range(2))
        x = self.add("Div", self.add("Sub", x, mean), self.ones(channels, 1, 1))
        return self.add("Add", self.add("Mul", x, self.ones(channels, 1, 1)), bias)

    def linear(self, x: str, inside: int, outside: int) -> str:
        """A matrix product and a bias, over the last dimension."""
        return self.add("Add", self.add("MatMul", x, self.weights(inside, outside)), self.weights(outside, scale=0.1))

    def model(self, shape: Sequence[int | str], *outputs: str, dtype: int = TensorProto.FLOAT) -> ModelProto:
        """The model with one input ``x``."""
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("x", dtype, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.initializers,
        )
        return finished(graph)


def finished(graph: GraphProto) -> ModelProto:
    """A model of a graph, whose outputs' shapes are filled in."""
    opsets = [helper.make_opsetid("", OPSET)]
    model: ModelProto = helper.make_model(graph, ir_version=8, producer_name="splitrtc", opset_imports=opsets)
    inferred = shape_inference.infer_shapes(model)
    for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(known)
    return model


def chain(length: int = 20_000, skip: int = 7) -> ModelProto:
    """A long chain of additions, with connections past ``skip`` nodes: some 20 000 nodes."""
    net = Net("chain")
    made = ["x"]
    one = net.ones(1)
    for i in range(length):
        made.append(net.add("Add", made[-1], made[-skip] if i % skip == 0 and i >= skip else one))
    return net.model([1, 4], made[-1])


def densenet(blocks: Sequence[int] = (6, 12, 24, 16), growth: int = 4, size: int = 32) -> ModelProto:
    """DenseNet-121's shape: every layer reads all before it in its block. Some 900 nodes with the layers unfused."""
    net = Net("densenet")
    channels = 2 * growth
    x = net.add("Relu", net.conv("x", 3, channels, 7, 2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for number, layers in enumerate(blocks):
        made = [x]
        for _ in range(layers):
            y = net.add("Concat", *made, axis=1) if len(made) > 1 else made[0]
            y = net.add("Relu", net.written_norm(y, channels))
            y = net.conv(y, channels, 4 * growth, 1, norm=False)
            y = net.add("Relu", net.written_norm(y, 4 * growth))
            shift = net.add("Add", net.conv(y, 4 * growth, growth, norm=False), net.weights(growth, 1, 1, scale=0.1))
            made.append(net.add("Identity", net.add("Mul", shift, net.ones(growth, 1, 1))))
            channels += growth
        x = net.add("Relu", net.norm(net.add("Concat", *made, axis=1), channels))
        if number < len(blocks) - 1:
            x = net.conv(x, channels, channels // 2, 1, norm=False)
            channels //= 2
            x = net.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    return net.model([1, 3, size, size], net.linear(x, channels, 10))


def resnet(blocks: Sequence[int] = (3, 4, 6, 3), width: int = 4, size: int = 32) -> ModelProto:
    """ResNet-50's shape: bottleneck blocks with residual connections."""
    net = Net("resnet")
    x = net.add("Relu", net.conv("x", 3, width, 7, 2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inside = width
    for number, count in enumerate(blocks):
        narrow = width << number
        for block in range(count):
            stride = 2 if number and not block else 1
            y = net.add("Relu", net.conv(x, inside, narrow, 1))
            y = net.add("Relu", net.conv(y, narrow, narrow, 3, stride))
            y = net.conv(y, narrow, 4 * narrow, 1)
            past = x if block else net.conv(x, inside, 4 * narrow, 1, stride)
            x = net.add("Relu", net.add("Add", y, past))
            inside = 4 * narrow
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    return net.model([1, 3, size, size], net.add("Softmax", net.linear(x, inside, 10), axis=-1))


def inception(branches: int = 128, depth: int = 3, size: int = 8) -> ModelProto:
    """Many parallel branches that begin at one tensor and end in one."""
    net = Net("inception")
    stem = net.add("Relu", net.conv("x", 3, 4))
    ends = []
    for _ in range(branches):
        y = stem
        for _ in range(depth):
            y = net.add("Relu", net.conv(y, 4 if y == stem else 2, 2, 1, norm=False))
        ends.append(y)
    x = net.add("Concat", *ends, axis=1)
    return net.model([1, 3, size, size], net.conv(x, 2 * branches, 8, 1))


def unet(depth: int = 4, width: int = 4, size: int = 32) -> ModelProto:
    """An encoder and a decoder, with a connection across at every size."""
    net = Net("unet")
    x, inside = "x", 3
    skips = []
    for level in range(depth):
        channels = width << level
        x = net.add("Relu", net.conv(net.add("Relu", net.conv(x, inside, channels)), channels, channels))
        skips.append((x, channels))
        x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        inside = channels
    for skip, channels in reversed(skips):
        x = net.add("ConvTranspose", x, net.weights(inside, channels, 2, 2), strides=[2, 2])
        x = net.add("Concat", x, skip, axis=1)
        x = net.add("Relu", net.conv(x, 2 * channels, channels))
        inside = channels
    return net.model([1, 3, size, size], net.add("Sigmoid", net.conv(x, inside, 1, 1, norm=False)))


def transformer(layers: int = 6, width: int = 32, heads: int = 4, tokens: int | str = 16) -> ModelProto:
    """A transformer encoder over token numbers, as exporters write one: shapes are read from tensors.

    ``tokens`` may be a symbol: a free dimension.
    """
    net = Net("transformer")
    x = net.add("Gather", net.weights(64, width, scale=1.0), "x")
    for _ in range(layers):
        scale, bias = net.ones(width), net.weights(width, scale=0.1)
        y = net.add("LayerNormalization", x, scale, bias, axis=-1)
        whole = net.add("Shape", y)
        length = net.add("Gather", whole, net.constant(np.int64(1)), axis=0)
        length = net.add("Unsqueeze", length, net.constant(np.array([0])))
        split = net.add(
            "Concat", net.constant(np.array([1])), length, net.constant(np.array([heads, width // heads])), axis=0
        )
        q, k, v = (net.add("Reshape", net.linear(y, width, width), split) for _ in range(3))
        q, v = (net.add("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        scores = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 2, 3, 1]))
        scores = net.add("Softmax", net.add("Div", scores, net.constant(np.float32(2.0))), axis=-1)
        y = net.add("Transpose", net.add("MatMul", scores, v), perm=[0, 2, 1, 3])
        x = net.add("Add", x, net.linear(net.add("Reshape", y, whole), width, width))
        scale, bias = net.ones(width), net.weights(width, scale=0.1)
        y = net.linear(net.add("LayerNormalization", x, scale, bias, axis=-1), width, 2 * width)
        y = net.add("Mul", y, net.add("Sigmoid", y))
        x = net.add("Add", x, net.linear(y, 2 * width, width))
    return net.model([1, tokens], x, dtype=TensorProto.INT64)


def feature_pyramid(levels: int = 4, width: int = 8, size: int = 64) -> ModelProto:
    """A detector: a backbone, a feature pyramid, and two heads at each level; several outputs."""
    net = Net("feature_pyramid")
    x, inside = "x", 3
    features = []
    for level in range(levels):
        x = net.add("Relu", net.conv(x, inside, width << level, 3, 2))
        inside = width << level
        features.append(net.conv(x, inside, width, 1, norm=False))
    above = features[-1]
    merged = [above]
    for feature in reversed(features[:-1]):
        wide = net.add("Resize", above, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
        above = net.add("Add", feature, wide)
        merged.append(above)
    scores: list[str] = []
    boxes: list[str] = []
    for feature in merged:
        y = net.add("Relu", net.conv(feature, width, width))
        for found, channels in ((scores, 5), (boxes, 4)):
            z = net.add("Transpose", net.conv(y, width, channels, 1, norm=False), perm=[0, 2, 3, 1])
            found.append(net.add("Reshape", z, net.constant(np.array([1, -1, channels]))))
    score = net.add("Sigmoid", net.add("Concat", *scores, axis=1))
    return net.model([1, 3, size, size], score, net.add("Concat", *boxes, axis=1))


def lstm(layers: int = 2, width: int = 8, steps: int = 6) -> ModelProto:
    """LSTM layers whose last states are outputs too; optional inputs are left empty."""
    net = Net("lstm")
    x, states = "x", []
    start = net.constant(np.zeros((1, 1, width), np.float32))
    for _ in range(layers):
        w, r = (net.weights(1, 4 * width, width, scale=0.3) for _ in range(2))
        y = net.add("LSTM", x, w, r, net.weights(1, 8 * width, scale=0.1), "", start, outputs=3, hidden_size=width)
        x = net.add("Squeeze", y, net.constant(np.array([1])))
        states.append(f"{y}.2")
    return net.model([steps, 1, width], net.linear(x, width, 4), *states)


def nested_bodies(rounds: int = 3) -> ModelProto:
    """A Loop inside an If inside a chain, whose bodies read tensors of the graph around them."""
    net = Net("nested_bodies")
    early = net.add("Relu", net.linear("x", 4, 4))
    late = net.add("Tanh", net.linear(early, 4, 4))
    positive = net.add("Greater", net.add("ReduceSum", late, keepdims=0), net.constant(np.float32(0)))
    value = helper.make_tensor_value_info
    flag = [value("go", TensorProto.BOOL, [])]
    step = helper.make_graph(
        [
            helper.make_node("Mul", ["state", late], ["scaled"]),
            helper.make_node("Add", ["scaled", early], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "step",
        [value("i", TensorProto.INT64, []), *flag, value("state", TensorProto.FLOAT, [2, 4])],
        [value("go_on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [2, 4])],
    )
    times = numpy_helper.from_array(np.array(rounds), "times")
    then = helper.make_graph(
        [helper.make_node("Loop", ["times", "", early], ["looped"], body=step)],
        "then",
        [],
        [value("looped", TensorProto.FLOAT, [2, 4])],
        [times],
    )
    other = helper.make_graph(
        [helper.make_node("Sub", [late, early], ["apart"])], "other", [], [value("apart", TensorProto.FLOAT, [2, 4])]
    )
    chosen = net.add("If", positive, then_branch=then, else_branch=other)
    return net.model([2, 4], net.add("Add", net.linear(chosen, 4, 4), late))


def quantised(layers: int = 6, width: int = 8, size: int = 16) -> ModelProto:
    """Convolutions between pairs of QuantizeLinear and DequantizeLinear, with int8 weights."""
    net = Net("quantised")
    zero = net.constant(np.uint8(128))

    def pair(x: str, scale: float) -> str:
        step = net.constant(np.float32(scale))
        return net.add("DequantizeLinear", net.add("QuantizeLinear", x, step, zero), step, zero)

    x, inside = pair("x", 0.02), 3
    for _ in range(layers):
        values = net.random.integers(-127, 128, (width, inside, 3, 3)).astype(np.int8)
        scales = net.constant(np.full(width, 0.002, np.float32))
        weights = net.add(
            "DequantizeLinear", net.constant(values), scales, net.constant(np.zeros(width, np.int8)), axis=0
        )
        x = pair(net.add("Relu", net.add("Conv", x, weights, pads=[1] * 4)), 0.05)
        inside = width
    return net.model([1, 3, size, size], net.add("GlobalAveragePool", x))


def external(path: Path, gigabytes: float = 3.0, layers: int = 6) -> None:
    """Write a model to ``path`` whose weights lie beside it in a sparse file: it takes no room, and all are zero."""
    columns = 1024
    rows = int(gigabytes * 2**30 / layers / 4 / columns)
    net = Net("external")
    x, offset = "x", 0
    location = f"{path.name}.data"
    for i in range(layers):
        tensor = TensorProto(name=f"big{i}", data_type=TensorProto.FLOAT, dims=[columns, rows])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", rows * columns * 4)):
            tensor.external_data.add(key=key, value=str(value))
        offset += rows * columns * 4
        net.initializers.append(tensor)
        sums = net.add("ReduceSum", net.add("MatMul", x, f"big{i}"), keepdims=1)
        x = net.add("Relu", net.add("Add", x, sums))
    with path.with_name(location).open("wb") as file:
        file.truncate(offset)
    path.write_bytes(net.model([1, columns], x).SerializeToString())


ARCHITECTURES: dict[str, Callable[[], ModelProto]] = {
    "densenet": densenet,
    "resnet": resnet,
    "inception": inception,
    "unet": unet,
    "transformer": transformer,
    "feature_pyramid": feature_pyramid,
    "lstm": lstm,
    "nested_bodies": nested_bodies,
    "quantised": quantised,
}
"""Those that are quick to make and to run."""
