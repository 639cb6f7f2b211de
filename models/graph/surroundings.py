"""Whether a tensor is a good place to end a head: what made it, and what reads it.

After an activation with a bound, values are sparse or lie in a known range; in a linear bottleneck there are few
channels and no activation has thrown information away, so that it bears quantisation and transforms well. Between a
linear operator and its activation, a runtime that would fuse the two cannot, and the values are neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from models.graph.types import TensorType

if TYPE_CHECKING:
    from models.graph.datapath import DataPath
    from models.graph.index import Graph

__all__ = ["PLACES", "Surroundings"]

PLACES = {
    "linear bottleneck": "few channels, and no activation behind them: a good place",
    "after activation": "sparse, or in a known range: a good place",
    "linear": "no activation before or behind",
    "before activation": "splits what a runtime fuses; the tensor behind the activation has as many bytes",
    "input": "the picture itself",
    "other": "neither a linear operator's nor an activation's output",
}
"""What is said of a tensor, and what that means."""

_ACTIVATIONS = frozenset(
    {
        "Relu",
        "Clip",
        "LeakyRelu",
        "PRelu",
        "Elu",
        "Selu",
        "Celu",
        "ThresholdedRelu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Softplus",
        "Softsign",
        "Mish",
        "Gelu",
        "FastGelu",
        "QuickGelu",
        "BiasGelu",
        "Swish",
        "Erf",
        "Softmax",
    }
)
_LINEAR = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "ConvInteger",
        "QLinearConv",
        "FusedConv",
        "Gemm",
        "MatMul",
        "MatMulInteger",
        "QLinearMatMul",
        "FusedMatMul",
        "BatchNormalization",
    }
)
_SUMS = frozenset(["Add", "Sum", "Sub"])
_SCALED = frozenset(["Mul", "Div", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"])
"""What these make of linear results is linear still; of one, besides constants, where they are no sums."""

MAX_STEPS = 4
"""Nodes that an activation may be made of, as x * sigmoid(x) or x * clip(x + 3) / 6 are."""


class Surroundings:
    """Looks at what is around the tensors of one graph."""

    def __init__(self, graph: Graph, path: DataPath, types: Mapping[str, TensorType]) -> None:
        self._graph, self._path, self._types = graph, path, types
        self._ops = [graph.op_types[node] for node in path.nodes]
        self._linear = self._find_linear()
        self._known: dict[int, str] = {}

    def of(self, t: int) -> str:
        """Return which of `PLACES` a tensor is."""
        if t not in self._known:
            self._known[t] = self._look(t)
        return self._known[t]

    def _look(self, t: int) -> str:
        maker = self._path.maker.get(t)
        if maker is None:
            return "input"
        if self._ops[maker] in _ACTIVATIONS or self._is_gate(maker):
            return "after activation"
        if self._is_activated(t):
            return "before activation"
        if maker not in self._linear:
            return "other"
        return "linear bottleneck" if self._is_narrow(t, maker) else "linear"

    def _is_gate(self, place: int) -> bool:
        """Whether a node multiplies a tensor by an activation of it, as SiLU and HardSwish do."""
        reads = self._path.reads[place]
        return self._ops[place] == "Mul" and any(
            self._activates(a, b, MAX_STEPS) for a in reads for b in reads if a != b
        )

    def _activates(self, t: int, source: int, steps: int) -> bool:
        """Whether a tensor is made of another one by few operators, of which one is an activation."""
        maker = self._path.maker.get(t)
        if maker is None or steps == 0 or len(self._path.reads[maker]) != 1:
            return False
        (read,) = self._path.reads[maker]
        if self._ops[maker] in _ACTIVATIONS:
            return read == source or self._leads(read, source, steps - 1)
        return self._activates(read, source, steps - 1)

    def _leads(self, t: int, source: int, steps: int) -> bool:
        maker = self._path.maker.get(t)
        if t == source or maker is None or steps == 0 or len(self._path.reads[maker]) != 1:
            return t == source
        return self._leads(self._path.reads[maker][0], source, steps - 1)

    def _is_activated(self, t: int) -> bool:
        """Whether all that reads a tensor belongs to its activation."""
        readers = [reader for reader in self._path.readers[t] if reader < len(self._ops)]
        if len(readers) != len(self._path.readers[t]):
            return False  # an output
        if len(readers) == 1:
            return self._ops[readers[0]] in _ACTIVATIONS
        return any(self._is_gate(reader) for reader in readers) and len(readers) == 2

    def _find_linear(self) -> set[int]:
        """The places whose outputs are linear results, or sums and multiples of such."""
        found: set[int] = set()
        for place, op in enumerate(self._ops):
            reads = self._path.reads[place]
            passes = op in _SUMS or (op in _SCALED and len(reads) == 1)
            if op in _LINEAR or (passes and all(self._path.maker.get(t) in found for t in reads)):
                found.add(place)
        return found

    def _is_narrow(self, t: int, maker: int) -> bool:
        """Whether a tensor has less than what its linear operator reads."""
        here = self._elements(t)
        while self._ops[maker] not in _LINEAR:
            maker = self._path.maker[self._path.reads[maker][0]]
        before = max((self._elements(read) for read in self._path.reads[maker]), default=0)
        return 0 < here < before

    def _elements(self, t: int) -> int:
        kind = self._types.get(self._graph.tensor_names[t])
        count = 1
        for size in kind.shape or () if kind is not None else ():
            count *= size if isinstance(size, int) else 0
        return count
