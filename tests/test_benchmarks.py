"""Each benchmark runs and prints its figures; how good these are is not for tests to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import Figure, medians, pick

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *arguments, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)  # one object and nothing else
    assert isinstance(value, dict)
    return value


def test_latency() -> None:
    result = run("benchmarks/latency.py", "--runs", "1", "--seconds", "0.5")
    assert 0 < result["overhead_ms"]["p50"] <= result["overhead_ms"]["p95"]
    assert 0 <= result["fresh_share"] <= result["answered_share"] <= 1
    assert result["bytes_per_frame"] > 1000
    assert result["transport"]["sent_bytes_per_frame"] > result["transport"]["unit_bytes_per_frame"]
    assert 0 < result["transport_overhead_share"] < 0.5


def test_device_cpu() -> None:
    result = run("-m", "benchmarks.device_cpu", "--runs", "1", "--seconds", "0.5")
    assert result["cpu_ratio"] > 0
    stages = result["split"]["breakdown_ms"]
    assert set(stages) == {"capture", "preprocess", "head", "encode", "transport"}
    assert sum(stages.values()) == pytest.approx(result["split"]["cpu_ms_per_frame"], abs=0.01)


def test_memory() -> None:
    result = run("benchmarks/memory.py", "--frames", "40", "--warm-up", "10")
    assert result["frames"] == 40
    for side in ("ue", "edge"):
        assert result[side]["rss_mb"] > result[side]["uss_mb"] > 10
        looks = result["samples"][side]
        assert [looks[0]["frames"], looks[-1]["frames"]] == [0, 40]
        growth = looks[-1]["rss_mb"] - looks[0]["rss_mb"]
        assert result[side]["rss_growth_mb"] == pytest.approx(growth, abs=0.01)


def test_sessions() -> None:
    result = run("-m", "benchmarks.sessions", "--start", "1", "--max", "1", "--seconds", "0.3")
    assert result["sessions"] in {0, 1}
    look = result["looks"][0]
    assert look["sessions"] == 1
    assert 0 <= look["share_in_time"] <= look["answered_share"] <= 1
    assert look["tail_ms"]["p50"] > 0


def test_startup() -> None:
    result = run("benchmarks/startup.py", "--runs", "1")
    assert 0 < result["first_result_s"] <= result["first_detection_s"]
    assert all(seconds > 0 for seconds in result["breakdown_s"].values())


def test_an_unknown_benchmark_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "speed"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "speed" in done.stderr


def test_median_of_every_number() -> None:
    runs = [{"a": 1, "b": {"c": 1.0, "d": None}, "e": "x"}, {"a": 3, "b": {"c": 9.0, "d": None}, "e": "x"}]
    result = medians([*runs, {"a": 100, "b": {"c": 2.0, "d": None}, "e": "x"}])
    assert result == {"a": 3, "b": {"c": 2.0, "d": None}, "e": "x"}
    assert pick(result, Figure("", "b.c").path) == 2.0
