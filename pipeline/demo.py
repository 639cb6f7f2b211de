"""``splitrtc demo``: an edge process and a UE process on this machine, and what they leave to look at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models import parse_profile
from models.cache import CACHE_VARIABLE as CACHE
from pipeline.plot import plot_latency, read_lines, require_matplotlib
from rtc import parse_link
from splitrtc_errors import ProcessFailed, SinkError

__all__ = ["edge_process", "run_demo"]

EDGE_START_SECONDS = 60.0
"""Until the edge must be ready: the first time it cuts the model and checks the parts."""
EDGE_STOP_SECONDS = 10.0


@contextlib.contextmanager
def edge_process(*flags: str) -> Iterator[str]:
    """An edge in a process of its own on a free port of loopback; gives its URL, ends it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready.json")
        command = [sys.executable, "-m", "splitrtc", "edge", "--listen", "127.0.0.1:0", "--ready-file", str(ready)]
        # In a group of its own: Ctrl+C is for the UE, which still needs the edge to come to its end.
        edge = subprocess.Popen(
            [*command, "--log-level", "warning", *flags], stdin=subprocess.DEVNULL, env=_environment(), process_group=0
        )
        try:
            deadline = time.monotonic() + EDGE_START_SECONDS
            while not ready.exists():
                if edge.poll() is not None:
                    raise ProcessFailed("the edge did not start", edge.returncode)
                if time.monotonic() > deadline:
                    raise ProcessFailed(f"the edge was not ready within {EDGE_START_SECONDS:g} s")
                time.sleep(0.02)
            yield json.loads(ready.read_text(encoding="utf-8"))["url"]
        finally:
            edge.send_signal(signal.SIGTERM)
            try:
                edge.wait(EDGE_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                edge.kill()
                edge.wait()


def _environment() -> dict[str, str]:
    """This process's environment without the flags of splitrtc in it.

    One that is meant for the demo (``SPLITRTC_JSON``) or for another edge (``SPLITRTC_SELF_SIGNED``) would reach both
    processes.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("SPLITRTC_") or name == CACHE}


def _run_ue(command: Sequence[str]) -> bytes:
    """Run the UE to its end, which the first Ctrl+C brings about there, not here; returns what it wrote to stdout."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=_environment()) as ue:
        try:
            try:
                written, _ = ue.communicate()
            except KeyboardInterrupt:
                written, _ = ue.communicate()
        except BaseException:
            ue.kill()
            raise
    if ue.returncode:
        raise ProcessFailed("the UE did not come to its end", ue.returncode)
    return written


@contextlib.contextmanager
def _tidy_on(*signals: signal.Signals) -> Iterator[None]:
    """Let signals that would end this process at once, and leave the two others behind, end it the orderly way."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_demo(
    source: str,
    seconds: float | None,
    out: Path,
    link: str | None = None,
    *,
    profile: str | None = None,
    model: str | None = None,
    models: Sequence[Path] = (),
) -> dict[str, Any]:
    """Play a source through both processes; leaves demo.mp4, demo.jsonl, demo.json and latency.png in ``out``.

    ``link`` puts an emulated link between them, and ``profile`` codes what crosses it, as for `UeSettings`; ``model``
    (whose file is here) is run in place of the bundled one, ``models`` are further folders of cards and files. Returns
    the summary, which is also demo.json. Raises BadArgument, ProcessFailed, SinkError or MissingDependency. To be
    called in the main thread, because it handles signals.
    """
    if link is not None:
        parse_link(link)
    if profile is not None:
        parse_profile(profile)
    require_matplotlib()  # rather now than after the run
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"cannot make the folder {out}: {error.strerror}") from error
    lines = out / "demo.jsonl"
    of_models = [word for folder in models for word in ("--models", str(folder))]
    of_models += [] if model is None else ["--model", model]
    accept = [] if profile is None else ["--accept", profile]
    with _tidy_on(signal.SIGTERM, signal.SIGHUP), edge_process(*of_models, *accept) as url:
        command = [sys.executable, "-m", "splitrtc", "ue", "--edge", url, "--source", source, "--json"]
        command += ["--sink", str(out / "demo.mp4"), "--sink", str(lines), "--log-level", "warning"]
        command += of_models
        if seconds is not None:
            command += ["--seconds", str(seconds)]
        if profile is not None:
            command += ["--profile", profile]
        if link is not None:
            command += ["--link", link]
        summary: dict[str, Any] = json.loads(_run_ue(command))
    (out / "demo.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    plot_latency(read_lines(lines), summary["latency_ms"], out / "latency.png")
    return summary
