"""What the decision on the operating point predicts, against what sessions with edge processes measure.

Ten settings of device speed (threads of the head), cut, profile, link and edge (threads of the tail). Predicted is what
`signaling.decide` goes by: from the edge's manifest, which holds what that edge measured when it started, from this
machine's capabilities, and from the rate and round trip of the emulated link. Measured are medians over the frames of
the bundled clip. ``--fit`` runs other settings instead: those from which the constants in `signaling.decision` come.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.common import Figure, Option, edge_process, play_for, run_benchmark
from models import Zoo
from models.cache import CACHE_VARIABLE
from pipeline.announced import fetch_manifest, way_to
from pipeline.capabilities import capabilities
from pipeline.deciding import predicted
from pipeline.offers import points
from pipeline.settings import UeSettings
from pipeline.ue import UeSession
from rtc import parse_link
from signaling import Manifest
from signaling.decision import Link

MEASURE_SECONDS = 90.0
"""Until an edge has measured what it serves, for the first time."""
LOOPBACK = Link(rate=1e9, rtt=0.2)
"""Where there is no emulated link."""
PARTS = {
    "device": ("wait", "preprocess"),
    "head": ("head",),
    "encode": ("encode",),
    "link": ("network",),
    "queue": ("queue",),
    "decode": ("decode",),
    "tail": ("tail", "post"),
}
"""Stages of a frame (`pipeline.summary`) by part of a prediction."""


class Setting(NamedTuple):
    """One session: threads of the head, cut, profile, link, threads of the tail, frames per second."""

    threads: int
    cut: str
    profile: str
    link: str | None
    edge_threads: int = 1
    fps: float | None = None


SETTINGS = (
    Setting(1, "bottleneck_7", "klt:step=0.95", None),
    Setting(1, "bottleneck_12", "q4-zstd", None),
    Setting(2, "bottleneck_7", "q8-zstd", "rtt=20,rate=20M"),
    Setting(1, "bottleneck_7", "klt:step=0.95", "rtt=40,rate=10M"),
    Setting(2, "bottleneck_12", "q8-zstd", "rtt=40,rate=10M"),
    Setting(1, "bottleneck_7", "raw-zstd", None, 2),
    Setting(2, "bottleneck_7", "klt:step=0.95", "rtt=20,rate=20M", 2),
    Setting(1, "bottleneck_12", "q4-zstd", "rtt=20,rate=20M", 2),
    Setting(1, "bottleneck_7", "q4-zstd", "rtt=40,rate=10M", 2),
    Setting(2, "bottleneck_12", "raw-zstd", "rtt=20,rate=20M", 1, 10.0),
)
FITTED = (
    Setting(1, "bottleneck_7", "q4", None),
    Setting(1, "bottleneck_12", "q8", None),
    Setting(1, "bottleneck_7", "raw", None, 1, 15.0),
    Setting(1, "bottleneck_7", "klt-light", "rtt=10,rate=50M"),
    Setting(2, "bottleneck_12", "q8", "rtt=30,rate=15M", 2),
    Setting(1, "bottleneck_12", "raw", "rtt=10,rate=50M", 1, 10.0),
)

FIGURES = (
    Figure("total latency predicted, median error", "error_percent", "%"),
    Figure("the worst of the settings", "worst_percent", "%"),
    *(Figure(f"measured less predicted, median: {part}", f"parts_ms.{part}", "ms") for part in PARTS),
)


async def play(url: str, setting: Setting, seconds: float) -> dict[str, float]:
    """One session at a setting; the medians of the parts of a frame, and of the total, in milliseconds."""
    settings = UeSettings(
        url,
        partition=setting.cut,
        profile=setting.profile,
        threads=setting.threads,
        link=setting.link,
        fps=setting.fps,
        budget=2.0,
    )
    async with UeSession(settings) as session:
        summary = await play_for(session.run("clip"), seconds)
    stages = {name: found["p50"] or 0.0 for name, found in summary.latency().items()}
    return {part: sum(stages[stage] for stage in of) for part, of in PARTS.items()} | {"total": stages["total"]}


@contextlib.contextmanager
def fresh_cache() -> Iterator[None]:
    """A cache folder of its own, for this process and the edges: what they measure is measured now."""
    before = os.environ.get(CACHE_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[CACHE_VARIABLE]
            if before is not None:
                os.environ[CACHE_VARIABLE] = before


async def measured_manifest(url: str) -> Manifest:
    """The manifest of an edge that has measured all it serves."""
    async with asyncio.timeout(MEASURE_SECONDS):
        while True:
            manifest = await asyncio.to_thread(fetch_manifest, *way_to(url))
            cuts = [cut for model in manifest.models for cut in model.partitions if not cut.carries_input]
            if all(cut.tail_ms is not None and cut.profiles[-1].encode_ms is not None for cut in cuts):
                return manifest
            await asyncio.sleep(0.5)


def prediction(manifest: Manifest, setting: Setting) -> dict[str, float]:
    """The same as it is predicted."""
    (point,) = points(Zoo(), partition=setting.cut, profile=setting.profile)
    link = LOOPBACK
    if setting.link is not None:
        way = parse_link(setting.link)
        assert way.rate is not None, "the settings name one"
        link = Link(way.rate, 2e3 * way.delay)
    latency = predicted(manifest, point, capabilities("auto", setting.threads), link, setting.fps or 30.0)
    assert latency is not None, "the edge has measured all of it"
    return latency.to_json()


async def prediction_error(
    seconds: float = 8.0, settings: Sequence[Setting] = SETTINGS, progress: Progress | None = None
) -> dict[str, Any]:
    """Predicted against measured, by setting: the median error of the total in percent, and that of each part in ms."""
    task = None if progress is None else progress.add_task("prediction", total=len(settings))
    rows: dict[Setting, dict[str, Any]] = {}
    for threads in sorted({setting.edge_threads for setting in settings}):
        with fresh_cache(), edge_process("--threads", str(threads)) as edge:
            manifest = await measured_manifest(edge.url)
            for setting in (one for one in settings if one.edge_threads == threads):
                found = {"predicted": prediction(manifest, setting), "measured": await play(edge.url, setting, seconds)}
                rows[setting] = {**setting._asdict(), **found, "error_percent": error_of(**found)}
                if progress is not None and task is not None:
                    progress.advance(task)
    return summary_of([rows[setting] for setting in settings])


def error_of(predicted: dict[str, float], measured: dict[str, float]) -> float:
    """By how much the predicted total is off, in percent of the measured one; below 0 where it is too low."""
    return 100 * (predicted["total"] / measured["total"] - 1)


def summary_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the rows of all settings amount to, and the rows."""
    errors = [abs(row["error_percent"]) for row in rows]
    return {
        "error_percent": statistics.median(errors),
        "worst_percent": max(errors),
        "parts_ms": {
            part: statistics.median(row["measured"][part] - row["predicted"][part] for row in rows) for part in PARTS
        },
        "settings": list(rows),
    }


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """Predicted and measured milliseconds by part, a line for each setting."""
    table = Table("setting", *PARTS, "total", "error", title="milliseconds: predicted / measured")
    for row in rows:
        place = (
            f"{row['cut']} {row['profile']} {row['link'] or 'no link'}, {row['threads']}+{row['edge_threads']} threads"
        )
        cells = [f"{row['predicted'][part]:.1f} / {row['measured'][part]:.1f}" for part in (*PARTS, "total")]
        table.add_row(place, *cells, f"{row['error_percent']:+.0f} %")
    return table


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    result = asyncio.run(prediction_error(options.seconds, FITTED if options.fit else SETTINGS, progress))
    Console(stderr=True).print(table_of(result["settings"]))
    return result


def main() -> None:
    """Run it from the command line."""
    run_benchmark(
        __file__,
        __doc__ or "",
        FIGURES,
        measure,
        Option("--seconds", 8.0, "of a session"),
        Option("--fit", 0, "1: the settings from which the constants come"),
    )


if __name__ == "__main__":
    main()
