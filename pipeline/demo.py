"""``splitrtc demo``: an edge process and a UE process on this machine, and what they leave to look at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from models import parse_profile
from models.cache import CACHE_VARIABLE as CACHE
from pipeline.outage import outage_figures, plot_modes
from pipeline.plot import plot_latency, read_lines, require_matplotlib
from rtc import parse_link
from splitrtc_errors import ProcessFailed, SinkError

__all__ = ["KilledEdge", "edge_process", "run_demo", "start_edge", "stop_edge"]

EDGE_START_SECONDS = 60.0
"""Until the edge must be ready: the first time it cuts the model and checks the parts."""
EDGE_STOP_SECONDS = 10.0
AWAY_SECONDS = 5.0
"""From killing an edge to starting it again."""
BACK_SECONDS = 7.0
"""And from then on, for it to be there, and to be found again."""


@contextlib.contextmanager
def edge_process(*flags: str) -> Iterator[str]:
    """An edge in a process of its own on a free port of loopback; gives its URL, ends it at the end."""
    edge, url = start_edge("127.0.0.1:0", *flags)
    try:
        yield url
    finally:
        stop_edge(edge)


def start_edge(listen: str, *flags: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start an edge and wait until it is ready; returns its process and its URL. Raises ProcessFailed."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready.json")
        command = [sys.executable, "-m", "splitrtc", "edge", "--listen", listen, "--ready-file", str(ready)]
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
            return edge, json.loads(ready.read_text(encoding="utf-8"))["url"]
        except BaseException:
            stop_edge(edge)
            raise


def stop_edge(edge: subprocess.Popen[bytes]) -> None:
    """End an edge in the orderly way, or in the other one when it takes too long."""
    edge.send_signal(signal.SIGTERM)
    try:
        edge.wait(EDGE_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        edge.kill()
        edge.wait()


class KilledEdge:
    """An edge that is killed while it serves, and started again, as a context manager.

    ``killed`` and ``ready``, seconds of the monotonic clock, say when it died and when it was there again; None before.
    """

    def __init__(self, after: float, busy: Callable[[], bool], *flags: str) -> None:
        """Kill it so many seconds ``after`` it was ``busy``, and start it again `AWAY_SECONDS` later."""
        self.killed: float | None = None
        self.ready: float | None = None
        self._after = after
        self._busy = busy
        self._flags = flags
        self._edge, self.url = start_edge("127.0.0.1:0", *flags)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kill edge")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        stop_edge(self._edge)

    def _run(self) -> None:
        while not self._busy():
            if self._stopping.wait(0.02):
                return
        if self._stopping.wait(self._after):
            return
        self._edge.kill()
        self._edge.wait()
        self.killed = time.monotonic()
        if self._stopping.wait(AWAY_SECONDS):
            return
        self._edge, _ = start_edge(self.url.removeprefix("ws://"), *self._flags)
        self.ready = time.monotonic()


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
    kill_edge: float | None = None,
    mode: str = "auto",
) -> dict[str, Any]:
    """Play a source through both processes; leaves demo.mp4, demo.jsonl, demo.json and latency.png in ``out``.

    ``link`` puts an emulated link between them, ``profile`` codes what crosses it, and ``mode`` says who answers the
    frames, as for `UeSettings`; ``model`` (whose file is here) is run in place of the bundled one, ``models`` are
    further folders of cards and files.
    ``kill_edge`` kills the edge so many seconds after the first frames, starts it again, and leaves modes.png, too; a
    file is then played again and again. Returns the summary, which is also demo.json. Raises BadArgument,
    ProcessFailed, SinkError or MissingDependency. To be called in the main thread, because it handles signals.
    """
    if link is not None:
        parse_link(link)
    if profile is not None:
        parse_profile(profile)
    require_matplotlib()  # rather now than after the run
    try:
        out.mkdir(parents=True, exist_ok=True)
        lines = out / "demo.jsonl"
        lines.unlink(missing_ok=True)
    except OSError as error:
        raise SinkError(f"cannot make the folder {out}: {error.strerror}") from error
    flags = [word for folder in models for word in ("--models", str(folder))]
    flags += [] if model is None else ["--model", model]
    accept = [] if profile is None else ["--accept", profile]
    ue = ["--source", source, "--json", "--sink", str(out / "demo.mp4"), "--sink", str(lines), "--log-level", "warning"]
    ue += [
        "--mode",
        mode,
        *flags,
        *(() if profile is None else ("--profile", profile)),
        *(() if link is None else ("--link", link)),
    ]
    if kill_edge is not None:
        seconds = seconds or kill_edge + AWAY_SECONDS + BACK_SECONDS
        ue.append("--loop")
    if seconds is not None:
        ue += ["--seconds", str(seconds)]
    edge: KilledEdge | None = None
    with _tidy_on(signal.SIGTERM, signal.SIGHUP), contextlib.ExitStack() as stack:
        if kill_edge is None:
            url = stack.enter_context(edge_process(*flags, *accept))
        else:
            edge = stack.enter_context(KilledEdge(kill_edge, lambda: _has_content(lines), *flags, *accept))
            url = edge.url
        written = _run_ue([sys.executable, "-m", "splitrtc", "ue", "--edge", url, *ue])
    summary: dict[str, Any] = json.loads(written.splitlines()[-1])  # before it, a line for each change of the mode
    frames = read_lines(lines)
    if edge is not None and edge.killed is not None:
        summary |= outage_figures(frames, edge.killed, edge.ready)
        plot_modes(frames, edge.killed, edge.ready, out / "modes.png")
    (out / "demo.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    plot_latency(frames, summary["latency_ms"], out / "latency.png")
    return summary


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
