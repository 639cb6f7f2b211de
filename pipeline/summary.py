"""What a run amounted to: outcomes, bytes and the latency of every stage, in bounded memory."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pipeline.outcome import FrameResult

__all__ = ["FRESH_SECONDS", "STAGES", "Summary", "percentiles"]

STAGES = ("wait", "preprocess", "head", "encode", "network", "queue", "decode", "tail", "post")
"""The stages of a frame's way, in order; they add up to ``total``. ``wait`` is the time in the capture slot,
``network`` what remains when every measured stage is taken from the total (DESIGN: clocks are never subtracted)."""

MODEL_AND_CODEC = ("head", "encode", "decode", "tail")
"""Stages that are not overhead."""

FRESH_SECONDS = 0.050
"""A result is fresh when it is back within this time of capture."""

WINDOW = 20_000
"""Frames whose latencies are kept, at most: the newest."""


def percentiles(seconds: np.ndarray) -> dict[str, float | None]:
    """p50, p95 and p99 of times in seconds, as milliseconds; None for each when there are none."""
    known = seconds[~np.isnan(seconds)]
    if known.size == 0:
        return {"p50": None, "p95": None, "p99": None}
    values = np.percentile(known, (50, 95, 99)) * 1e3
    return {name: round(float(value), 3) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}


class Summary:
    """Counts the outcomes of a run's frames. One thread feeds it, others may read."""

    def __init__(self, window: int = WINDOW) -> None:
        self.outcomes: Counter[str] = Counter()
        self.dropped_at: Counter[str] = Counter()
        self.answered = 0
        """Frames with a result, perhaps an empty one: those whose `FrameResult.answered` is true."""
        self.detections = 0
        self.bytes_sent = 0
        self.frames_sent = 0
        self.fresh = 0
        self.modes: Counter[str] = Counter()
        """Answered frames by the mode in which they were."""
        self._gap = 0.0
        self._result_last: float | None = None
        self._ended_last = 0.0
        self._share_received = 0.0
        # A ring of numbers, written to at once: a list of tuples would grow for as long as the window is not full.
        self._timings = np.full((window, 1 + len(STAGES)), np.nan, np.float32)
        self._timed = 0

    def add(self, result: FrameResult) -> None:
        """Count one frame, however it ended."""
        self.outcomes[result.status] += 1
        if result.dropped_at is not None:
            self.dropped_at[result.dropped_at] += 1
        if result.bytes_sent:
            self.frames_sent += 1
            self.bytes_sent += result.bytes_sent
        self._ended_last = max(self._ended_last, result.completed)
        if not result.answered:
            return
        self.answered += 1
        self.modes[result.mode] += 1
        self._gap = self._gap_until(result.completed)
        self._result_last = result.completed
        self.detections += 0 if result.detections is None else len(result.detections)
        self._share_received += result.share_received
        total = result.timings.total
        self.fresh += total is not None and total <= FRESH_SECONDS
        row = [getattr(result.timings, stage) for stage in ("total", *STAGES)]
        self._timings[self._timed % len(self._timings)] = row  # None becomes NaN
        self._timed += 1

    @property
    def produced(self) -> int:
        """Frames that the source produced and that ended."""
        return self.outcomes.total()

    def _gap_until(self, now: float) -> float:
        return self._gap if self._result_last is None else max(self._gap, now - self._result_last)

    def latency(self) -> dict[str, dict[str, float | None]]:
        """p50, p95, p99 in milliseconds of ``total``, ``overhead`` (all but model runs and codec) and every stage."""
        table = self._timings[: self._timed].astype(np.float64)
        columns = dict(zip(("total", *STAGES), table.T, strict=True))
        overhead = columns["total"] - sum(columns[stage] for stage in MODEL_AND_CODEC)
        return {name: percentiles(column) for name, column in {**columns, "overhead": overhead}.items()}

    def to_json(self) -> dict[str, Any]:
        """The run as plain values; shares are over the frames that the source produced."""
        latency = self.latency()
        produced = max(self.produced, 1)
        return {
            "frames_produced": self.produced,
            "frames_answered": self.answered,
            "answered_share": round(self.answered / produced, 4),
            "fresh_share": round(self.fresh / produced, 4),
            "mean_slice_share": round(self._share_received / max(self.answered, 1), 4),
            "frames_by_mode": dict(sorted(self.modes.items())),
            "longest_gap_s": round(self._gap_until(self._ended_last), 4),
            "detections": self.detections,
            "outcomes": dict(sorted(self.outcomes.items())),
            "dropped_at": dict(sorted(self.dropped_at.items())),
            "bytes_per_frame": round(self.bytes_sent / max(self.frames_sent, 1), 1),
            "frames_sent": self.frames_sent,
            "overhead_ms": latency.pop("overhead"),
            "latency_ms": latency,
        }
