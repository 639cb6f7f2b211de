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
    from models.graph import Model
    from models.tensor import TensorSpec

__all__ = ["fixed_model", "load_whole"]


def load_whole(card: ModelCard, provider: str = "auto", threads: int = 1, optimise: bool = True) -> Submodel:
    """Load the whole model of a card, uncut: it takes the image alone. Arguments and errors as for load_submodel."""
    return load_submodel(fixed_model(card).to_bytes(), provider, threads, optimise)


def fixed_model(card: ModelCard) -> Model:
    """Return the model in a card's file, verified; with fixed sizes, and without its constant inputs.

    ModelFileError when the file is missing, is not what the card describes, or has other inputs or outputs.
    """
    from onnx import ModelProto

    from models.graph import Model

    model = Model.load(card.verified_path())
    for kind, values, specs in (
        ("inputs", model.inputs, card.inputs),
        ("outputs", model.proto.graph.output, card.outputs),
    ):
        if [value.name for value in values] != [spec.name for spec in specs]:
            raise ModelFileError(f"the card of model {card.name} describes other {kind} than its file has")
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    stated = {spec.name: spec for spec in (*card.inputs, *card.outputs)}
    ends = [value for value in (*proto.graph.input, *proto.graph.output) if value.name in stated]
    is_open = [_fix(value, stated[value.name], card.name) for value in ends]
    if not any(is_open) and not card.constants:
        return model
    _fold(proto, card)
    proto.graph.ClearField("value_info")  # they may speak of the sizes that were open
    return Model(proto, model.folder)


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
    from onnx.numpy_helper import from_array

    specs = {spec.name: spec for spec in card.inputs}
    for constant in card.constants:
        spec = specs[constant.name]
        values = np.array(constant.values, spec.dtype)
        array = np.full(spec.shape, values[0]) if values.size == 1 else values.reshape(spec.shape)
        model.graph.initializer.append(from_array(array, constant.name))
    constants = {constant.name for constant in card.constants}
    kept = [value for value in model.graph.input if value.name not in constants]
    model.graph.ClearField("input")
    model.graph.input.extend(kept)
