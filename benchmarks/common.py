"""What the benchmarks share: processes, what they use of the machine, medians, and how figures are printed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    import numpy as np

    from pipeline.run import Run
    from pipeline.summary import Summary

__all__ = [
    "PROFILE",
    "Edge",
    "Figure",
    "Memory",
    "Option",
    "clip_images",
    "cpu_seconds",
    "edge_process",
    "machine",
    "medians",
    "memory_of",
    "pick",
    "play_for",
    "print_table",
    "run_benchmark",
    "run_json",
]

ROOT = Path(__file__).resolve().parent.parent
PROFILE = "q4-zstd"
"""How intermediate data is coded where the link is measured: frames of 9 kB and nine units, each coded by itself.

Elsewhere it is the default."""
EDGE_START_SECONDS = 60.0
"""Until the edge must be ready: the first time it cuts the model and checks the parts."""
STOP_SECONDS = 10.0
_TICK = os.sysconf("SC_CLK_TCK")

Measure = Callable[[argparse.Namespace, Progress], dict[str, Any]]


class Figure(NamedTuple):
    """A figure worth a line in the table: ``path`` leads to it, as in ``overhead_ms.p50``."""

    label: str
    path: str
    unit: str = ""


class Option(NamedTuple):
    """A flag with a default, whose type it shares."""

    flag: str
    default: int | float | str
    help: str


class Edge(NamedTuple):
    """An edge process that is ready."""

    url: str
    pid: int


class Memory(NamedTuple):
    """What a process holds, in MB (10^6 bytes): all that is resident, and what of it belongs to it alone."""

    rss: float
    uss: float


# Processes


@contextlib.contextmanager
def edge_process(*flags: str, program: str = "splitrtc") -> Iterator[Edge]:
    """``splitrtc edge`` on a free port of loopback, ended at the end; ``program`` is the module that is run."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready.json")
        command = [sys.executable, "-m", program, "edge", "--listen", "127.0.0.1:0", "--ready-file", str(ready)]
        command += ["--log-level", "error", *flags]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=ROOT)
        try:
            deadline = time.monotonic() + EDGE_START_SECONDS
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the edge did not start")
                time.sleep(0.02)
            yield Edge(json.loads(ready.read_text(encoding="utf-8"))["url"], process.pid)
        finally:
            stop(process)


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process as a user would; kill it if that does not help."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_json(*arguments: str | Path) -> dict[str, Any]:
    """Run Python with these arguments; returns the JSON object that it prints. What it says on stderr is its error."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise SystemExit(f"a process of the benchmark failed:\n{done.stderr[-2000:]}")
    value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return value


async def play_for(run: Run, seconds: float) -> Summary:
    """Let a run go on to its source's end, for so many seconds at most; returns its summary."""
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []
    limit = loop.call_later(seconds, lambda: stopping.append(loop.create_task(run.stop())))
    try:
        return await run.wait()
    finally:
        limit.cancel()
        await asyncio.gather(*stopping)


def clip_images(count: int) -> list[np.ndarray]:
    """The first pictures of the bundled clip, BGR, uint8."""
    from pipeline.sources import open_source

    source = open_source("clip")
    source.open()
    try:
        pictures = [source.read() for _ in range(count)]
    finally:
        source.close()
    return [picture.image for picture in pictures if picture is not None]


# What processes use


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all threads, user and system, in seconds (steps of a clock tick, 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def memory_of(pid: int) -> Memory:
    """The memory that a process holds now."""
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]:
        name, size, *_ = line.split()
        sizes[name] = int(size) * 1024
    return Memory(sizes["Rss:"] / 1e6, (sizes["Private_Clean:"] + sizes["Private_Dirty:"]) / 1e6)


def machine() -> dict[str, Any]:
    """The cores, and how busy they were already: figures of a busy machine are noisy."""
    return {"cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 2)}


# Figures


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The median of every number in objects of the same structure; of other values, the first one's."""
    result: dict[str, Any] = {}
    for name, first in runs[0].items():
        values = [run[name] for run in runs]
        if isinstance(first, Mapping):
            result[name] = medians(values)
        elif all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            result[name] = round(statistics.median(values), 4)
        else:
            result[name] = first
    return result


def pick(result: Mapping[str, Any], path: str) -> Any:
    """The value at a path such as ``overhead_ms.p50``."""
    value: Any = result
    for name in path.split("."):
        value = value[name]
    return value


def print_table(results: Mapping[str, tuple[Sequence[Figure], Mapping[str, Any]]]) -> None:
    """Print the figures of some benchmarks on stdout."""
    table = Table("benchmark", "figure", "value")
    for benchmark, (figures, result) in results.items():
        for number, figure in enumerate(figures):
            value = pick(result, figure.path)
            text = "-" if value is None else f"{value:g}" if isinstance(value, (int, float)) else str(value)
            table.add_row("" if number else benchmark, figure.label, f"{text} {figure.unit}".rstrip())
        table.add_section()
    Console().print(table)


def run_benchmark(module: str, doc: str, figures: Sequence[Figure], measure: Measure, *options: Option) -> None:
    """The command line of one benchmark: a table, or with ``--json`` one object on stdout; progress on stderr."""
    name = Path(module).stem
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for option in options:
        parser.add_argument(
            option.flag, type=type(option.default), default=option.default, help=f"{option.help} (%(default)s)"
        )
    chosen = parser.parse_args()
    before = machine()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        result = {"benchmark": name, **measure(chosen, progress), "machine": before}
    if chosen.json:
        print(json.dumps(result, allow_nan=False))
    else:
        print_table({name: (figures, result)})
