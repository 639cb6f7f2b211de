"""The device's own lane: the whole model on the device, nothing sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from models import Detector, Preprocessor, Zoo
from models.fixed import load_whole
from models.task import DETECTION
from models.zoo import DEFAULT_MODEL
from pipeline.outcome import FrameResult, Timings
from splitrtc_errors import ModelError, SplitRtcError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models import Detections, ModelCard
    from pipeline.frames import Frame
    from pipeline.settings import UeSettings
    from pipeline.uplink import Finish

__all__ = ["LocalLane", "StandIn", "first_in_time", "load_own", "stand_ins"]

logger = logging.getLogger(__name__)

MEASURED_RUNS = 3
"""Runs of which the quickest says how fast a model is here: what else the machine did is no property of the model."""
UNNAMED = "?"
"""The label of a class number that stands for nothing."""
NICENESS = 5
"""Added to that of the thread that loads a stand-in: the stream goes first."""


class LocalLane:
    """Answers frames with the whole model. `process` does all of it, in the worker; `submit` only hands it on."""

    mode = "local"

    def __init__(
        self, card: ModelCard, *, provider: str = "auto", threads: int = 1, threshold: float | None = None
    ) -> None:
        """Load and warm the model: to be called in a thread. Raises ModelError or MissingDependency."""
        self.card = card
        self._preprocessor = None if card.preprocessing is None else Preprocessor(card)
        self._detector = None if card.decoding is None else Detector(card)
        self._threshold = threshold
        self._model = load_whole(card, provider, threads)
        self._model.warm_up()
        self.seconds = min(self._measure() for _ in range(MEASURED_RUNS))
        """What one run of the model takes here."""

    def _measure(self) -> float:
        began = time.perf_counter()
        self._model.warm_up(1)
        return time.perf_counter() - began

    def describe(self) -> dict[str, Any]:
        """The operating point: of a whole model there is no cut, and nothing is coded."""
        nothing = dict.fromkeys(("partition", "profile", "variant"))
        return {"model": self.card.name, **nothing, "provider": self._model.provider}

    def admits(self, frame: Frame) -> bool:
        """Every frame that the worker comes to: a device that is too slow for all gets the newest ones."""
        return True

    def process(self, frame: Frame) -> FrameResult:
        """The result of a frame. Raises ModelError when the model fails on it."""
        started = time.monotonic()
        picture = self._preprocessor.prepare(frame.image) if self._preprocessor else frame.image
        preprocessed = time.monotonic()
        outputs = self._model.run([picture])
        inferred = time.monotonic()
        found = self._find(outputs, frame)
        completed = time.monotonic()
        return FrameResult(
            frame=frame,
            status="ok",
            mode=self.mode,
            detections=found,
            tensors=self._tensors(outputs) if found is None else None,
            labels=self.card.labels,
            timings=Timings(
                wait=started - frame.captured,
                preprocess=preprocessed - started,
                head=inferred - preprocessed,
                post=completed - inferred,
                total=completed - frame.captured,
            ),
            completed=completed,
        )

    def _find(self, outputs: list[NDArray[Any]], frame: Frame) -> Detections | None:
        """The detections in pixels of the frame; None of a model of another task."""
        if self._detector is None or self._preprocessor is None:
            return None
        score = self.card.detection.display_score if self._threshold is None else self._threshold
        found = self._detector.decode(outputs).at_least(score)
        return replace(found, xyxy=self._preprocessor.undo(found.xyxy, (frame.width, frame.height)))

    def _tensors(self, outputs: list[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for output in outputs:
            output.setflags(write=False)
        return {spec.name: output for spec, output in zip(self._model.outputs, outputs, strict=True)}

    def submit(self, frame: Frame, coded: FrameResult, finish: Finish) -> None:
        """Hand on what `process` found."""
        finish(coded)

    async def settle(self) -> None:
        """Nothing is ever in flight."""

    def forget(self) -> None:
        """Nothing is ever in flight."""


def stand_ins(zoo: Zoo, card: ModelCard) -> Iterator[ModelCard]:
    """The models whose files are here and that find the same as ``card``'s: that one first, then the smallest."""
    if card.is_here:
        yield card
    others = [other for name in zoo.names() if (other := zoo.get(name)).name != card.name and other.is_here]
    detectors = [other for other in others if card.task == other.task == DETECTION]
    alike = [other for other in detectors if set(card.labels) - {UNNAMED} <= set(other.labels)]
    yield from sorted(alike, key=lambda other: other.size)


def first_in_time(
    cards: Iterator[ModelCard], load: Callable[[ModelCard], LocalLane], budget: float
) -> LocalLane | None:
    """The first of these models that this device runs in time; None when there is none, or none that can be loaded.

    A frame may have to wait for one run of the model before its own, and both must fit into ``budget`` seconds.
    """
    for card in cards:
        try:
            lane = load(card)
        except ModelError as error:
            logger.warning("%s is no stand-in for the edge: %s", card.name, error)
            continue
        if 2 * lane.seconds <= budget:
            return lane
        logger.info("%s takes %.0f ms here, too long to stand in for the edge", card.name, lane.seconds * 1000)
    return None


def load_own(settings: UeSettings, card: ModelCard | None = None) -> LocalLane:
    """The whole model of a card, else of the one that the settings name; raises UnknownModel, ModelError, ..."""
    card = card or Zoo(settings.models, bundled=settings.bundled).get(settings.model or DEFAULT_MODEL)
    return LocalLane(card, provider=settings.provider, threads=settings.threads, threshold=settings.threshold)


class StandIn:
    """Loads the lane with which the device goes on without an edge, in a thread of its own that gives way to others."""

    def __init__(self, settings: UeSettings) -> None:
        # Not the thread for chores: a run that starts must not wait for a model which it does not need yet.
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="stand-in", initializer=_give_way)
        self._settings = settings
        self._loading: Future[LocalLane | None] | None = None

    async def load(self, card: ModelCard | None) -> LocalLane | None:
        """The lane, of the model of this card if that is possible; None when no model at hand will do."""
        self._loading = self.executor.submit(self._load, card)
        return await asyncio.wrap_future(self._loading)

    async def ready(self) -> bool:
        """Whether there is a lane, once it is loaded."""
        return self._loading is not None and await asyncio.shield(asyncio.wrap_future(self._loading)) is not None

    def _load(self, card: ModelCard | None) -> LocalLane | None:
        settings = self._settings
        try:
            zoo = Zoo(settings.models, bundled=settings.bundled)
            cards = stand_ins(zoo, card or zoo.get(settings.model or DEFAULT_MODEL))
            lane = first_in_time(cards, partial(load_own, settings), settings.budget)
        except SplitRtcError as error:
            logger.warning("nothing stands in for the edge: %s", error)
            return None
        if lane is None:
            logger.warning("nothing stands in for the edge: no model at hand finds the same in time")
        else:
            logger.info("%s stands in for the edge, at %.0f ms a frame", lane.card.name, lane.seconds * 1000)
        return lane


def _give_way() -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # on Linux, of this thread alone
