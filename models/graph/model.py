"""A model that is open for cutting: its file, its index, its tensors' types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from onnx import ModelProto, TensorProto, TensorShapeProto, ValueInfoProto

from models.graph.file import read_model, to_bytes
from models.graph.index import Graph, name_list
from models.graph.types import TensorType, ask_runtime, infer, is_known, tensor_type
from splitrtc_errors import CutError

__all__ = ["Model"]


class Model:
    """An ONNX model of any size and opset. Its parts, costs and cuts refer to it; nothing of it is changed.

    ``example`` are inputs by name, for the types that only a run shows; some are made when it is None.
    """

    def __init__(self, proto: ModelProto, folder: Path | None = None) -> None:
        """``folder`` is where weights lie that are in other files. ModelFileError when the model is damaged."""
        self.proto = proto
        self.folder = folder
        self.example: Mapping[str, Any] | None = None
        self._values = infer(proto)
        self.graph = Graph.of(
            proto, {name: shape for name, v in self._values.items() if (shape := tensor_type(v).shape) is not None}
        )

    @classmethod
    def load(cls, source: Path | bytes) -> Self:
        """Read a model's file, or its bytes. ModelFileError, one clear line, when it is no good."""
        return cls(read_model(source), source.parent if isinstance(source, Path) else None)

    def fixed(self, shapes: Mapping[str, Sequence[int]]) -> Model:
        """The same model for inputs of these shapes only: their free dimensions are free no more, nor what follows.

        CutError when a shape is not one that the input can have.
        """
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        symbols: dict[str, int] = {}
        for value in proto.graph.input:
            if (shape := shapes.get(value.name)) is None:
                continue
            stated = value.type.tensor_type.shape.dim
            if not value.type.tensor_type.HasField("shape"):
                stated.extend(TensorShapeProto.Dimension() for _ in shape)
            known = [size.dim_value if size.HasField("dim_value") else None for size in stated]
            if len(known) != len(shape) or any(a not in (None, b) for a, b in zip(known, shape, strict=True)):
                raise CutError(f"input {value.name} has the shape {known}, which {tuple(shape)} does not fit")
            for size, wanted in zip(stated, shape, strict=True):
                if size.dim_param:
                    symbols[size.dim_param] = wanted
                size.dim_value = wanted
        for value in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output):
            for size in value.type.tensor_type.shape.dim:
                if size.dim_param in symbols:
                    size.dim_value = symbols[size.dim_param]
        model = Model(proto, self.folder)
        for output in proto.graph.output:
            output.type.CopyFrom(model._values[output.name].type)
        return model

    @cached_property
    def inputs(self) -> list[ValueInfoProto]:
        """The inputs that have to be given, as the file states them."""
        names = {self.graph.tensor_names[tensor] for tensor in self.graph.inputs}
        return [value for value in self.proto.graph.input if value.name in names]

    @property
    def input_types(self) -> tuple[TensorType, ...]:
        """Type and shape of the inputs that have to be given."""
        return tuple(map(tensor_type, self.inputs))

    def to_bytes(self) -> bytes:
        """The content of its file; ModelFileError when its weights are in others."""
        return to_bytes(self.proto)

    @cached_property
    def types(self) -> dict[str, TensorType]:
        """Type and shape of every tensor of which they are stated or can be inferred, by name."""
        return {name: tensor_type(value) for name, value in self._all_values.items()}

    def type_of(self, name: str) -> TensorType:
        """Type and shape of one tensor; CutError when they cannot be found out."""
        return tensor_type(self.values([name])[0])

    def values(self, names: Sequence[str]) -> list[ValueInfoProto]:
        """Type and shape of some tensors, as they are written in a file; CutError when they cannot be found out."""
        known = self._values if all(is_known(self._values.get(name)) for name in names) else self._all_values
        if unknown := [name for name in names if not is_known(known.get(name))]:
            raise CutError(f"the type and shape of {name_list(unknown)} cannot be found out; choose another cut")
        return [known[name] for name in names]

    @cached_property
    def _all_values(self) -> dict[str, ValueInfoProto]:
        """Of every tensor: what inference finds out, else what the runtime says, else what a run shows."""
        known = dict(self._values)
        if unknown := self._unknown(known):
            known |= ask_runtime(self.proto, unknown)
        if unknown := self._unknown(known):
            from models.graph.running import observed  # which runs models

            known |= {name: value for name, value in observed(self, unknown).items() if not is_known(known.get(name))}
        return known

    def _unknown(self, known: Mapping[str, ValueInfoProto]) -> list[str]:
        graph = self.graph
        varying = (name for name, varies in zip(graph.tensor_names, graph.varying, strict=True) if varies)
        return [name for name in varying if not is_known(known.get(name))]

    @cached_property
    def _initializers(self) -> dict[str, int]:
        return {tensor.name: i for i, tensor in enumerate(self.proto.graph.initializer)}

    def initializers(self, names: Iterable[str]) -> list[TensorProto]:
        """Those of the dense initialisers that are named, in the file's order."""
        places = sorted(self._initializers[name] for name in names if name in self._initializers)
        return [self.proto.graph.initializer[place] for place in places]
