"""Which nodes the runtime fuses across a cut when it optimises the whole model: why results then differ in rounding."""

from __future__ import annotations

from onnx import ModelProto

from models.graph.cuts import Cut
from models.graph.index import Graph
from models.graph.model import Model
from models.runtime import optimised_model
from splitrtc_errors import ModelError

__all__ = ["fused_across"]


def fused_across(model: Model, cut: Cut) -> tuple[str, ...]:
    """One line for each crossing tensor that is inside a fused node of the optimised whole model.

    Nothing where the runtime cannot write that model down, as when the weights are in other files.
    """
    try:
        optimised = ModelProto.FromString(optimised_model(model.to_bytes()))
    except ModelError:
        return ()
    maker = {name: node.op_type for node in optimised.graph.node for name in node.output if name}
    graph = model.graph
    lines = []
    for name in cut.crossing:
        tensor = graph.tensor_id(name)
        if graph.producer[tensor] >= 0 and name not in maker:
            path, fused = _survivors(graph, tensor, maker)
            nodes = " and ".join(dict.fromkeys([graph.op_types[graph.producer[tensor]], *path]))
            lines.append(f"{name}: the whole model does {nodes} in one {fused or 'rewritten'} node")
    return tuple(lines)


def _survivors(graph: Graph, tensor: int, maker: dict[str, str]) -> tuple[list[str], str | None]:
    """Operators from a tensor on to the first that the optimised model has too, and the operator that makes that."""
    readers = {tensor}
    path = []
    for node in range(graph.producer[tensor] + 1, len(graph.op_types)):
        if readers.isdisjoint(graph.uses[node]):
            continue
        path.append(graph.op_types[node])
        for made in graph.makes[node]:
            if (fused := maker.get(graph.tensor_names[made])) is not None:
                return path, fused
            readers.add(made)
    return path, None
