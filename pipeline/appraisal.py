"""What the models that an edge serves cost, measured on the edge: for its manifest. What is here blocks."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.capabilities import capabilities, run_ms
from pipeline.measured import remembered
from splitrtc_errors import SplitRtcError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models import ModelCard, PartitionStore, Submodel
    from models.information import EndpointCapabilities
    from pipeline.offers import OperatingPoint

__all__ = ["Appraisal", "CodecCost", "CutCost", "ModelCost"]

C = TypeVar("C")

FRAMES = 8
"""Of the bundled clip, that are coded to see how long a codec takes."""
FIRST = 2
"""Of them, that do not count: what a codec prepares, and its key frame."""


@dataclass(frozen=True, slots=True)
class ModelCost:
    """A whole model: MACs, bytes that a run needs, milliseconds on one thread of the CPU, and as the edge runs it.

    ``edge_ms`` includes what is done with the outputs.
    """

    macs: int
    memory: int
    ms: float
    edge_ms: float


@dataclass(frozen=True, slots=True)
class CutCost:
    """A cut: MACs of the head, its milliseconds on one thread of the CPU, and those of the tail as the edge runs it.

    ``tail_ms`` includes what is done with the outputs.
    """

    head_macs: int
    head_ms: float
    tail_ms: float


@dataclass(frozen=True, slots=True)
class CodecCost:
    """A profile at a cut, on frames of the bundled clip: bytes of a frame, milliseconds on one thread of the CPU."""

    bytes: float
    encode_ms: float
    decode_ms: float


class Appraisal:
    """Measures once for each model, cut and profile, and keeps it; what it found may be asked from any thread."""

    def __init__(self, store: PartitionStore, provider: str, threads: int) -> None:
        self._store = store
        self._provider = provider
        self._threads = threads
        self._models: dict[str, ModelCost] = {}
        self._cuts: dict[str, CutCost] = {}
        self._codecs: dict[str, CodecCost] = {}
        self._clip: tuple[str, list[list[NDArray[Any]]]] = ("", [])
        """Of the cut at hand, by the partition's id: intermediate data of some frames."""
        self._capabilities: EndpointCapabilities | None = None
        self._stop = threading.Event()

    def model(self, digest: str) -> ModelCost | None:
        """A model's cost, by its digest; None before it was measured."""
        return self._models.get(digest)

    def cut(self, partition: str) -> CutCost | None:
        """A cut's cost, by the partition's id; None before it was measured."""
        return self._cuts.get(partition)

    def codec(self, point: OperatingPoint) -> CodecCost | None:
        """What it costs to code this point's frames; None before it was measured."""
        return self._codecs.get(_codec_key(point))

    @property
    def capabilities(self) -> EndpointCapabilities | None:
        """What this machine can do; None before it was measured."""
        return self._capabilities

    def stop(self) -> None:
        """Let `measure` return soon."""
        self._stop.set()

    def measure(self, points: Iterable[OperatingPoint]) -> None:
        """Measure what of these points was not; what cannot be run is left out. Some seconds a model the first time."""
        with suppress(SplitRtcError):
            self._capabilities = self._capabilities or capabilities(self._provider)
        for point in points:
            self._measure_once(self._models, point.card.digest, self._model, point)
            if not point.is_video:
                self._measure_once(self._cuts, point.partition, self._cut, point)
                self._measure_once(self._codecs, _codec_key(point), self._codec, point)
        self._clip = ("", [])

    def _measure_once(
        self, costs: dict[str, C], key: str, measure: Callable[[OperatingPoint], C], point: OperatingPoint
    ) -> None:
        if key not in costs and not self._stop.is_set():
            with suppress(SplitRtcError):
                costs[key] = measure(point)

    def _model(self, point: OperatingPoint) -> ModelCost:
        card = point.card

        def measure() -> dict[str, float]:
            from models import load_submodel
            from models.fixed import fixed_model, load_whole
            from models.graph import costs_of

            model = fixed_model(card)
            costs = costs_of(model)
            whole = load_submodel(model.to_bytes(), provider="cpu")
            edge_ms = _tail_ms(card, load_whole(card, self._provider, self._threads))
            return {"macs": costs.total_macs, "memory": costs.peak_memory, "ms": run_ms(whole), "edge_ms": edge_ms}

        found = remembered(f"model {card.digest} {self._provider} {self._threads}", measure)
        return ModelCost(int(found["macs"]), int(found["memory"]), found["ms"], found["edge_ms"])

    def _cut(self, point: OperatingPoint) -> CutCost:
        def measure() -> dict[str, float]:
            from models import load_submodel
            from models.graph import Model, costs_of

            partition = self._store.get(point.card, point.cut.tensors)
            head = load_submodel(partition.head_path, provider="cpu")
            tail = load_submodel(partition.tail_path, provider=self._provider, threads=self._threads)
            macs = costs_of(Model.load(partition.head_path)).total_macs
            return {"head_macs": macs, "head_ms": run_ms(head), "tail_ms": _tail_ms(point.card, tail)}

        found = remembered(f"head and tail {point.partition} {self._provider} {self._threads}", measure)
        return CutCost(int(found["head_macs"]), found["head_ms"], found["tail_ms"])

    def _codec(self, point: OperatingPoint) -> CodecCost:
        def measure() -> dict[str, float]:
            from models import make_decoder, make_encoder, parse_profile
            from rtc import unit_payload_limit

            profile, crossing = parse_profile(point.profile), self._store.get(point.card, point.cut.tensors).crossing
            encoder = make_encoder(profile, crossing, point.calibration, unit_payload_limit(reference=True))
            decoder = make_decoder(profile, crossing, point.calibration)
            rows: list[tuple[float, float, float]] = []
            for number, tensors in enumerate(self._frames(point), 1):
                began = time.perf_counter()
                coded = encoder.encode(number, tensors)
                encoded = time.perf_counter()
                decoder.decode(number, coded.slices, coded.intra, coded.reference)
                decoded = time.perf_counter()
                encoder.acknowledged(number, [True] * len(coded.slices))
                rows.append((sum(map(len, coded.slices)), 1e3 * (encoded - began), 1e3 * (decoded - encoded)))
            sizes, encoding, decoding = zip(*rows[FIRST:], strict=True)
            return {
                "bytes": statistics.mean(sizes),
                "encode_ms": statistics.median(encoding),
                "decode_ms": statistics.median(decoding),
            }

        found = remembered(f"coding {_codec_key(point)}", measure)
        return CodecCost(found["bytes"], found["encode_ms"], found["decode_ms"])

    def _frames(self, point: OperatingPoint) -> list[list[NDArray[Any]]]:
        """What crosses at this cut of some frames."""
        if self._clip[0] != point.partition:
            from models import load_submodel

            head = load_submodel(self._store.get(point.card, point.cut.tensors).head_path, provider="cpu")
            self._clip = point.partition, [head.run([picture]) for picture in _inputs(point.card)]
        return self._clip[1]


def _codec_key(point: OperatingPoint) -> str:
    digest = None if point.calibration is None else point.calibration.digest
    return f"{point.partition} {point.profile} {digest}"


def _inputs(card: ModelCard) -> Iterator[NDArray[Any]]:
    """Frames of the bundled clip as the model takes them, each until the next; noise for one that takes no pictures."""
    import numpy as np

    from models import Preprocessor
    from pipeline.sources import open_source

    if card.preprocessing is None:
        noise = np.random.default_rng(0)
        for _ in range(FRAMES):
            yield noise.standard_normal(card.image.shape).astype(card.image.dtype)
        return
    preprocessor, source = Preprocessor(card), open_source("clip")
    source.open()
    try:
        for _ in range(FRAMES):
            if (picture := source.read()) is not None:
                yield preprocessor.prepare(picture.image)
    finally:
        source.close()


def _tail_ms(card: ModelCard, tail: Submodel) -> float:
    """Milliseconds of a tail, or of the whole model, and of what is made of its outputs."""
    import numpy as np

    from models import Detector

    ms = run_ms(tail)
    if card.decoding is None:
        return ms
    detector = Detector(card)
    outputs = tail.run([np.zeros(spec.shape, spec.dtype) for spec in tail.inputs])
    taken = []
    for _ in range(FIRST):
        began = time.perf_counter()
        detector.decode(outputs)
        taken.append(time.perf_counter() - began)
    return ms + 1e3 * min(taken)
