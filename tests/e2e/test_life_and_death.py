"""Processes that are killed, stopped and started again: who is dead, who comes back, and when."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitrtc_errors import ConnectionLost

pytestmark = pytest.mark.e2e

STREAM = ("--source", "testsrc", "--fps", "15", "--budget", "2")
PLACES = {"link", "network", "slot", "device", "sender", "sender deadline", "edge"}
"""Where a frame may be dropped when nothing is wrong with the frame itself."""
NOTICED = 3.0
"""Seconds after which a silent peer's slot must be free (docs/protocol.md, section 3.3, and some time for the rest)."""


class Results:
    """The JSON lines that a UE writes."""

    def __init__(self, path: Path, *stream: str) -> None:
        self.path = path
        self.flags = (*(stream or STREAM), "--sink", str(path))

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    @property
    def answered(self) -> int:
        """How many frames have been answered so far."""
        if not self.path.exists():
            return 0
        return self.path.read_text(encoding="utf-8").count('"status": "ok"')

    def go_on(self, until: Callable[[Callable[[], bool]], float]) -> float:
        """Wait until further frames are answered; returns the seconds that took."""
        before = self.answered
        return until(lambda: self.answered > before)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "out.jsonl")


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """A function that shows what was measured."""

    def show(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", flush=True)

    return show


def end(ue: Any) -> dict[str, Any]:
    """End a UE as Ctrl+C does; returns its summary."""
    ue.send_signal(signal.SIGINT)
    written, errors = ue.communicate(timeout=60)
    assert ue.returncode == 0, errors
    assert "Traceback" not in errors
    summary: dict[str, Any] = json.loads(written.splitlines()[-1])
    return summary


def test_an_edge_is_killed_and_started_again(
    start_edge: Any, start_ue: Any, until: Any, results: Results, unused_tcp_port: int, report: Any
) -> None:
    listen = ("--listen", f"127.0.0.1:{unused_tcp_port}")
    url = f"ws://127.0.0.1:{unused_tcp_port}"
    with start_ue(url, *results.flags, "--reconnect") as ue:  # it comes before the edge
        with start_edge(*listen) as edge:
            results.go_on(until)
            edge.process.kill()
            edge.process.wait()
        killed = time.monotonic()
        with start_edge(*listen) as edge:
            ready = time.monotonic()
            results.go_on(until)
            now = time.monotonic()
            report(f"results {now - killed:.2f} s after the kill, {now - ready:.2f} s after the edge was ready again")
            assert edge.sessions == 1
            summary = end(ue)
            _, edge_summary, _ = edge.terminate()
    assert summary["reconnects"] == 1
    assert summary["disconnected"] is None
    assert 0 < summary["disconnected_s"] < now - killed
    # Only frames in between are lost, and every one is accounted for.
    assert summary["frames_produced"] == sum(summary["outcomes"].values())
    assert set(summary["dropped_at"]) <= PLACES
    assert summary["dropped_at"]["link"] > 0
    assert edge_summary["sessions_served"] == 1


def test_without_reconnect_a_killed_edge_is_one_clear_error(
    start_edge: Any, start_ue: Any, until: Any, results: Results
) -> None:
    with start_edge() as edge, start_ue(edge.url, *results.flags) as ue:
        results.go_on(until)
        edge.process.kill()
        assert until(lambda: ue.poll() is not None) < NOTICED + 2.0  # the process has to end, too
        written, errors = ue.communicate(timeout=60)
    assert ue.returncode == ConnectionLost.exit_code
    assert [json.loads(line)["mode"] for line in written.splitlines()] == ["none"]  # and no summary
    (line,) = [line for line in errors.splitlines() if line.startswith("splitrtc: ")]
    assert "nothing heard from the peer for 2 s" in line
    assert "Traceback" not in errors


def test_a_stopped_edge_gets_its_ue_back_in_its_old_place(
    start_edge: Any, start_ue: Any, until: Any, results: Results, report: Any
) -> None:
    with start_edge("--max-sessions", "1") as edge, start_ue(edge.url, *results.flags, "--reconnect") as ue:
        results.go_on(until)
        edge.process.send_signal(signal.SIGSTOP)
        silent = results.path.stat().st_size
        until(lambda: '"dropped_at": "link"' in results.path.read_text(encoding="utf-8")[silent:])
        edge.process.send_signal(signal.SIGCONT)
        seconds = results.go_on(until)
        report(f"results {seconds:.2f} s after the edge went on")
        assert edge.sessions == 1
        assert end(ue)["reconnects"] >= 1
        _, summary, _ = edge.terminate()
        # Its old session, which the edge itself could not have missed yet, was in nobody's way.
        assert summary.get("sessions_refused", 0) == 0


def test_a_stopped_ue_frees_its_slot_and_comes_back(
    start_edge: Any, start_ue: Any, until: Any, results: Results, report: Any
) -> None:
    with start_edge("--max-sessions", "1") as edge, start_ue(edge.url, *results.flags, "--reconnect") as ue:
        results.go_on(until)
        ue.send_signal(signal.SIGSTOP)
        freed = until(lambda: edge.sessions == 0)
        ue.send_signal(signal.SIGCONT)
        back = results.go_on(until)
        report(f"slot free after {freed:.2f} s, results {back:.2f} s after the UE went on")
        assert freed < NOTICED
        assert end(ue)["reconnects"] == 1


def check_books(summary: dict[str, Any], results: Results) -> None:
    """Every frame that the source produced ended once, and what was lost was lost for want of a connection."""
    indices = {frame["index"] for frame in results.frames}
    unwritten = summary["sinks"][str(results.path)]["dropped"]  # a machine that does much else writes slowly
    assert len(indices) == len(results.frames) == summary["frames_produced"] - unwritten
    assert sum(summary["outcomes"].values()) == summary["frames_produced"]
    assert set(summary["dropped_at"]) <= PLACES


@pytest.mark.soak
@pytest.mark.parametrize("who", ["edge", "ue"])
def test_ten_seconds_of_standing_still(
    start_edge: Any, start_ue: Any, until: Any, results: Results, report: Any, who: str
) -> None:
    with start_edge("--max-sessions", "1") as edge, start_ue(edge.url, *results.flags, "--reconnect") as ue:
        results.go_on(until)
        stopped = edge.process if who == "edge" else ue
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(10)
        stopped.send_signal(signal.SIGCONT)
        enough = results.answered + 50  # more than what is still under way from before
        report(f"50 results within {until(lambda: results.answered > enough):.2f} s after the {who} went on")
        summary = end(ue)
        _, edge_summary, edge_errors = edge.terminate()
    assert summary["reconnects"] == 1
    check_books(summary, results)
    assert "Traceback" not in edge_errors
    assert edge_summary.get("sessions_refused", 0) == 0


@pytest.mark.soak
@pytest.mark.parametrize("who", ["edge", "ue"])
def test_ten_seconds_of_standing_still_end_a_session_without_reconnect(
    start_edge: Any, start_ue: Any, until: Any, results: Results, who: str
) -> None:
    with start_edge() as edge, start_ue(edge.url, *results.flags) as ue:
        results.go_on(until)
        stopped = edge.process if who == "edge" else ue
        stopped.send_signal(signal.SIGSTOP)
        if who == "ue":
            assert until(lambda: edge.sessions == 0) < NOTICED
        else:
            assert until(lambda: ue.poll() is not None) < NOTICED + 2.0
        time.sleep(8)
        stopped.send_signal(signal.SIGCONT)
        assert until(lambda: edge.sessions == 0) < NOTICED
        written, errors = ue.communicate(timeout=60)
        assert ue.returncode == ConnectionLost.exit_code
        assert all(json.loads(line).get("event") == "mode" for line in written.splitlines())  # and no summary
        assert len([line for line in errors.splitlines() if line.startswith("splitrtc: ")]) == 1
        assert "Traceback" not in errors
        assert edge.terminate()[0] == 0


@pytest.mark.soak
def test_an_outage_of_half_a_minute_is_outlived(start_edge: Any, run_ue: Any, results: Results, report: Any) -> None:
    with start_edge("--max-sessions", "1") as edge:
        flags = (*results.flags, "--reconnect", "--seconds", "58", "--link", "rtt=20,outage=5-35")
        code, summary, errors = run_ue(edge.url, *flags, within=120.0)
        assert (code, "Traceback" in errors) == (0, False), errors
        assert edge.terminate()[0] == 0
    check_books(summary, results)
    began = summary["link"]["started"]
    answered = [frame["captured"] - began for frame in results.frames if frame["status"] == "ok"]
    assert not [at for at in answered if 5.0 < at < 35.0]
    back = min(at for at in answered if at > 35.0)
    report(f"results {back - 35:.2f} s after the outage, {summary['reconnects']} reconnects")
    assert back < 35.0 + 19.0  # an attempt of 10 s under way, and the longest pause after it
    assert sum(at > back for at in answered) > 10


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("who", ["edge", "ue"])
def test_a_clock_that_jumps_ends_nothing(
    start_edge: Any, start_ue: Any, until: Any, results: Results, jumping: Any, who: str, number: signal.Signals
) -> None:
    edges, ues = ({"program": jumping} if who == name else {} for name in ("edge", "ue"))
    with start_edge(**edges) as edge, start_ue(edge.url, *results.flags, **ues) as ue:
        results.go_on(until)
        for _ in range(3):
            (edge.process if who == "edge" else ue).send_signal(number)
            assert results.go_on(until) < NOTICED
            time.sleep(1)
            results.go_on(until)
        summary = end(ue)
        _, edge_summary, edge_errors = edge.terminate()
    check_books(summary, results)
    assert summary["reconnects"] == 0
    assert edge_summary["sessions_served"] == 1
    assert "Traceback" not in edge_errors


@pytest.mark.soak
def test_an_edge_is_killed_twenty_times(
    start_edge: Any, start_ue: Any, until: Any, results: Results, unused_tcp_port: int, report: Any
) -> None:
    times, held = [], []
    with start_ue(f"ws://127.0.0.1:{unused_tcp_port}", *results.flags, "--reconnect") as ue:
        for _ in range(20):
            with start_edge("--listen", f"127.0.0.1:{unused_tcp_port}") as edge:
                times.append(results.go_on(until))
                held.append(len(list(Path(f"/proc/{ue.pid}/fd").iterdir())))
                edge.process.kill()
                edge.process.wait()
        summary = end(ue)
    report(f"results after {max(times):.2f} s at most, {sorted(times)[10]:.2f} s in the middle; descriptors {held}")
    assert summary["reconnects"] == 19
    assert max(held[10:]) <= max(held[:10]) + 2


@pytest.mark.soak
def test_ues_are_killed_twenty_times(start_edge: Any, start_ue: Any, until: Any, tmp_path: Path, report: Any) -> None:
    times, held = [], []
    with start_edge("--max-sessions", "1") as edge:
        for number in range(20):
            results = Results(tmp_path / f"{number}.jsonl")
            with start_ue(edge.url, *results.flags) as ue:
                results.go_on(until)
                ue.kill()
            times.append(until(lambda: edge.sessions == 0))
            held.append(edge.holds)
        _, summary, _ = edge.terminate()
    report(f"slot free after {max(times):.2f} s at most; {held[0]} became {held[-1]}")
    assert max(times) < NOTICED
    assert summary["sessions_served"] == 20
    assert held[-1]["files"] <= held[4]["files"] + 2
    assert held[-1]["threads"] <= held[4]["threads"]
