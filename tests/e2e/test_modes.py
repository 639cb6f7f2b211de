"""An edge that is killed while a UE streams: the device answers by itself until the edge is back."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

STREAM = ("--mode", "auto", "--source", "testsrc", "--fps", "15", "--budget", "2")
LONGEST_GAP = 3.0
"""Seconds between two results that a machine which does much else may take; without the device's own model it would
take more than 2 s until the edge counts as lost, and then the time until it is back."""


class Results:
    """The JSON lines that a UE writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def frames(self) -> list[dict[str, Any]]:
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def answered(self, mode: str) -> int:
        return sum(frame["mode"] == mode and frame["status"] == "ok" for frame in self.frames)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "out.jsonl")


def more(results: Results, mode: str, until: Any, count: int = 3) -> None:
    """Wait for further results of a mode."""
    enough = results.answered(mode) + count
    until(lambda: results.answered(mode) >= enough)


def end(ue: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """End a UE as Ctrl+C does; returns the changes of its mode, and its summary."""
    ue.send_signal(signal.SIGINT)
    written, errors = ue.communicate(timeout=60)
    assert ue.returncode == 0, errors
    assert "Traceback" not in errors
    *changes, summary = map(json.loads, written.splitlines())
    return changes, summary


def check(summary: dict[str, Any], results: Results, report: Any) -> None:
    assert sum(summary["outcomes"].values()) == summary["frames_produced"]
    unwritten = summary["sinks"][str(results.path)]["dropped"]
    assert len({frame["index"] for frame in results.frames}) == summary["frames_produced"] - unwritten
    report(f"longest gap between results {summary['longest_gap_s']:.2f} s")
    assert summary["longest_gap_s"] < LONGEST_GAP


def assert_alternating(changes: list[dict[str, Any]], kills: int) -> None:
    """There and back, at least once for each kill: a machine that does much else may make an edge look silent, too."""
    modes = [change["mode"] for change in changes]
    assert modes == [("split", "local")[place % 2] for place in range(len(modes))]
    assert modes.count("local") >= kills


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Any:
    def show(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", flush=True)

    return show


def test_an_edge_is_killed_and_comes_back(
    start_edge: Any, start_ue: Any, until: Any, results: Results, unused_tcp_port: int, report: Any
) -> None:
    listen = ("--listen", f"127.0.0.1:{unused_tcp_port}")
    flags = (*STREAM, "--sink", str(results.path))
    with start_ue(f"ws://127.0.0.1:{unused_tcp_port}", *flags) as ue:
        more(results, "local", until)  # it comes before the edge, and does not wait for it
        with start_edge(*listen) as edge:
            more(results, "split", until)
            edge.process.kill()
        killed = time.monotonic()
        more(results, "local", until)
        report(f"the device's own results {time.monotonic() - killed:.2f} s after the kill")
        with start_edge(*listen):
            ready = time.monotonic()
            more(results, "split", until)
            report(f"split again {time.monotonic() - ready:.2f} s after the edge was ready")
            changes, summary = end(ue)
    assert_alternating(changes, 1)
    assert changes[-1]["mode"] == "split"
    assert all(set(change) == {"event", "mode", "point", "reason", "time"} for change in changes)
    assert changes[1]["reason"].startswith("no result for ")
    assert summary["mode"] == "split"
    check(summary, results, report)


@pytest.mark.soak
def test_twenty_kills_in_a_run(
    start_edge: Any, start_ue: Any, until: Any, results: Results, unused_tcp_port: int, report: Any
) -> None:
    listen, holds = ("--listen", f"127.0.0.1:{unused_tcp_port}"), []
    flags = (*STREAM, "--sink", str(results.path))
    with start_ue(f"ws://127.0.0.1:{unused_tcp_port}", *flags) as ue:
        more(results, "local", until)
        for _ in range(20):
            with start_edge(*listen) as edge:
                more(results, "split", until)
                edge.process.kill()
            more(results, "local", until)
            holds.append(len(list(Path(f"/proc/{ue.pid}/fd").iterdir())))
        changes, summary = end(ue)
    assert_alternating(changes, 20)
    assert summary["reconnects"] == 19
    assert max(holds[10:]) <= max(holds[:10]) + 2  # nothing is left behind by what was lost
    check(summary, results, report)
