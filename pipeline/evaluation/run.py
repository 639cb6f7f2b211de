"""The two evaluations, from what the user names to one object of figures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import Zoo
from models.evaluation.bootstrap import LEVEL, interval, weights
from models.evaluation.coco import MIN_SCORE, Annotations, Scores
from models.task import DETECTION
from models.zoo import DEFAULT_MODEL
from pipeline.evaluation.figures import agreement, bd_rates, cheapest, drop, identity, rate_figures
from pipeline.evaluation.material import Material, Span, survey
from pipeline.evaluation.measure import Measured, measure
from pipeline.evaluation.pictures import PICTURES, picture_contenders
from pipeline.evaluation.split import RTT_FRAMES, Split, series_of
from pipeline.evaluation.vision import DETECTION_SCORE, Vision
from pipeline.offers import OperatingPoint, points
from splitrtc_errors import BadArgument

if TYPE_CHECKING:
    from models import Detections
    from pipeline.evaluation.contender import Contender

__all__ = ["Evaluation", "evaluate_accuracy", "evaluate_rate"]

MAP_DRAWS = 300
"""Draws for an interval of mAP, each of which takes a few milliseconds."""
DEFAULT_F1 = 0.96
DEFAULT_MAP_DROP = 0.3

Report = dict[str, Any]
Track = Callable[[int], Callable[[], None]]
"""Is told the number of steps to come, and returns what is called after each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What to evaluate on what; None stands for the default that the command line documents."""

    data: Path
    annotations: Path | None = None
    model: str = DEFAULT_MODEL
    models: Sequence[Path] = ()
    partition: str | None = None
    variant: str = "fp32"
    profiles: Sequence[str] = ()
    pictures: str = PICTURES
    frames: int | None = None
    segments: tuple[Span, ...] = ()
    rtt_frames: int = RTT_FRAMES
    slice_loss: float = 0.0
    slice_burst: float = 1.0
    seed: int = 0
    at: float | None = None
    provider: str = "auto"
    jobs: int = os.cpu_count() or 1

    def splits(self) -> list[Split]:
        """The profiles as contenders: those asked for, or the whole ladder of the model's card.

        Raises UnknownModel, BadArgument, ModelFileError as `pipeline.offers.points` does; BadArgument also for a model
        that does not detect: there is nothing to compare.
        """
        zoo = Zoo(self.models)
        if zoo.get(self.model).task != DETECTION:
            raise BadArgument(f"model {self.model} gives tensors and detects nothing: name a model for detection")
        cut = points(zoo, model=self.model, partition=self.partition)[0].cut.name
        of_cut = points(zoo, model=self.model, partition=cut)
        ladder = {point.profile: point for point in of_cut}
        wanted = self.profiles or [name for name in of_cut[0].card.profiles if name in ladder]
        found = [points(zoo, model=self.model, partition=cut, profile=name)[0] for name in wanted]
        return [self._split(point) for point in found]

    def _split(self, point: OperatingPoint) -> Split:
        return Split(
            name=point.profile,
            series=series_of(point.profile),
            kind="split",
            point=point,
            rtt_frames=self.rtt_frames,
            loss=self.slice_loss,
            burst=self.slice_burst,
            seed=self.seed,
        )


def evaluate_rate(evaluation: Evaluation, say: Callable[[str], None], track: Track) -> Report:
    """Compare the profiles of a partition with pictures, on the same frames by the same model (docs/evaluation.md).

    ``say`` is told what was chosen. Raises SplitRtcError; a contender that cannot run is reported, not raised.
    """
    splits = evaluation.splits()
    contenders: list[Contender] = [*splits, *(picture_contenders(evaluation.pictures) if evaluation.pictures else ())]
    card = splits[0].point.card
    labels = None if evaluation.annotations is None else Annotations(evaluation.annotations, card.labels)
    material = survey(
        evaluation.data,
        frames=evaluation.frames,
        segments=evaluation.segments,
        wanted=None if labels is None else labels.__contains__,
    )
    say(str(material))
    vision = Vision(
        card,
        splits[0].point.cut,
        provider=evaluation.provider,
        score=DETECTION_SCORE if labels is None else MIN_SCORE,
        variant=evaluation.variant,
    )
    advance = track(len(contenders) * (len(material.spans) + 1))
    measured = measure(contenders, material, vision, jobs=evaluation.jobs, advance=advance)
    report: Report = {
        "set": material.path.name,
        "frames": material.frames,
        "frames_in_set": material.total,
        "segments": None if material.pictures else [[span.start, span.count] for span in material.spans],
        "model": card.name,
        "partition": splits[0].point.cut.name,
        "variant": evaluation.variant,
        "provider": vision.provider,
        "rtt_frames": evaluation.rtt_frames,
        "slice_loss": evaluation.slice_loss,
        "slice_burst": evaluation.slice_burst,
        "seed": evaluation.seed,
        "level": LEVEL,
    }
    accuracy: Callable[[list[Detections]], Report]
    if labels is None:
        at = DEFAULT_F1 if evaluation.at is None else evaluation.at
        accuracy = _Agreement(measured, evaluation.seed)
    else:
        at = -(DEFAULT_MAP_DROP if evaluation.at is None else evaluation.at)
        accuracy = _Drop(labels, material, measured, vision, evaluation.seed)
        report["map"] = round(accuracy.whole.mean_ap, 4)
    report["contenders"] = rows = []
    for contender, outcomes in measured.outcomes.items():
        found = [outcome.found for outcome in outcomes]
        rows.append({**identity(contender), **rate_figures(outcomes, measured.lengths), **accuracy(found)})
        advance()
    return {
        **report,
        "unavailable": [{**identity(one), "reason": str(error)} for one, error in measured.failed.items()],
        "bd_rate": bd_rates(rows),
        "cheapest": cheapest(rows, at),
    }


class _Agreement:
    """F1 of a contender against the whole model."""

    def __init__(self, measured: Measured, seed: int) -> None:
        self._measured = measured
        self._seed = seed

    def __call__(self, found: list[Detections]) -> Report:
        value, ends = agreement(found, self._measured.reference, self._measured.lengths, self._seed)
        return {"f1": value, "ci": list(ends)}


class _Drop:
    """mAP that a contender loses against the whole model; the F1 between the two stands beside."""

    def __init__(self, labels: Annotations, material: Material, measured: Measured, vision: Vision, seed: int) -> None:
        self._labels = labels
        self._names = [material.pictures[span.start].name for span in material.spans]
        self._sizes = measured.sizes
        self._vision = vision
        self._agreement = _Agreement(measured, seed)
        self._weights = weights(len(self._names), seed, MAP_DRAWS)
        self.whole = self.scores(measured.reference)
        self._whole_drawn = self.whole.resampled(self._weights)

    def scores(self, found: Sequence[Detections]) -> Scores:
        placed = (self._vision.place(one, size) for one, size in zip(found, self._sizes, strict=True))
        return self._labels.score(dict(zip(self._names, placed, strict=True)))

    def of_whole(self) -> Report:
        """The figures of the whole model; the interval is that of mAP itself."""
        return {**_rounded(self.whole), "ci": [round(end, 2) for end in interval(self._whole_drawn)]}

    def __call__(self, found: list[Detections]) -> Report:
        scores = self.scores(found)
        same = self._agreement(found)
        return {
            **_rounded(scores),
            "map_drop": round(self.whole.mean_ap - scores.mean_ap, 4),
            "ci": list(drop(self._whole_drawn, scores.resampled(self._weights))),
            "agreement": same["f1"],
            "agreement_ci": same["ci"],
        }


def _rounded(scores: Scores) -> Report:
    return {"map": round(scores.mean_ap, 4), "ap50": round(scores.ap50, 4), "ap75": round(scores.ap75, 4)}


def evaluate_accuracy(evaluation: Evaluation, say: Callable[[str], None], track: Track) -> Report:
    """COCO's mAP of the whole model and, profile by profile, of its parts. Raises SplitRtcError."""
    if not evaluation.profiles:
        default = Zoo(evaluation.models).get(evaluation.model).default_profile
        evaluation = replace(evaluation, profiles=tuple(dict.fromkeys(("raw", default))))
    splits = evaluation.splits()
    card = splits[0].point.card
    assert evaluation.annotations is not None
    labels = Annotations(evaluation.annotations, card.labels)
    material = survey(evaluation.data, frames=evaluation.frames or sys.maxsize, wanted=labels.__contains__)
    say(str(material))
    vision = Vision(
        card, splits[0].point.cut, provider=evaluation.provider, score=MIN_SCORE, variant=evaluation.variant
    )
    advance = track(len(splits) * material.frames)
    measured = measure(splits, material, vision, jobs=evaluation.jobs, advance=advance)
    for error in measured.failed.values():
        raise error
    accuracy = _Drop(labels, material, measured, vision, evaluation.seed)
    rows = [
        {
            "profile": split.name,
            **rate_figures(outcomes, measured.lengths),
            **accuracy([outcome.found for outcome in outcomes]),
        }
        for split, outcomes in measured.outcomes.items()
    ]
    return {
        "set": material.path.name,
        "images": material.frames,
        "model": card.name,
        "partition": splits[0].point.cut.name,
        "provider": vision.provider,
        "level": LEVEL,
        "whole": accuracy.of_whole(),
        "splits": rows,
    }
