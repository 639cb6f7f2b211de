"""The `remote` mode on links that lose packets: are results matched to the right frames, and what does it send?

Numbers are drawn into the pictures and a model at the edge reads them. The first packets of the video are always lost.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.progress import Progress

from benchmarks.common import Figure, Option, run_benchmark
from benchmarks.frame_numbers import camera, number_found, number_in, watched_link, write_reader
from pipeline.edge import Edge
from pipeline.outcome import FrameResult
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession

FIRST_LOST = 4
"""Packets of the video's beginning that are lost."""

FIGURES = (
    Figure("frames answered", "answered"),
    Figure("of them matched to the right capture", "matched_share"),
    Figure("frames lost", "lost_share"),
    Figure("bytes of a frame", "bytes_per_frame", "bytes"),
)


async def play(folder: Path, link: str, frames: int, fps: float) -> list[FrameResult]:
    """One session; what became of each frame."""
    settings = EdgeSettings("127.0.0.1:0", workers=1, model=("reader",), models=(folder,))
    with watched_link(lose=FIRST_LOST):
        async with Edge(settings) as edge:
            wanted = UeSettings(edge.url, model="reader", models=(folder,), mode="remote", link=link, budget=2.0)
            async with UeSession(wanted) as session:
                return [result async for result in session.run(camera(frames, fps), every=True)]


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    results: list[FrameResult] = []
    with tempfile.TemporaryDirectory() as folder:
        reader = Path(folder, "reader")
        write_reader(reader)
        for seed in progress.track(range(options.runs), description="remote"):
            link = f"{options.link},seed={seed}"
            results += asyncio.run(play(reader, link, options.frames, options.fps))
    answered = [result for result in results if result.answered]
    sent = [result for result in results if result.bytes_sent]
    return {
        "link": options.link,
        "first_packets_lost": FIRST_LOST,
        "runs": options.runs,
        "frames": len(results),
        "answered": len(answered),
        "matched_share": sum(number_found(r) == number_in(r.frame.image) for r in answered) / max(len(answered), 1),
        "lost_share": round(sum(result.status == "lost" for result in results) / len(results), 4),
        "bytes_per_frame": round(sum(result.bytes_sent for result in sent) / max(len(sent), 1), 1),
    }


def main() -> None:
    """Run it from the command line."""
    run_benchmark(
        __file__,
        __doc__ or "",
        FIGURES,
        measure,
        Option("--runs", 5, "sessions, each with its own losses"),
        Option("--frames", 600, "frames of a session"),
        Option("--fps", 30.0, "frames per second"),
        Option("--link", "rtt=40,loss=1%", "the emulated link"),
    )


if __name__ == "__main__":
    main()
