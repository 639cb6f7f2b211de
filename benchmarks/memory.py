"""Growth of memory over many frames, at the UE and at the edge.

A UE process sends pictures of the bundled clip as fast as the pair of processes goes: at any time two frames are
under way. Both processes are looked at when the warm-up is over, a number of times on the way, and at the end; growth
is the difference between the end and the end of the warm-up, in MB (10^6 bytes), of the resident memory (RSS) and of
what the process does not share with others (USS).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.progress import Progress

from benchmarks.common import Figure, Option, clip_images, edge_process, memory_of, run_benchmark
from pipeline.cli.common import run_async
from pipeline.settings import UeSettings
from pipeline.ue import UeSession

FIGURES = (
    Figure("frames after the warm-up", "frames"),
    Figure("UE, growth of RSS", "ue.rss_growth_mb", "MB"),
    Figure("edge, growth of RSS", "edge.rss_growth_mb", "MB"),
    Figure("UE, growth of USS", "ue.uss_growth_mb", "MB"),
    Figure("edge, growth of USS", "edge.uss_growth_mb", "MB"),
    Figure("UE, RSS at the end", "ue.rss_mb", "MB"),
    Figure("edge, RSS at the end", "edge.rss_mb", "MB"),
    Figure("rate", "frames_per_second", "per second"),
    Figure("answered", "answered_share"),
)
PICTURES = 30
"""Pictures of the clip that are held, and sent over and over."""
UNDER_WAY = 2
"""One at the device and one at the edge: more would replace each other."""
SAMPLES = 20


async def play(url: str, warm_up: int, frames: int, step: int) -> None:
    """The UE: after the warm-up and each ``step`` frames more, write how many have ended and how many were answered."""
    pictures = clip_images(PICTURES)
    places = asyncio.Semaphore(UNDER_WAY)

    async def feed() -> AsyncIterator[Any]:
        for picture in itertools.islice(itertools.cycle(pictures), warm_up + frames):
            await places.acquire()
            yield picture

    ended = answered = 0
    async with UeSession(UeSettings(url)) as session:
        async for result in session.run(feed(), every=True):
            places.release()
            ended += 1
            answered += result.answered
            beyond = ended - warm_up
            if beyond >= 0 and (beyond % step == 0 or beyond == frames):
                print(ended, answered, flush=True)
                await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)  # until it has been seen


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    total = options.warm_up + options.frames
    step = max(options.frames // SAMPLES, 1)
    samples: dict[str, list[dict[str, float]]] = {"ue": [], "edge": []}
    answered = 0
    with edge_process() as edge:
        command = [sys.executable, __file__, "play", edge.url, *map(str, (options.warm_up, options.frames, step))]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ue:
            assert ue.stdin is not None
            assert ue.stdout is not None
            task = progress.add_task("memory", total=total)
            times = []
            for line in ue.stdout:
                ended, answered = map(int, line.split())
                progress.update(task, completed=ended)
                times.append(time.monotonic())
                for name, pid in (("ue", ue.pid), ("edge", edge.pid)):
                    rss, uss = memory_of(pid)
                    look = {"frames": ended - options.warm_up, "rss_mb": round(rss, 2), "uss_mb": round(uss, 2)}
                    samples[name].append(look)
                ue.stdin.write("\n")
                ue.stdin.flush()
        if ue.returncode:
            raise SystemExit("the UE of the benchmark failed")
    return {
        "frames": options.frames,
        "frames_per_second": round(options.frames / (times[-1] - times[0]), 1),
        "answered_share": round(answered / total, 4),
        **{name: growth(looks) for name, looks in samples.items()},
        "samples": samples,
    }


def growth(samples: list[dict[str, float]]) -> dict[str, float]:
    """How much a process held at the end, and how much more that was than at the first look."""
    first, last = samples[0], samples[-1]
    return {
        "rss_mb": last["rss_mb"],
        "uss_mb": last["uss_mb"],
        "rss_growth_mb": round(last["rss_mb"] - first["rss_mb"], 2),
        "uss_growth_mb": round(last["uss_mb"] - first["uss_mb"], 2),
    }


def main() -> None:
    """Run it from the command line; the UE is a process of its own."""
    match sys.argv[1:]:
        case ["play", url, *numbers]:
            run_async(play(url, *map(int, numbers)))
        case _:
            run_benchmark(
                __file__,
                __doc__ or "",
                FIGURES,
                measure,
                Option("--frames", 20_000, "frames to send after the warm-up"),
                Option("--warm-up", 500, "frames to send before the first look"),
            )


if __name__ == "__main__":
    main()
