"""A model and its cuts as the TR's metadata (`models.information`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.codecs import profile_ids
from models.graph.candidates import Candidate
from models.identity import file_digest
from models.information import IntermediateData, ModelInformation, SplitPoint
from models.tensor import TensorSpec
from splitrtc_errors import CutError

if TYPE_CHECKING:
    from models.graph.costs import Costs
    from models.graph.model import Model

__all__ = ["framework_of", "model_information"]


def framework_of(model: Model) -> str:
    """The format with its versions, as in ``ONNX IR 8, ai.onnx 17``."""
    opsets = (f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in model.proto.opset_import)
    return ", ".join((f"ONNX IR {model.proto.ir_version}", *opsets))


def model_information(costs: Costs, path: Path, cuts: Sequence[Candidate] = ()) -> ModelInformation:
    """Describe a model that was read from this file (clause 6.6.2), with these split points (6.6.3).

    Inputs and outputs that are no tensors of a fixed size are left out. ModelFileError when the file cannot be read.
    """
    model = costs.model
    digest = file_digest(path)
    points = [
        SplitPoint.of(
            digest,
            number,
            cut.name,
            cut.flag,
            IntermediateData(tuple(tensor.spec() for tensor in cut.tensors), profiles=profile_ids()),
        )
        for number, cut in enumerate(cuts)
    ]
    return ModelInformation(
        identifier=digest,
        name=path.stem,
        framework=framework_of(model),
        size=path.stat().st_size,
        inputs=_specs(costs, [value.name for value in model.inputs]),
        outputs=_specs(costs, [value.name for value in model.proto.graph.output]),
        parameters=costs.parameters,
        macs=costs.total_macs,
        memory=costs.peak_memory,
        split_points=tuple(points),
    )


def _specs(costs: Costs, names: Sequence[str]) -> tuple[TensorSpec, ...]:
    found = []
    for name in dict.fromkeys(names):
        try:
            found.append(costs.types[name].spec())
        except (KeyError, CutError):
            continue
    return tuple(found)
