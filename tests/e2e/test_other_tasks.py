"""A model that detects nothing, through the command line: two processes, a card, and no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("link", ["rtt=10", "rtt=10,loss=5%,seed=1"])
def test_tensors_come_back_over_a_link(start_edge: Any, run_ue: Any, scene: Path, tmp_path: Path, link: str) -> None:
    lines, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    model = ("--models", str(scene), "--model", "scene")
    with start_edge(*model) as edge:
        sinks = ("--sink", str(lines), "--sink", str(video))
        flags = ("--source", "testsrc", "--seconds", "1", "--timeout", "30", "--link", link)
        code, summary, errors = run_ue(edge.url, *model, *flags, *sinks)
        assert (code, "Traceback" in errors) == (0, False), errors
        edge_code, edge_summary, edge_errors = edge.terminate()
    assert (edge_code, "Traceback" in edge_errors) == (0, False), edge_errors
    assert (summary["model"], summary["detections"]) == ("scene", 0)
    assert summary["answered_share"] >= 0.2
    assert edge_summary["ok"] >= summary["outcomes"].get("ok", 0)
    frames = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    answered = [frame["tensors"] for frame in frames if frame["status"] in ("ok", "incomplete")]
    assert len(answered) == summary["frames_answered"]
    assert [tensor["shape"] for tensor in answered[0]] == [[1, 3, 64, 64], [1, 1, 8, 8], []]
    assert all(frame["tensors"] is None for frame in frames if frame["status"] not in ("ok", "incomplete"))
    assert ("incomplete" in summary["outcomes"]) >= ("loss" in link)
    assert video.stat().st_size > 0
