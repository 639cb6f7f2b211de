"""What a head or a model that somebody else made must be before a device runs it.

Its digest says that it is the file that the edge meant; here is looked at whether that is what the card speaks of, with
no more than operators that the runtime itself has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.graph.file import read_model
from models.graph.types import tensor_type
from models.tensor import TensorSpec
from splitrtc_errors import CutError, ModelFileError

if TYPE_CHECKING:
    from onnx import ModelProto

    from models.card import ModelCard

__all__ = ["check_whole", "checked_head"]

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Of the operators that ONNX Runtime brings itself; those of any other would need a library."""


def checked_head(data: bytes, card: ModelCard, tensors: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Return the tensors that cross, in their order, after a look at a head's file.

    ModelFileError when it is no ONNX model, keeps weights in other files, uses operators that the runtime does not
    have, takes something else than the card's image, or computes other tensors than those.
    """
    where = f"the head of model {card.name} that the edge delivers"
    try:
        model = _own(data)
        taken = [tensor_type(value).spec() for value in model.graph.input]
        crossing = tuple(tensor_type(value).spec() for value in model.graph.output)
    except (ModelFileError, CutError) as error:
        raise ModelFileError(f"{where} cannot be used: {error}") from error
    if taken != [card.image]:
        found = ", ".join(map(str, taken)) or "nothing"
        raise ModelFileError(f"{where} takes {found[:500]}; expected the card's image, {card.image}")
    names = [spec.name for spec in crossing]
    expected = sorted(tensors, key=str.encode)
    if names != expected:
        raise ModelFileError(f"{where} computes {', '.join(names)[:500]}; expected what crosses: {', '.join(expected)}")
    return crossing


def check_whole(data: bytes, card: ModelCard) -> None:
    """Look at the file of a whole model; what it takes and gives is looked at by who loads it (`models.fixed`).

    ModelFileError when it is no ONNX model, keeps weights in other files, or uses operators that the runtime does not
    have.
    """
    try:
        _own(data)
    except ModelFileError as error:
        raise ModelFileError(f"the model {card.name} that the edge delivers cannot be used: {error}") from error


def _own(data: bytes) -> ModelProto:
    """A model that needs nothing but the runtime."""
    model = read_model(data)
    own = {function.domain for function in model.functions}
    foreign = sorted({opset.domain for opset in model.opset_import} - own - set(DOMAINS))
    if foreign:
        raise ModelFileError(f"it uses operators that no runtime has of itself: those of {foreign[0][:100]!r}")
    return model
