"""The device's share of a frame: preprocess, head, encode (TR 26.927: UE model subset, intermediate data delivery)."""

from __future__ import annotations

import copy
import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

from models import Preprocessor, load_submodel, make_encoder, parse_profile

if TYPE_CHECKING:
    from models import Detections, EncodedFrame, Head, ModelCard, TensorSpec
    from pipeline.frames import Frame
    from pipeline.offers import OperatingPoint

__all__ = ["CodedFrame", "Device", "DevicePart", "Heads"]

MAX_ACKNOWLEDGEMENTS = 256
"""Acknowledgements that wait for the encoder's next frame, at most: some seconds' worth at 30 frames per second."""


class Heads(Protocol):
    """Where heads come from: a `PartitionStore`, which makes them, or an edge, which delivers them."""

    def head(self, card: ModelCard, tensors: Sequence[str], variant: str = "fp32") -> Head:
        """The head of a model at these tensors. Blocks; raises SplitRtcError."""


@dataclass(frozen=True, slots=True)
class CodedFrame:
    """A frame's intermediate data, coded, and the seconds that each step took; ``wait`` is that in the capture slot."""

    frame_id: int
    coded: EncodedFrame
    wait: float
    preprocess: float
    head: float
    encode: float


class Device(Protocol):
    """What a device does to frames at one operating point."""

    @property
    def point(self) -> OperatingPoint:
        """The operating point."""

    @property
    def provider(self) -> str:
        """The execution provider that the head really runs on."""

    @property
    def crossing(self) -> tuple[TensorSpec, ...]:
        """What is sent of a frame, before it is coded."""

    def for_new_session(self) -> Self:
        """The same for another session, which counts its frames from 1."""

    def process(self, frame: Frame) -> CodedFrame:
        """The device's share of one frame, under the session's next frame id. In the worker thread."""

    def acknowledge(self, frame_id: int, received: list[bool]) -> None:
        """Take note of which slices of a frame were decoded."""

    def place(self, detections: Detections, frame: Frame) -> Detections:
        """Detections in model-input pixels, moved into the pixels of the frame they were found in."""


class DevicePart:
    """What the device does to a frame before it is sent. Build and call it in one worker thread at a time.

    Only `acknowledge` may be called from elsewhere.
    """

    def __init__(self, point: OperatingPoint, heads: Heads, *, provider: str, threads: int, max_payload: int) -> None:
        self.point = point
        self.partition: Head = heads.head(point.card, point.cut.tensors, point.variant)
        # A model that takes no pictures is given what comes, which the head checks.
        self._preprocessor = None if point.card.preprocessing is None else Preprocessor(point.card)
        self._head = load_submodel(self.partition.head_path, provider=provider, threads=threads)
        self._head.warm_up()
        self._max_payload = max_payload
        self._start_over()

    def _start_over(self) -> None:
        profile, calibration = parse_profile(self.point.profile), self.point.calibration
        self._encoder = make_encoder(profile, self.partition.crossing, calibration, self._max_payload)
        self._acknowledgements: deque[tuple[int, list[bool]]] = deque(maxlen=MAX_ACKNOWLEDGEMENTS)
        self._frame_ids = itertools.count(1)

    def for_new_session(self) -> Self:
        """The same for another session: it shares the head, which takes long to load, but codes from frame 1 on."""
        other = copy.copy(self)
        other._start_over()
        return other

    @property
    def provider(self) -> str:
        """The execution provider that the head really runs on."""
        return self._head.provider

    @property
    def crossing(self) -> tuple[TensorSpec, ...]:
        """The partition's crossing tensors."""
        return self.partition.crossing

    def process(self, frame: Frame) -> CodedFrame:
        """Code one frame, under the session's next frame id. Raises ModelError when it cannot be coded (NaN)."""
        while self._acknowledgements:
            self._encoder.acknowledged(*self._acknowledgements.popleft())
        frame_id = next(self._frame_ids)
        started = time.monotonic()
        picture = self._preprocessor.prepare(frame.image) if self._preprocessor else frame.image
        preprocessed = time.monotonic()
        tensors = self._head.run([picture])
        inferred = time.monotonic()
        coded = self._encoder.encode(frame_id, tensors)
        encoded = time.monotonic()
        return CodedFrame(
            frame_id,
            coded,
            started - frame.captured,
            preprocessed - started,
            inferred - preprocessed,
            encoded - inferred,
        )

    def acknowledge(self, frame_id: int, received: list[bool]) -> None:
        """Tell the encoder, before its next frame, with which slices a frame was decoded. Callable from any thread.

        None of them: it was not decoded, and never will be.
        """
        self._acknowledgements.append((frame_id, received))

    def place(self, detections: Detections, frame: Frame) -> Detections:
        """Detections in model-input pixels, moved into the pixels of the frame they were found in."""
        assert self._preprocessor is not None, "a detector takes pictures"
        boxes = self._preprocessor.undo(detections.xyxy, (frame.width, frame.height))
        return replace(detections, xyxy=boxes)
