"""A model as its card uses it: what its file leaves open is fixed.

A file may leave the sizes of its inputs open, and want inputs that are the same for every frame. A partition needs
fixed shapes, and a constant should not have to cross the cut. So the sizes that the card states are written into the
graph, and its constants become initialisers, which a cut leaves on the side where they are used. What that makes of
the model's file is the same everywhere; digests and partition ids are those of the file as it was published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.runtime import Submodel, load_submodel
from splitrtc_errors import ModelFileError

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

    from models.card import ModelCard
    from models.tensor import TensorSpec

__all__ = ["fixed_bytes", "load_whole"]


def load_whole(card: ModelCard, provider: str = "auto", threads: int = 1, optimise: bool = True) -> Submodel:
    """Load the whole model of a card, uncut: it takes the image alone. Arguments and errors as for load_submodel."""
    return load_submodel(fixed_bytes(card), provider, threads, optimise)


def fixed_bytes(card: ModelCard) -> bytes:
    """Return the model's file, verified; with fixed sizes and without constant inputs where the card asks for it.

    ModelFileError when the file is missing, is not what the card describes, or has other inputs or outputs.
    """
    import onnx

    data = card.verified_path().read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors differ between its implementations
        raise ModelFileError(f"the file of model {card.name} is no ONNX model: {error}") from error
    initialisers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialisers]
    for kind, values, specs in (("inputs", inputs, card.inputs), ("outputs", model.graph.output, card.outputs)):
        if not [value.name for value in values] == [spec.name for spec in specs]:
            raise ModelFileError(f"the card of model {card.name} describes other {kind} than its file has")
    ends = list(zip([*inputs, *model.graph.output], (*card.inputs, *card.outputs), strict=True))
    is_open = [_fix(value, spec, card.name) for value, spec in ends]
    if not any(is_open) and not card.constants:
        return data
    _fold(model, card)
    model.graph.ClearField("value_info")  # they may speak of the sizes that were open
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        raise ModelFileError(f"the sizes in the card of model {card.name} do not fit its graph: {error}") from error
    fixed: bytes = model.SerializeToString(deterministic=True)
    return fixed


def _fix(value: ValueInfoProto, spec: TensorSpec, name: str) -> bool:
    """Give an input or output of the graph the shape that the card states; returns whether that was open."""
    dimensions = value.type.tensor_type.shape.dim
    sizes = [size.dim_value for size in dimensions]
    if len(sizes) != len(spec.shape) or any(old not in (0, new) for old, new in zip(sizes, spec.shape, strict=True)):
        raise ModelFileError(f"the card of model {name} says {spec}, its file has the shape {sizes} (0: open)")
    for dimension, new in zip(dimensions, spec.shape, strict=True):
        dimension.dim_value = new
    return 0 in sizes


def _fold(model: ModelProto, card: ModelCard) -> None:
    """Turn the constant inputs into initialisers."""
    import onnx

    specs = {spec.name: spec for spec in card.inputs}
    for constant in card.constants:
        spec = specs[constant.name]
        array = np.array(constant.values, spec.dtype).reshape(spec.shape)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, constant.name))
    kept = [value for value in model.graph.input if value.name not in {c.name for c in card.constants}]
    model.graph.ClearField("input")
    model.graph.input.extend(kept)
