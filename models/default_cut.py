"""Where to cut a model of which the card does not say it: at the smallest single tensor of its first half."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from models.card import PartitionCard
from splitrtc_errors import CutError

if TYPE_CHECKING:
    from models.card import ModelCard

__all__ = ["DEFAULT_CUT", "default_cut", "with_cut"]

DEFAULT_CUT = "smallest"
"""The name of a partition that was found so."""

MAX_SHARE = 0.5
"""Of the model's multiply-accumulate operations that the head may have: the device is the weaker side."""


def with_cut(card: ModelCard) -> ModelCard:
    """Return the card with a partition; where it has none, one is found in the model's file, which has to be here.

    The partition is the same wherever the file is. Raises what `default_cut` raises.
    """
    if card.partitions:
        return card
    cut = PartitionCard(DEFAULT_CUT, (default_cut(card),), calibration=None, default=True)
    return replace(card, partitions=(cut,))


def default_cut(card: ModelCard) -> str:
    """Return the name of the smallest tensor that cuts the model alone, with half of its operations or less before it.

    The first one of those that are equally small. Raises CutError when no tensor cuts it alone, ModelFileError for a
    file that is missing or no good.
    """
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    from models.fixed import fixed_bytes
    from models.graph.datapath import DataPath
    from models.graph.enumeration import single_tensor_cuts
    from models.graph.index import Graph
    from models.graph.macs import macs_of

    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(fixed_bytes(card)), data_prop=True)
    kinds = {value.name: value.type.tensor_type for value in model.graph.value_info}
    shapes = {name: tuple(size.dim_value for size in kind.shape.dim) for name, kind in kinds.items()}
    shapes |= {spec.name: spec.shape for spec in (*card.inputs, *card.outputs)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    graph = Graph.of(model)
    counts = macs_of(model, shapes)
    before = list(accumulate(counts[place] or 0 for place in graph.order))
    ends = {spec.name for spec in (*card.inputs, *card.outputs)}
    found = []
    for tensor in single_tensor_cuts(DataPath.of(graph)):
        name = graph.tensor_names[tensor]
        if name in ends or name not in kinds or not all(shapes[name]):
            continue
        size = tensor_dtype_to_np_dtype(kinds[name].elem_type).itemsize
        for length in shapes[name]:
            size *= length
        found.append((before[graph.producer[tensor]] > MAX_SHARE * before[-1], size, name))
    if not found:
        raise CutError(f"no tensor cuts model {card.name} alone: name the tensors of a partition in its card")
    # Beyond the half, the first is best: it has the least before it.
    return min(found, key=lambda cut: (cut[0], 0 if cut[0] else cut[1]))[2]
