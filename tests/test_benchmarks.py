"""Each benchmark runs and prints its figures; how good these are is not for tests to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import Figure, medians, pick
from benchmarks.link import Limits, Played, f1, step_of
from benchmarks.prediction import FITTED, PARTS, SETTINGS, Setting, error_of, prediction_error, summary_of
from benchmarks.rates import ladder_of, with_ladder
from benchmarks.slice_loss import Redundant
from benchmarks.transport import LOSSY
from models import ModelCard, Zoo
from pipeline.offers import points

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
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


@pytest.mark.soak
def test_device_cpu() -> None:
    result = run("-m", "benchmarks.device_cpu", "--runs", "1", "--seconds", "0.5")
    assert result["cpu_ratio"] > 0
    stages = result["split"]["breakdown_ms"]
    assert set(stages) == {"capture", "preprocess", "head", "encode", "transport"}
    assert sum(stages.values()) == pytest.approx(result["split"]["cpu_ms_per_frame"], abs=0.01)


@pytest.mark.soak
def test_memory() -> None:
    result = run("benchmarks/memory.py", "--frames", "40", "--warm-up", "10")
    assert result["frames"] == 40
    for side in ("ue", "edge"):
        assert result[side]["rss_mb"] > result[side]["uss_mb"] > 10
        looks = result["samples"][side]
        assert [looks[0]["frames"], looks[-1]["frames"]] == [0, 40]
        growth = looks[-1]["rss_mb"] - looks[0]["rss_mb"]
        assert result[side]["rss_growth_mb"] == pytest.approx(growth, abs=0.01)


def test_remote() -> None:
    result = run("benchmarks/remote.py", "--runs", "1", "--frames", "30", "--fps", "60")
    assert result["frames"] == 30
    assert 0 < result["answered"] <= 30
    assert result["matched_share"] == 1.0
    assert result["bytes_per_frame"] > 10


def test_prediction() -> None:
    parts = dict.fromkeys(PARTS, 1.0)
    low, high = (
        {"predicted": parts | {"total": total}, "measured": dict.fromkeys(PARTS, 2.0) | {"total": 20.0}}
        for total in (15.0, 30.0)
    )
    rows = [{**row, "error_percent": error_of(**row)} for row in (low, high, low)]
    result = summary_of(rows)
    assert [row["error_percent"] for row in rows] == [-25, 50, -25]
    assert (result["error_percent"], result["worst_percent"]) == (25, 50)
    assert set(result["parts_ms"].values()) == {1.0}
    assert not set(SETTINGS) & set(FITTED)


@pytest.mark.soak
async def test_one_setting_is_predicted_and_measured() -> None:
    setting = Setting(1, "bottleneck_12", "q8", None, fps=10.0)
    result = await prediction_error(1.0, [setting])
    (row,) = result["settings"]
    assert row["cut"] == "bottleneck_12"
    for found in (row["predicted"], row["measured"]):
        assert found["total"] > found["head"] > 0
        assert found["tail"] > 0


def test_codec() -> None:
    result = run("benchmarks/codec.py", "--frames", "12")
    assert result["frames"] == 12
    assert 500 < result["whole_bytes_per_frame"] <= result["bytes_per_frame"]
    assert result["units_per_frame"] >= 1
    assert min(result["encode_ms"], result["decode_ms"]) > 0


@pytest.mark.soak
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


@pytest.mark.parametrize("parts", ["clip,payload", pytest.param("clip,payload,cpu,step", marks=pytest.mark.soak)])
def test_link(parts: str) -> None:
    flags = ("--rtt", "20", "--rate", "0", "--runs", "1", "--seconds", "0.6", "--parts", parts)
    result = run("benchmarks/link.py", *flags)
    for figures in (result, result["plain"]):
        assert 0 <= figures["fresh_share"] <= figures["answered_share"] <= 1
        assert 0 <= figures["mean_slice_share"] <= 1
        assert 0 < figures["f1"] <= 1
        assert figures["bytes_per_frame"] > 1000
        assert figures["link_bytes_per_frame"] > 1000
        assert 0 < figures["overhead_ms"]["p50"] <= figures["overhead_ms"]["p95"]
        assert 0 <= figures["payload"]["fresh_share"] <= figures["payload"]["answered_share"] <= 1
        if "step" in parts:
            assert figures["rate_step"]["highest_age_ms"] > 0
        else:
            assert figures["rate_step"] is None
        if "cpu" in parts:
            assert figures["transport_cpu_ms"]["ue"] > 0
            assert figures["transport_cpu_ms"]["edge"] > 0
        else:
            assert figures["transport_cpu_ms"] is None


@pytest.mark.soak
def test_transport() -> None:
    result = run("benchmarks/transport.py", "--seconds", "4", "--seeds", "1")
    for kind in ("ours", "plain"):
        for case in LOSSY:
            figures = result[kind][case]
            assert 0 <= figures["whole"][0] <= figures["in_time"][1] <= 1
        for step in result[kind]["step"].values():
            assert 0 <= step["fresh_again_s"] <= 4
            assert step["highest_age_ms"] > 0
        for narrow in result[kind]["narrow"].values():
            assert narrow["queue_ms"]["standing"] <= narrow["queue_ms"]["p50"] <= narrow["queue_ms"]["p95"]
            assert 0 < narrow["kbps_alone"] < 1_000
            assert 0 < narrow["kbps_shared"] + narrow["kbps_rival"] < 1_000


@pytest.mark.soak
def test_split_engine() -> None:
    result = run("benchmarks/split_engine.py", "--runs", "1", "--cuts", "1", "--model-runs", "1", "--partitions", "1")
    assert 19 < result["model_mb"] < 21
    assert result["partition_20mb_s"] > 0
    assert result["check_20mb_s"] > 0
    assert result["external_3gb_mb"] < 300
    for figure in ("densenet_all_cuts_s", "graph20k_all_cuts_s", "min_cut_5k_s"):
        assert 0 < result[figure] < 60
    assert result["prediction"]["cuts"] == 3
    assert set(result["prediction"]["by_model_percent"]) == {"ssdlite", "resnet", "densenet"}


def test_f1_counts_each_detection_once() -> None:
    box = {"class": 1, "score": 0.9, "box": [0.0, 0.0, 10.0, 10.0]}
    near, far = {**box, "box": [1.0, 0.0, 11.0, 10.0]}, {**box, "box": [50.0, 0.0, 60.0, 10.0]}
    wanted = {"detections": [box, far]}
    assert f1([({"detections": [box, far]}, wanted)]) == 1.0
    assert f1([({"detections": [near, box, {**far, "class": 2}]}, wanted)]) == pytest.approx(2 / 5, abs=1e-4)
    assert f1([({"detections": []}, {"detections": []})]) is None


def test_the_rate_step_is_read_from_the_results() -> None:
    def frame(captured: float, took: float) -> dict[str, Any]:
        times = {"total": took * 1e3, "head": 0.0, "encode": 0.0, "decode": 0.0, "tail": 0.0}
        return {"captured": captured, "timings_ms": times, "detections": [], "share_received": 1.0, "bytes_sent": 5000}

    # The rate falls at 4 s and comes back at 7 s; 40 ms are fresh there, and so is one frame at 4.2 s, by chance.
    slow = [frame(4.0 + 0.1 * number, 0.04 if number == 2 else 0.5) for number in range(10)]
    fast = [frame(5.0 + 0.1 * number, 0.04) for number in range(30)]
    run = Played([frame(3.9, 0.04), *slow, *fast], 0.0, 0)
    again, age, share = step_of(run, 10.0, Limits(0.0, 1e6))
    assert again == pytest.approx(1.34)  # from then on nine of ten are
    assert age == pytest.approx(500.0, abs=101)
    assert share == 1.0


def test_slice_loss() -> None:
    clip = str(next((ROOT / "pipeline" / "clip").glob("*.mp4")))
    flags = ("--segments", "0:4", "--seeds", "2", "--losses", "0.5/2", "--profiles", "q4-zstd")
    result = run("-m", "benchmarks.slice_loss", "--data", clip, *flags)
    clean, lossy = result["rows"]
    assert (clean["loss"], clean["lost"], lossy["loss"], lossy["burst"]) == (0, 0, 0.5, 2)
    assert clean["f1"] == pytest.approx(lossy["f1"] + lossy["lost"], abs=2e-4)
    assert clean["bytes"] == lossy["bytes"]  # every frame is coded by itself


def test_one_loss_in_each_group_is_made_good() -> None:
    two = Redundant("", "", "split", points(Zoo(), profile="raw")[0], parity=2)
    assert two.sizes([b"1234", b"12", b"123"]) == [4, 2, 3, 4 + 2, 2 + 2]  # groups of slices 0 and 2, and 1
    assert two.received([False, False, True, True, True], 3) == [True, True, True]
    assert two.received([False, True, False, True, True], 3) == [False, True, False]
    assert two.received([True, False, True, True, False], 3) == [True, False, True]
    assert two.received([False, True], 1) == [True]


def test_rates_without_a_set_are_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.rates", "--write"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "name --static, --moving or --images" in done.stderr


def test_a_ladder_is_what_the_reports_say() -> None:
    split = {"kind": "split", "bytes_per_frame": 500.5, "encode_ms": 4, "decode_ms": 1}
    on_clip = {**split, "f1": 0.96, "ci": [0.94, 0.98]}
    on_images = {**split, "map_drop": 0.2, "ci": [-0.4, 0.7], "agreement": 0.97, "agreement_ci": [0.95, 0.99]}
    picture = {**on_clip, "name": "h264 crf24 input", "kind": "picture"}
    reports = {
        "static": {"set": "a.mp4", "frames": 300, "contenders": [{**on_clip, "name": "q8"}, picture]},
        "intra": {"set": "b", "frames": 79, "contenders": [{**on_images, "name": name} for name in ("q8", "klt")]},
    }
    both, one = ladder_of(reports)
    assert (both.profile, [found.content for found in both.measured]) == ("q8", ["static", "intra"])
    assert both.measured[0].set == "a.mp4, 300 frames"
    assert (both.measured[0].f1, both.measured[0].map_drop) == (0.96, None)
    assert (both.measured[1].f1_ci, both.measured[1].map_drop_ci) == ((0.95, 0.99), (-0.4, 0.7))
    assert (one.profile, len(one.measured)) == ("klt", 1)


def test_a_ladder_changes_nothing_else_on_a_card() -> None:
    card = Zoo().get()
    assert card.directory is not None
    text = (card.directory / "card.json").read_text(encoding="utf-8")
    cut = card.partition()
    assert with_ladder(text, cut.name, cut.ladder) == text
    shorter = ModelCard.from_json(json.loads(with_ladder(text, cut.name, cut.ladder[:2])))
    assert shorter.partition().ladder == cut.ladder[:2]
    assert (shorter.labels, shorter.partitions[1:]) == (card.labels, card.partitions[1:])


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


def test_join() -> None:
    result = run("benchmarks/join.py", "--parts", "drain", "--ues", "2", "--seconds", "0.4")
    assert (result["cold_first_result_s"], result["fallback_gap_s"], result["prediction_error"]) == (None, None, None)
    assert result["drain"]["ues"] == 2
    assert result["drain"]["lost"] >= 0
    assert result["drain"]["gap_ms"] >= 0
    assert result["drain"]["frames"]["ok"] > 0
