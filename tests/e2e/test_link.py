"""A UE and an edge as two processes with an emulated link between them: sessions survive, every frame has an end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitrtc_errors import ConnectionLost

pytestmark = pytest.mark.e2e


def check(summary: dict[str, Any], lines: Path) -> list[dict[str, Any]]:
    """What holds on any link; returns the frames."""
    for way in ("up", "down"):
        assert summary["link"][way]["delivered_bytes"] > 1000
    assert summary["link"]["up"]["offered_bytes"] >= summary["bytes_per_frame"] * summary["frames_answered"]
    frames = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    # Every frame that the source produced ended once.
    unwritten = summary["sinks"][str(lines)]["dropped"]  # a machine that does much else writes slowly
    assert len({frame["index"] for frame in frames}) == len(frames) == summary["frames_produced"] - unwritten
    assert sum(summary["outcomes"].values()) == summary["frames_produced"]
    return frames


@pytest.mark.parametrize(
    ("link", "least"),
    [
        ("rtt=40", 0.5),
        ("rtt=40,loss=1%,rate=8M", 0.4),
        ("rtt=40,loss=5%,rate=8M", 0.2),
        pytest.param("rtt=40,loss=20%,burst=4", 0.03, marks=pytest.mark.soak),
        ("rtt=20,jitter=5,reorder=5%,duplicate=5%,corrupt=2%", 0.2),
    ],
)
def test_a_session_on_a_bad_link(start_edge: Any, run_ue: Any, tmp_path: Path, link: str, least: float) -> None:
    lines = tmp_path / "out.jsonl"
    with start_edge() as edge:
        flags = ("--source", "testsrc", "--seconds", "1", "--sink", str(lines), "--timeout", "30")
        code, summary, errors = run_ue(edge.url, *flags, "--link", f"{link},seed=1")
        assert (code, "Traceback" in errors) == (0, False), errors
        edge_code, edge_summary, edge_errors = edge.terminate()
    check(summary, lines)
    assert summary["answered_share"] >= least
    assert (edge_code, "Traceback" in edge_errors) == (0, False), edge_errors
    # The edge answered at least what the UE heard of.
    assert edge_summary["ok"] >= summary["outcomes"].get("ok", 0)
    lost = summary["link"]["up"]["lost"] + summary["link"]["down"]["lost"]
    assert (lost > 0) == ("loss" in link)


@pytest.mark.parametrize("profile", ["klt:step=1", "avc"])
def test_prediction_survives_a_bad_link(start_edge: Any, run_ue: Any, tmp_path: Path, profile: str) -> None:
    lines = tmp_path / "out.jsonl"
    with start_edge("--accept", profile) as edge:
        flags = ("--source", "clip", "--seconds", "2", "--sink", str(lines), "--timeout", "30")
        link = ("--profile", profile, "--link", "rtt=40,loss=5%,reorder=2%,seed=1")
        code, summary, errors = run_ue(edge.url, *flags, *link)
        assert (code, "Traceback" in errors) == (0, False), errors
        edge_code, _, edge_errors = edge.terminate()
    check(summary, lines)
    assert summary["profile"] == profile
    assert summary["answered_share"] >= 0.2
    assert (edge_code, "Traceback" in edge_errors) == (0, False), edge_errors


def test_a_link_that_cannot_be_meant_is_refused_at_once(run_ue: Any) -> None:
    code, summary, errors = run_ue("ws://127.0.0.1:1", "--link", "rtt=40,speed=5M")
    assert (code, summary) == (2, {})
    assert "speed=5M" in errors


@pytest.mark.soak
def test_an_outage_of_half_a_minute_ends_the_session_with_a_word(start_edge: Any, run_ue: Any, until: Any) -> None:
    with start_edge() as edge:
        code, summary, errors = run_ue(edge.url, "--source", "testsrc", "--link", "rtt=20,outage=3-33")
        assert (code, summary) == (ConnectionLost.exit_code, {})
        assert "nothing heard from the peer" in errors or "the edge closed the session" in errors  # who notices first
        until(lambda: edge.sessions == 0)
        assert edge.terminate()[0] == 0


@pytest.mark.soak
def test_a_short_outage_costs_its_frames_alone(start_edge: Any, run_ue: Any, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    with start_edge() as edge:
        flags = ("--source", "testsrc", "--seconds", "8", "--sink", str(lines))
        code, summary, errors = run_ue(edge.url, *flags, "--link", "rtt=40,outage=3-4")
        assert code == 0, errors
    frames = check(summary, lines)
    after = [frame for frame in frames if frame["captured"] > summary["link"]["started"] + 6]
    assert after
    assert any(frame["detections"] is not None for frame in after)


@pytest.mark.soak
def test_the_rate_falls_and_comes_back(start_edge: Any, run_ue: Any, tmp_path: Path) -> None:
    lines, trace = tmp_path / "out.jsonl", tmp_path / "trace"
    trace.write_text("4 rate=1M\n8 rate=8M\n", encoding="utf-8")
    with start_edge() as edge:
        flags = ("--source", "clip", "--loop", "--seconds", "12", "--sink", str(lines))
        code, summary, errors = run_ue(edge.url, *flags, "--link", f"rtt=40,rate=8M,trace={trace}")
        assert code == 0, errors
    frames = check(summary, lines)
    began = summary["link"]["started"]

    def answered(start: float, end: float) -> float:
        some = [frame for frame in frames if start <= frame["captured"] - began < end]
        return sum(frame["detections"] is not None for frame in some) / len(some)

    # How many is what benchmarks/link.py tells.
    assert answered(4.5, 7.5) > 0
    assert answered(9.5, 11.5) > 0
