"""What the models that an edge serves cost, measured on the edge: for its manifest. What is here blocks."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.capabilities import capabilities, run_ms
from pipeline.measured import remembered
from splitrtc_errors import SplitRtcError

if TYPE_CHECKING:
    from models import ModelCard, PartitionStore
    from models.information import EndpointCapabilities
    from pipeline.offers import OperatingPoint

__all__ = ["Appraisal", "CutCost", "ModelCost"]


@dataclass(frozen=True, slots=True)
class ModelCost:
    """A whole model: MACs, bytes that a run needs, milliseconds on one thread of the CPU."""

    macs: int
    memory: int
    ms: float


@dataclass(frozen=True, slots=True)
class CutCost:
    """A cut: MACs of the head, its milliseconds on one thread of the CPU, and those of the tail as the edge runs it."""

    head_macs: int
    head_ms: float
    tail_ms: float


class Appraisal:
    """Measures once for each model and cut, and keeps it; everything else may be asked from any thread."""

    def __init__(self, store: PartitionStore, provider: str, threads: int) -> None:
        self._store = store
        self._provider = provider
        self._threads = threads
        self._models: dict[str, ModelCost] = {}
        self._cuts: dict[str, CutCost] = {}
        self._capabilities: EndpointCapabilities | None = None
        self._stop = threading.Event()

    def model(self, digest: str) -> ModelCost | None:
        """A model's cost, by its digest; None before it was measured."""
        return self._models.get(digest)

    def cut(self, partition: str) -> CutCost | None:
        """A cut's cost, by the partition's id; None before it was measured."""
        return self._cuts.get(partition)

    @property
    def capabilities(self) -> EndpointCapabilities | None:
        """What this machine can do; None before it was measured."""
        return self._capabilities

    def stop(self) -> None:
        """Let `measure` return soon."""
        self._stop.set()

    def measure(self, points: Iterable[OperatingPoint]) -> None:
        """Measure what of these points was not; what cannot be run is left out. A second a model the first time."""
        with suppress(SplitRtcError):
            self._capabilities = self._capabilities or capabilities(self._provider)
        for point in points:
            if self._stop.is_set():
                return
            with suppress(SplitRtcError):
                if point.partition not in self._cuts:
                    self._cuts[point.partition] = self._cut(point)
                if point.card.digest not in self._models and not self._stop.is_set():
                    self._models[point.card.digest] = self._model(point.card)

    def _model(self, card: ModelCard) -> ModelCost:
        def measure() -> dict[str, float]:
            from models import load_submodel
            from models.fixed import fixed_model
            from models.graph import costs_of

            model = fixed_model(card)
            costs = costs_of(model)
            whole = load_submodel(model.to_bytes(), provider="cpu")
            return {"macs": costs.total_macs, "memory": costs.peak_memory, "ms": run_ms(whole)}

        found = remembered(f"whole {card.digest}", measure)
        return ModelCost(int(found["macs"]), int(found["memory"]), found["ms"])

    def _cut(self, point: OperatingPoint) -> CutCost:
        def measure() -> dict[str, float]:
            from models import load_submodel
            from models.graph import Model, costs_of

            partition = self._store.get(point.card, point.cut.tensors)
            head = load_submodel(partition.head_path, provider="cpu")
            tail = load_submodel(partition.tail_path, provider=self._provider, threads=self._threads)
            macs = costs_of(Model.load(partition.head_path)).total_macs
            return {"head_macs": macs, "head_ms": run_ms(head), "tail_ms": run_ms(tail)}

        found = remembered(f"cut {point.partition} {self._provider} {self._threads}", measure)
        return CutCost(int(found["head_macs"]), found["head_ms"], found["tail_ms"])
