"""From what was measured to figures: bytes, accuracy with its interval, times, differences between curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from models.evaluation.bdrate import bd_rate
from models.evaluation.bootstrap import blocks, interval, weights
from models.evaluation.matching import f1, matches
from pipeline.evaluation.vision import DETECTION_SCORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models import Detections
    from pipeline.evaluation.contender import Contender, Outcome

__all__ = ["agreement", "bd_rates", "cheapest", "given_up", "identity", "quality", "rate_figures"]

Figures = dict[str, Any]


def identity(contender: Contender) -> Figures:
    """What a contender is called."""
    return {"name": contender.name, "kind": contender.kind, "series": contender.series}


def rate_figures(outcomes: Sequence[Outcome], lengths: Sequence[int]) -> Figures:
    """Bytes and times of one contender.

    Bytes are the mean in steady state, that is without the first frame of each segment, whose mean stands beside;
    times are medians, in milliseconds.
    """
    firsts = np.zeros(len(outcomes), bool)
    firsts[np.cumsum([0, *lengths[:-1]])] = True
    sizes = np.array([outcome.size for outcome in outcomes], np.float64)
    stills = firsts.all()
    figures: Figures = {
        "bytes_per_frame": round(float(sizes[firsts if stills else ~firsts].mean()), 1),
        "first_frame_bytes": None if stills else round(float(sizes[firsts].mean()), 1),
    }
    for name in ("encode", "decode", "device", "edge"):
        figures[f"{name}_ms"] = round(float(np.median([getattr(outcome, name) for outcome in outcomes])) * 1e3, 3)
    return figures


def agreement(
    found: Sequence[Detections], reference: Sequence[Detections], lengths: Sequence[int], seed: int
) -> tuple[float, tuple[float, float]]:
    """F1 of the detections against the reference over all frames, and its interval over blocks of frames."""
    sums = _sums(found, reference, lengths)
    low, high = interval(f1(*(weights(len(sums), seed) @ sums).T))
    return round(float(f1(*sums.sum(axis=0))), 4), (round(low, 4), round(high, 4))


def given_up(
    clean: Sequence[Detections], lossy: Sequence[Sequence[Detections]], reference: Sequence[Detections],
    lengths: Sequence[int],
) -> tuple[float, tuple[float, float]]:  # fmt: skip
    """F1 lost against ``clean`` in several runs taken together, and its interval: both are drawn on the same blocks."""
    whole = _sums(clean, reference, lengths)
    rest = np.sum([_sums(one, reference, lengths) for one in lossy], axis=0)
    draws = weights(len(whole))
    low, high = interval(f1(*(draws @ whole).T) - f1(*(draws @ rest).T))
    return round(float(f1(*whole.sum(axis=0)) - f1(*rest.sum(axis=0))), 4), (round(low, 4), round(high, 4))


def _sums(
    found: Sequence[Detections], reference: Sequence[Detections], lengths: Sequence[int]
) -> NDArray[np.float64]:  # fmt: skip
    """Hits, detections and detections wanted, by block of frames."""
    counts = np.array([_counts(one, other) for one, other in zip(found, reference, strict=True)], np.float64)
    block = blocks(lengths)
    sums = np.zeros((block[-1] + 1, 3))
    np.add.at(sums, block, counts)
    return sums


def _counts(found: Detections, reference: Detections) -> tuple[int, int, int]:
    one, other = found.at_least(DETECTION_SCORE), reference.at_least(DETECTION_SCORE)
    return matches(one, other), len(one), len(other)


def quality(contender: Mapping[str, Any]) -> float:
    """The accuracy that a contender's figures tell, as a number that is better when it is higher."""
    return float(contender["f1"]) if "f1" in contender else -float(contender["map_drop"])


def _series(contenders: Sequence[Mapping[str, Any]], kind: str) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for contender in contenders:
        if contender["kind"] == kind:
            point = contender["bytes_per_frame"], quality(contender)
            found.setdefault(contender["series"], []).append(point)
    return found


def bd_rates(contenders: Sequence[Mapping[str, Any]]) -> list[Figures]:
    """By how many percent every split series takes more bytes than each picture series at equal accuracy."""
    return [
        {"series": series, "against": other, "percent": bd_rate(anchor, curve)}
        for series, curve in _series(contenders, "split").items()
        for other, anchor in _series(contenders, "picture").items()
    ]  # fmt: skip


def cheapest(contenders: Sequence[Mapping[str, Any]], at: float) -> Figures:
    """The split and the picture contender that take the fewest bytes of those whose accuracy is at least ``at``.

    None where there is none; ``ratio`` is the picture's bytes over the split's.
    """
    best: dict[str, Mapping[str, Any] | None] = {}
    for kind in ("split", "picture"):
        enough = [one for one in contenders if one["kind"] == kind and quality(one) >= at]
        best[kind] = min(enough, key=lambda one: one["bytes_per_frame"], default=None)
    split, picture = best["split"], best["picture"]
    return {
        "at": abs(at),
        **{kind: None if one is None else one["name"] for kind, one in best.items()},
        "ratio": round(picture["bytes_per_frame"] / split["bytes_per_frame"], 3) if split and picture else None,
    }


def drop(whole: NDArray[np.float64], contender: NDArray[np.float64]) -> tuple[float, float]:
    """The interval of the mAP lost, from both mAPs for the same draws of images."""
    low, high = interval(whole - contender)
    return round(low, 2), round(high, 2)
