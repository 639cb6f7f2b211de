"""What is compared: ways to get a frame's content to the edge, and what one of them makes of one frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models import Detections
    from pipeline.evaluation.vision import Vision
    from pipeline.frames import Image

__all__ = ["Contender", "Outcome", "Segment"]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a contender made of one frame. Times are seconds.

    ``size`` is in bytes. ``device`` is all that the device does to the frame, ``encode`` included; ``edge`` all that
    the edge does, ``decode`` included. ``found`` is what is known of the frame at the edge, in pixels of the model's
    input.
    """

    size: int
    encode: float
    decode: float
    device: float
    edge: float
    found: Detections


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Consecutive frames, and what all contenders start from; lists hold one item per frame, times are seconds."""

    number: int
    images: Sequence[Image]
    small: Sequence[Image]
    """At the size of the model's input."""
    resizing: Sequence[float]
    features: Sequence[Sequence[NDArray[Any]]]
    """The intermediate data."""
    heading: Sequence[float]
    """What preprocessing and head took."""


@dataclass(frozen=True, slots=True, eq=False)
class Contender(ABC):
    """One operating point of one codec.

    Points of the same ``series`` lie on one curve of rate against accuracy.
    """

    name: str
    series: str
    kind: Literal["split", "picture"]

    @abstractmethod
    def run(self, segment: Segment, vision: Vision) -> Iterator[Outcome]:
        """Code the frames of a segment, in order, and look at what comes out. Several threads may call it at once.

        Raises SplitRtcError when it cannot.
        """
