"""Start of a UE: from starting the process ``splitrtc ue`` to the first detection on its standard output.

The edge runs and the model's parts are in the cache. Medians over the runs. The breakdown comes from another process
that takes the same steps through the library: starting Python and importing what the command needs, connecting
(signalling, ICE, DTLS, SCTP and the parameter set, while the head loads in another thread), and the way of the first
frame; loading the head is also measured alone, afterwards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.progress import Progress

from benchmarks.common import Figure, Option, edge_process, medians, run_benchmark, run_json, stop

FIGURES = (
    Figure("start to first detection", "first_detection_s", "s"),
    Figure("start to first result", "first_result_s", "s"),
    Figure("- Python and imports", "breakdown_s.imports", "s"),
    Figure("- connect, load beside it", "breakdown_s.connect", "s"),
    Figure("- first frame", "breakdown_s.first_frame", "s"),
    Figure("loading the head alone", "load_s", "s"),
)


def start_ue(url: str) -> dict[str, Any]:
    """Start a UE, read its lines until there is a detection, end it."""
    command = ["-m", "splitrtc", "ue", "--edge", url, "--mode", "split", "--source", "clip", "--sink", "-"]
    started = time.monotonic()
    first_result = None
    with subprocess.Popen(
        [sys.executable, *command, "--log-level", "error"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as ue:  # fmt: skip
        assert ue.stdout is not None
        try:
            for line in ue.stdout:
                found = json.loads(line)["detections"]
                if found is not None and first_result is None:
                    first_result = time.monotonic() - started
                if found:
                    return {"first_result_s": first_result, "first_detection_s": time.monotonic() - started}
        finally:
            stop(ue)
    raise SystemExit("the UE found nothing in the clip")


def take_steps(url: str, spawned: float) -> dict[str, Any]:
    """In a process of its own, which was started at ``spawned`` (seconds of the monotonic clock)."""
    import pipeline.cli.ue
    import pipeline.live  # noqa: F401
    from models import PartitionStore, load_submodel
    from pipeline.cli.common import run_async
    from pipeline.settings import UeSettings
    from pipeline.ue import UeSession

    async def play() -> tuple[float, float, float]:
        async with UeSession(UeSettings(url)) as session:
            connected = time.monotonic()
            async with session.run("clip") as run:
                await anext(run)
            answered = time.monotonic()
            point = session.point
        begun = time.monotonic()
        partition = PartitionStore().get(point.card, point.cut.tensors)
        load_submodel(partition.head_path).warm_up()
        return connected - imported, answered - connected, time.monotonic() - begun

    imported = time.monotonic()
    connect, first_frame, load = run_async(play())
    return {
        "breakdown_s": {
            "imports": imported - spawned,
            "connect": connect,
            "first_frame": first_frame,
        },
        "load_s": load,
    }


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    with edge_process() as edge:
        start_ue(edge.url)  # the cache, and the files in memory
        runs = [
            {**start_ue(edge.url), **run_json(__file__, "steps", edge.url, str(time.monotonic()))}
            for _ in progress.track(range(options.runs), description="start")
        ]
    return {
        "runs": len(runs),
        **medians(runs),
        "first_detection_s_of_runs": [round(run["first_detection_s"], 3) for run in runs],
    }


def main() -> None:
    """Run it from the command line."""
    match sys.argv[1:]:
        case ["steps", url, spawned]:
            print(json.dumps(take_steps(url, float(spawned))))
        case _:
            run_benchmark(
                __file__, __doc__ or "", FIGURES, measure, Option("--runs", 5, "starts to take the median of")
            )


if __name__ == "__main__":
    main()
