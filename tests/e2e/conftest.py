"""An edge and UEs as processes of their own, on loopback, through the command line."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

WAIT = 60.0
"""Seconds after which a test gives up waiting for another process."""

SPLITRTC = (sys.executable, "-m", "splitrtc")

JUMPING_CLOCKS = """
import signal, sys, time
monotonic, wall, jumps = time.monotonic, time.time, {signal.SIGUSR1: 0.0, signal.SIGUSR2: 0.0}
time.monotonic = lambda: monotonic() + jumps[signal.SIGUSR1]
time.time = lambda: wall() + jumps[signal.SIGUSR2]
def jump(number, _):
    jumps[number] += 3600.0
    if number == signal.SIGUSR2:
        jumps[number] *= -1.0  # forward, back, forward by twice as much
for number in jumps:
    signal.signal(number, jump)
from pipeline.cli import main
main()
"""
"""splitrtc with clocks that jump by an hour: the monotonic one at SIGUSR1, the wall clock at SIGUSR2."""


def until(condition: Callable[[], bool]) -> float:
    """Wait for what another process does; returns how long it took, in seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < WAIT, "it never came true"
        time.sleep(0.005)
    return time.monotonic() - began


class EdgeProcess:
    """A running ``splitrtc edge``."""

    def __init__(self, process: subprocess.Popen[str], ready_file: Path) -> None:
        self.process = process
        self.ready_file = ready_file
        told = json.loads(ready_file.read_text(encoding="utf-8"))
        self.url: str = told["url"]
        self.fingerprint: str | None = told["fingerprint"]
        assert told["pid"] == process.pid

    @property
    def sessions(self) -> int:
        """As the edge itself says."""
        with urllib.request.urlopen(self.url.replace("ws", "http", 1) + "/readyz", timeout=WAIT) as response:
            sessions: int = json.load(response)["sessions"]
        return sessions

    @property
    def holds(self) -> dict[str, int]:
        """How many descriptors and threads the process has, and its resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return {
            "files": len(list(Path(f"/proc/{self.process.pid}/fd").iterdir())),
            "threads": int(fields["Threads"]),
            "memory": int(fields["VmRSS"].split()[0]) // 1024,
        }

    def terminate(self) -> tuple[int, dict[str, Any], str]:
        """SIGTERM; returns the exit code, the summary and what was written to stderr."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self) -> tuple[int, dict[str, Any], str]:
        """Wait for the end; returns the exit code, the summary ({} without one) and what was written to stderr."""
        written, errors = self.process.communicate(timeout=WAIT)
        return self.process.returncode, json.loads(written) if written else {}, errors


StartEdge = Callable[..., contextlib.AbstractContextManager[EdgeProcess]]


@pytest.fixture
def start_edge(tmp_path: Path) -> StartEdge:
    @contextlib.contextmanager
    def start(*flags: str, program: Sequence[str] = SPLITRTC) -> Iterator[EdgeProcess]:
        ready = tmp_path / "ready.json"
        ready.unlink(missing_ok=True)  # one that was killed leaves it behind
        command = [*program, "edge", "--listen", "127.0.0.1:0", "--ready-file", str(ready), "--json", *flags]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            until(lambda: ready.exists() or process.poll() is not None)
            assert process.poll() is None, process.communicate()[1]
            yield EdgeProcess(process, ready)
        finally:
            process.kill()
            process.communicate()

    return start


@pytest.fixture
def start_ue() -> Callable[..., contextlib.AbstractContextManager[subprocess.Popen[str]]]:
    @contextlib.contextmanager
    def start(url: str, *flags: str, program: Sequence[str] = SPLITRTC) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            # Not auto, which is the default: most tests here want to see what becomes of the session with the edge.
            [*program, "ue", "--edge", url, "--json", "--mode", "split", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    return start


@pytest.fixture
def run_ue(start_ue: Any) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """A function that runs ``splitrtc ue`` to its end: exit code, summary ({} without one), stderr."""

    def run(url: str, *flags: str, within: float = WAIT) -> tuple[int, dict[str, Any], str]:
        with start_ue(url, *flags) as process:
            written, errors = process.communicate(timeout=within)
        # Before the summary there is a line for each change of the mode.
        summaries = [value for value in map(json.loads, written.splitlines()) if "event" not in value]
        return process.returncode, summaries[0] if summaries else {}, errors

    return run


@pytest.fixture(name="until")
def _until() -> Callable[[Callable[[], bool]], float]:
    return until


@pytest.fixture
def jumping() -> tuple[str, ...]:
    """The program whose clocks jump."""
    return (sys.executable, "-c", JUMPING_CLOCKS)
