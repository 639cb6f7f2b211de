from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from pipeline.demo import KilledEdge, edge_process, run_demo
from splitrtc_errors import BadArgument, ProcessFailed, SinkError, SourceError

pytestmark = pytest.mark.e2e

WAIT = 60.0
PNG = b"\x89PNG\r\n\x1a\n"


def test_the_demo_leaves_what_it_promises(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "deep" / "out"
    summary = run_demo("testsrc", 1.0, out, "rtt=20")
    assert {path.name for path in out.iterdir()} == {"demo.mp4", "demo.jsonl", "demo.json", "latency.png"}
    assert json.loads((out / "demo.json").read_text(encoding="utf-8")) == summary
    assert summary["frames_answered"] > 0
    assert summary["link"]["up"]["delivered_bytes"] > 0
    lines = [json.loads(line) for line in (out / "demo.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == summary["frames_produced"]
    with av.open(str(out / "demo.mp4")) as container:
        pictures = sum(1 for _ in container.decode(video=0))
    assert pictures == summary["sinks"][str(out / "demo.mp4")]["written"]
    assert (out / "latency.png").read_bytes().startswith(PNG)
    assert "Traceback" not in capfd.readouterr().err


def test_the_demo_goes_on_without_its_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("pipeline.demo.AWAY_SECONDS", 0.5)
    monkeypatch.setattr("pipeline.demo.BACK_SECONDS", 3.0)
    summary = run_demo("testsrc", None, tmp_path, kill_edge=1.0)
    assert (tmp_path / "modes.png").read_bytes().startswith(PNG)
    assert json.loads((tmp_path / "demo.json").read_text(encoding="utf-8")) == summary
    first, second, *_ = [change["mode"] for change in summary["mode_changes"]]
    assert first == "split"
    assert second in ("local", "none")  # none until a machine that does much else has loaded the model
    assert "fallback_gap_s" in summary


def test_an_edge_that_is_to_be_killed_may_have_to_end_before() -> None:
    with KilledEdge(60.0, lambda: True) as edge, urllib.request.urlopen(_health(edge.url), timeout=10) as response:
        assert response.status == 200
    assert edge.killed is None
    with KilledEdge(0.0, lambda: False) as edge:
        pass
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(_health(edge.url), timeout=10)


def _health(url: str) -> str:
    return url.replace("ws", "http", 1) + "/healthz"


def children(process: subprocess.Popen[bytes]) -> list[Path]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    return [Path("/proc", number) for number in listed.split()]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_however_the_demo_is_ended_both_processes_end(tmp_path: Path, number: signal.Signals) -> None:
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "splitrtc", "demo", "--source", "testsrc", "--out", str(tmp_path), "--json"]
    lines = tmp_path / "demo.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as demo:
        started: list[Path] = []
        try:
            wait_for(lambda: lines.exists() and lines.stat().st_size > 0)
            started = children(demo)
            assert len(started) == 2
            if number == signal.SIGINT:
                os.killpg(demo.pid, number)  # as a terminal does it
                output, _ = demo.communicate(timeout=WAIT)
                assert demo.returncode == 0
                assert json.loads(output)["frames_answered"] > 0
                with av.open(str(tmp_path / "demo.mp4")) as container:
                    assert sum(1 for _ in container.decode(video=0)) > 0
            else:
                demo.send_signal(number)
                demo.communicate(timeout=WAIT)
                assert demo.returncode == 128 + number
            assert not any(process.exists() for process in started)
        finally:
            demo.kill()
            for process in started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)


def test_a_ue_that_fails_is_the_demos_failure_with_its_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProcessFailed) as failed:
        run_demo(str(tmp_path / "no such.mp4"), None, tmp_path)
    assert failed.value.exit_code == SourceError.exit_code
    assert "no such.mp4" in capfd.readouterr().err


def test_a_link_that_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="loss=1"):
        run_demo("clip", None, tmp_path / "out", "loss=1")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot make the folder"):
        run_demo("clip", None, tmp_path / "file" / "out")


def test_an_edge_that_does_not_start_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProcessFailed, match="the edge did not start") as failed, edge_process("--max-sessions", "0"):
        pass
    assert failed.value.exit_code == 2
    assert "max-sessions" in capfd.readouterr().err


def test_the_edge_ends_with_the_block() -> None:
    with edge_process() as url:
        with urllib.request.urlopen(_health(url), timeout=10) as response:
            assert response.status == 200
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(_health(url), timeout=10)
