"""A model that is open for cutting: its file, its index, its tensors' types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

from onnx import ModelProto, TensorProto, ValueInfoProto

from models.graph.file import all_tensors, read_model
from models.graph.index import Graph, name_list
from models.graph.types import TensorType, complete, infer, tensor_type
from splitrtc_errors import CutError

__all__ = ["Model"]


class Model:
    """An ONNX model of any size and opset. Its parts, costs and cuts refer to it; nothing of it is changed."""

    def __init__(self, proto: ModelProto, folder: Path | None = None) -> None:
        """``folder`` is where weights lie that are in other files. ModelFileError when the model is damaged."""
        self.proto = proto
        self.folder = folder
        self._values = infer(proto)
        self.graph = Graph.of(
            proto, {name: shape for name, v in self._values.items() if (shape := tensor_type(v).shape) is not None}
        )

    @classmethod
    def load(cls, source: Path | bytes) -> Self:
        """Read a model's file, or its bytes. ModelFileError, one clear line, when it is no good."""
        return cls(read_model(source), source.parent if isinstance(source, Path) else None)

    @cached_property
    def inputs(self) -> list[ValueInfoProto]:
        """The inputs that have to be given, as the file states them."""
        names = {self.graph.tensor_names[tensor] for tensor in self.graph.inputs}
        return [value for value in self.proto.graph.input if value.name in names]

    @cached_property
    def types(self) -> dict[str, TensorType]:
        """Type and shape of every tensor of which they are stated or can be inferred, by name."""
        return {name: tensor_type(value) for name, value in self._all_values.items()}

    def values(self, names: Sequence[str]) -> list[ValueInfoProto]:
        """Type and shape of some tensors, as they are written in a file; CutError when they cannot be found out."""
        if not all(name in self._values for name in names):
            self._values = self._all_values
        if unknown := [name for name in names if name not in self._values]:
            raise CutError(f"the type and shape of {name_list(unknown)} cannot be found out; choose another cut")
        return [self._values[name] for name in names]

    @cached_property
    def _all_values(self) -> dict[str, ValueInfoProto]:
        graph = self.graph
        made = (tensor for makes in graph.makes for tensor in makes if graph.varying[tensor])
        if all(graph.tensor_names[tensor] in self._values for tensor in made):
            return self._values
        return complete(self.proto, graph, self._values)

    @cached_property
    def _initializers(self) -> dict[str, int]:
        return {tensor.name: i for i, tensor in enumerate(self.proto.graph.initializer)}

    def initializers(self, names: Iterable[str]) -> list[TensorProto]:
        """Those of the dense initialisers that are named, in the file's order."""
        places = sorted(self._initializers[name] for name in names if name in self._initializers)
        return [self.proto.graph.initializer[place] for place in places]

    @staticmethod
    def has_external(proto: ModelProto) -> bool:
        """Whether weights of a model lie in other files."""
        return any(tensor.data_location == TensorProto.EXTERNAL for tensor in all_tensors(proto))
