from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from pipeline.outcome import FrameResult, Timings
from pipeline.summary import FRESH_SECONDS, STAGES, Summary, percentiles

Make = Callable[..., FrameResult]


def test_the_stages_are_those_of_a_result() -> None:
    assert (*STAGES, "total") == tuple(field.name for field in fields(Timings))


def test_percentiles_are_milliseconds_of_what_is_known() -> None:
    seconds = np.array([math.nan, *(np.arange(101) / 1000)])
    assert percentiles(seconds) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}


@pytest.mark.parametrize("seconds", [[], [math.nan, math.nan]])
def test_there_is_no_percentile_of_nothing(seconds: list[float]) -> None:
    assert percentiles(np.array(seconds)) == {"p50": None, "p95": None, "p99": None}


def test_a_run_without_frames_has_a_summary() -> None:
    summary = Summary().to_json()
    assert summary["frames_produced"] == summary["frames_answered"] == 0
    assert summary["answered_share"] == summary["fresh_share"] == summary["mean_slice_share"] == 0
    assert summary["bytes_per_frame"] == 0
    assert summary["overhead_ms"] == {"p50": None, "p95": None, "p99": None}
    assert set(summary["latency_ms"]) == {"total", *STAGES}
    json.dumps(summary, allow_nan=False)


def test_every_frame_counts_by_how_it_ended(make_result: Make) -> None:
    summary = Summary()
    answered = make_result()
    assert answered.detections is not None
    empty = replace(answered, detections=answered.detections.at_least(1.0))
    summary.add(replace(answered, share_received=1.0))
    summary.add(replace(empty, status="incomplete", share_received=0.5))
    summary.add(replace(make_result(answered=False), dropped_at="network"))
    summary.add(replace(make_result(answered=False), status="skipped", dropped_at="slot", bytes_sent=0))
    assert (summary.produced, summary.answered) == (4, 2)
    value = summary.to_json()
    assert value["outcomes"] == {"incomplete": 1, "lost": 1, "ok": 1, "skipped": 1}
    assert value["dropped_at"] == {"network": 1, "slot": 1}
    assert value["answered_share"] == 0.5
    assert value["mean_slice_share"] == 0.75
    assert value["detections"] == 1
    # A frame that was sent and lost has cost its bytes too.
    assert (value["frames_sent"], value["bytes_per_frame"]) == (3, 9000.0)


def test_overhead_is_all_but_model_and_codec(make_result: Make) -> None:
    summary = Summary()
    times = dict(zip(STAGES, (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256), strict=True))
    summary.add(replace(make_result(), timings=Timings(**times, total=sum(times.values()))))
    latency = summary.latency()
    assert latency["head"]["p50"] == 4.0
    assert latency["total"]["p99"] == 511.0
    assert latency["overhead"]["p50"] == pytest.approx(511 - (4 + 8 + 64 + 128))


def test_a_stage_that_did_not_take_place_spoils_no_other(make_result: Make) -> None:
    summary = Summary()
    summary.add(make_result())  # head and total alone
    latency = summary.latency()
    assert latency["total"]["p50"] == 20.0
    assert latency["tail"]["p50"] is None
    assert latency["overhead"]["p50"] is None


@pytest.mark.parametrize(
    ("total", "fresh"), [(FRESH_SECONDS, 1.0), (math.nextafter(FRESH_SECONDS, 1), 0.0), (None, 0.0)]
)
def test_a_result_is_fresh_up_to_a_limit(make_result: Make, total: float | None, fresh: float) -> None:
    summary = Summary()
    summary.add(replace(make_result(), timings=Timings(total=total)))
    assert summary.to_json()["fresh_share"] == fresh


def test_a_lost_frame_has_no_latency(make_result: Make) -> None:
    summary = Summary()
    summary.add(make_result(answered=False))
    assert summary.latency()["total"]["p50"] is None
    assert summary.to_json()["fresh_share"] == 0


def test_only_the_newest_latencies_are_kept(make_result: Make) -> None:
    summary = Summary(window=3)
    for milliseconds in (900, 800, 1, 2, 3):
        summary.add(replace(make_result(), timings=Timings(total=milliseconds / 1000)))
    assert summary.latency()["total"]["p50"] == 2.0
    assert summary.answered == 5  # counts are of the whole run


def test_an_answer_without_an_output_is_none(make_result: Make) -> None:
    summary = Summary()
    summary.add(replace(make_result(answered=False), status="ok"))
    assert (summary.produced, summary.answered) == (1, 0)
    assert summary.to_json()["mean_slice_share"] == 0


def test_who_answered_and_how_long_there_was_no_result(make_result: Make) -> None:
    summary = Summary()
    assert summary.to_json()["longest_gap_s"] == 0
    for completed, mode in ((1.0, "split"), (1.5, "split"), (1.25, "split"), (2.25, "local")):
        summary.add(replace(make_result(), completed=completed, mode=mode))
    assert summary.to_json()["frames_by_mode"] == {"local": 1, "split": 3}
    assert summary.to_json()["longest_gap_s"] == 1.0
    summary.add(replace(make_result(answered=False), completed=4.0, mode="none"))
    assert summary.to_json()["longest_gap_s"] == 1.75  # and counting
    assert summary.to_json()["frames_by_mode"] == {"local": 1, "split": 3}
