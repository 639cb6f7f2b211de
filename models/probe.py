"""A small model by which a device's speed is measured: inverted bottlenecks one after the other, as in MobileNetV2."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["PROBE_MACS", "probe_model"]

CHANNELS, EXPANDED, EDGE, BLOCKS = 32, 192, 38, 3
PROBE_MACS = BLOCKS * EDGE * EDGE * EXPANDED * (2 * CHANNELS + 9)
"""Three inverted bottlenecks, of which most heads on small devices are made: 61 million MACs."""


def probe_model() -> bytes:
    """Return the model, of which a run on one thread tells how fast a machine is."""
    rng = np.random.default_rng(1)
    nodes, weights, last = [], [], "x"

    def convolution(name: str, source: str, shape: tuple[int, ...], group: int = 1) -> str:
        values = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"{name} weights"))
        pads = [shape[2] // 2] * 4
        nodes.append(helper.make_node("Conv", [source, f"{name} weights"], [name], group=group, pads=pads))
        return name

    def activation(source: str) -> str:
        nodes.append(helper.make_node("Clip", [source, "low", "high"], [f"{source} clipped"]))
        return f"{source} clipped"

    for block in range(BLOCKS):
        wide = activation(convolution(f"expand {block}", last, (EXPANDED, CHANNELS, 1, 1)))
        deep = activation(convolution(f"depthwise {block}", wide, (EXPANDED, 1, 3, 3), EXPANDED))
        last = convolution(f"project {block}", deep, (CHANNELS, EXPANDED, 1, 1))
    weights += [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("low", 0), ("high", 6))]
    shape = (1, CHANNELS, EDGE, EDGE)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", last)]
    graph = helper.make_graph(nodes, "probe", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
