"""An edge that is told to stop while processes are there: they go to another one."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from splitrtc_errors import ConnectionLost

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
STREAM = ("--source", "testsrc", "--fps", "5", "--budget", "5")
KEPT = {"ok", "incomplete"}
PASSED_OVER = {"slot", "rate"}
"""Where frames are dropped that nobody has lost: the device, or what was agreed on, had no room for them."""


def frames(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def test_two_ues_go_to_the_other_edge(start_edge: Any, start_ue: Any, until: Any, tmp_path: Path) -> None:
    with start_edge("--drain-time", "15") as first, start_edge() as second, contextlib.ExitStack() as stack:
        lines = [tmp_path / f"{number}.jsonl" for number in range(2)]
        # Where they begin depends on how near the edges seem to be on a busy machine; that is as it should be.
        edges = ("--edge", second.url)
        ues = [stack.enter_context(start_ue(first.url, *edges, *STREAM, "--sink", str(path))) for path in lines]
        until(lambda: all(frames(path) for path in lines))
        until(lambda: first.sessions + second.sessions == 2)
        going, staying = (first, second) if first.sessions else (second, first)
        here, elsewhere = going.sessions, staying.sessions
        code, summary, errors = going.terminate()
        assert (code, summary["sessions_served"]) == (0, here)
        assert "Traceback" not in errors
        assert (staying.sessions, elsewhere + here) == (2, 2)
        before = [len(frames(path)) for path in lines]
        until(lambda: all(len(frames(path)) > count + 3 for path, count in zip(lines, before, strict=True)))
        assert all(ue.poll() is None for ue in ues)
        for path in lines:
            lost = [f for f in frames(path) if f["status"] not in KEPT and f.get("dropped_at") not in PASSED_OVER]
            assert not lost


def test_a_ue_with_one_edge_is_served_until_the_drain_is_over(
    start_edge: Any, start_ue: Any, until: Any, tmp_path: Path
) -> None:
    lines = tmp_path / "out.jsonl"
    with start_edge("--drain-time", "1") as edge, start_ue(edge.url, *STREAM, "--sink", str(lines)) as ue:
        until(lambda: frames(lines))
        began = time.monotonic()
        code, summary, _ = edge.terminate()
        assert time.monotonic() - began >= 1.0
        assert (code, summary["sessions"]) == (0, 0)
        _, errors = ue.communicate(timeout=60)
        assert ue.returncode == ConnectionLost.exit_code
        assert "the edge closes" in errors


@pytest.mark.soak
def test_ten_ues_lose_nothing() -> None:
    command = [sys.executable, "benchmarks/join.py", "--parts", "drain", "--ues", "10", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["drain"]
    assert (result["ues"], result["lost"]) == (10, 0), result
