"""Running contenders over material: a segment at a time, side by side, and what each of them made of every frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.evaluation.contender import Contender, Outcome, Segment
from splitrtc_errors import SourceError, SplitRtcError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models import Detections
    from pipeline.evaluation.material import Material
    from pipeline.evaluation.vision import Vision
    from pipeline.frames import Image

__all__ = ["Measured", "measure"]


@dataclass(slots=True, eq=False)
class Measured:
    """What came out, frame by frame, over all segments one after the other.

    ``reference`` is what the whole model sees in the frames as they are, in pixels of its input; ``failed`` says why
    a contender is not in ``outcomes``.
    """

    lengths: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Width and height of the frames."""
    reference: list[Detections] = field(default_factory=list)
    outcomes: dict[Contender, list[Outcome]] = field(default_factory=dict)
    failed: dict[Contender, SplitRtcError] = field(default_factory=dict)


class _Start(NamedTuple):
    """What all contenders have in common of one frame."""

    reference: Detections
    small: Image
    resizing: float
    features: list[NDArray[Any]]
    heading: float


def measure(
    contenders: Sequence[Contender], material: Material, vision: Vision, *, jobs: int, advance: Callable[[], None]
) -> Measured:
    """Let every contender code every frame.

    A contender that fails is left out and named, as one whose encoder is not installed.

    Args:
        contenders: their times are less disturbed when fewer run at once.
        material: where the frames come from.
        vision: what looks at them.
        jobs: how many threads.
        advance: called after each contender's way through each segment.

    Raises:
        SourceError: the frames cannot be read to the end.
    """
    measured = Measured(outcomes={contender: [] for contender in contenders})
    with ThreadPoolExecutor(jobs, thread_name_prefix="evaluate") as pool:
        try:
            for number, (span, images) in enumerate(zip(material.spans, material.read(), strict=True)):
                if len(images) != span.count:
                    raise SourceError(f"{material.path} ended after {span.start + len(images)} frames")
                starts = list(pool.map(lambda image: _start(image, vision), images))
                segment = Segment(
                    number,
                    images,
                    [start.small for start in starts],
                    [start.resizing for start in starts],
                    [start.features for start in starts],
                    [start.heading for start in starts],
                )
                measured.lengths.append(len(images))
                measured.sizes += [(image.shape[1], image.shape[0]) for image in images]
                measured.reference += [start.reference for start in starts]
                running = list(measured.outcomes)
                results = pool.map(lambda contender, segment=segment: _run(contender, segment, vision), running)
                for contender, result in zip(running, results, strict=True):
                    if isinstance(result, SplitRtcError):
                        measured.failed[contender] = result
                        del measured.outcomes[contender]
                    else:
                        measured.outcomes[contender] += result
                    advance()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return measured


def _start(image: Image, vision: Vision) -> _Start:
    reference = vision.whole(image)
    times = [time.perf_counter()]
    small = vision.resized(image)
    times.append(time.perf_counter())
    features = vision.head(image)
    times.append(time.perf_counter())
    return _Start(reference, small, times[1] - times[0], features, times[2] - times[1])


def _run(contender: Contender, segment: Segment, vision: Vision) -> list[Outcome] | SplitRtcError:
    try:
        outcomes = list(contender.run(segment, vision))
    except SplitRtcError as error:
        return error
    assert len(outcomes) == len(segment.images)
    return outcomes
