"""CPU time of the device per frame: split, over the whole model locally. Both play the bundled clip at its 30 fps.

Counted is the CPU time of the whole process, all its threads, user and system, from the start of the stream to its
end; start-up, connecting and loading models are left out. Split: reading and decoding the clip, preprocessing, head,
encoding, transport (SCTP, DTLS, ICE, UDP in the process and its system calls), results and session. Local: the same
reading and decoding, the same preprocessing, the whole model with the same thread settings, post-processing. Each is
divided by the frames that it processed. The two run one after the other, in pairs; medians over the pairs. The edge,
which shares the machine, is a process of its own and not counted.

The breakdown of a split frame is the CPU time of the process's threads: the event loop's is transport, results and
session; the worker's is divided among preprocessing, head and encoding as their median times are; what remains
belongs to the capture.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.progress import Progress

from benchmarks.common import Figure, Option, edge_process, medians, play_for, run_benchmark, run_json
from models import Detector, Preprocessor, Zoo, load_submodel
from pipeline.capture import Capture
from pipeline.cli.common import run_async
from pipeline.settings import UeSettings
from pipeline.sources import open_source
from pipeline.ue import UeSession

FIGURES = (
    Figure("split over local", "cpu_ratio"),
    Figure("split", "split.cpu_ms_per_frame", "ms per frame"),
    Figure("- capture", "split.breakdown_ms.capture", "ms per frame"),
    Figure("- preprocessing", "split.breakdown_ms.preprocess", "ms per frame"),
    Figure("- head", "split.breakdown_ms.head", "ms per frame"),
    Figure("- encoding", "split.breakdown_ms.encode", "ms per frame"),
    Figure("- transport, results, session", "split.breakdown_ms.transport", "ms per frame"),
    Figure("local", "local.cpu_ms_per_frame", "ms per frame"),
)
WORKER = ("preprocess", "head", "encode")
"""The stages that the worker thread runs."""


async def play_split(url: str, seconds: float) -> dict[str, Any]:
    """The clip through a session; CPU time per frame, in all and by thread."""
    async with UeSession(UeSettings(url)) as session:
        before = thread_seconds()
        started = time.process_time()
        run = session.run("clip")
        summary = await play_for(run, seconds)
        used = time.process_time() - started
        threads = {name: now - before[name] for name, now in thread_seconds().items() if name in before}
        frames = summary.frames_sent
        per_frame = 1e3 / max(frames, 1)
        worker = sum(seconds for name, seconds in threads.items() if name.startswith("head"))
        medians_ms = {stage: summary.latency()[stage]["p50"] or 0.0 for stage in WORKER}
        share = worker / max(sum(medians_ms.values()), 1e-9)
        breakdown = {
            "capture": used - sum(threads.values()),
            **{stage: share * value for stage, value in medians_ms.items()},
            "transport": sum(threads.values()) - worker,
        }
        return {
            "frames_produced": summary.produced,
            "frames": frames,
            "cpu_ms_per_frame": round(used * per_frame, 3),
            "breakdown_ms": {stage: round(value * per_frame, 3) for stage, value in breakdown.items()},
        }


def thread_seconds() -> dict[str, float]:
    """CPU time of this process's Python threads, by name."""
    return {
        thread.name: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.ident is not None
    }


def play_local(seconds: float) -> dict[str, Any]:
    """The clip through the whole model in this process."""
    card = Zoo().get()
    preprocessor, detector = Preprocessor(card), Detector(card)
    settings = UeSettings("localhost")  # the defaults of a session: threads, provider
    model = load_submodel(card.verified_path(), provider=settings.provider, threads=settings.threads)
    model.warm_up()
    started = time.process_time()
    end = time.monotonic() + seconds
    frames = 0
    with Capture(open_source("clip")) as capture:
        while time.monotonic() < end and (frame := capture.get()) is not None:
            found = detector.decode(model.run([preprocessor.prepare(frame.image)]))
            preprocessor.undo(found.xyxy, (frame.width, frame.height))
            frames += 1
    used = time.process_time() - started
    produced = capture.produced
    return {
        "frames_produced": produced,
        "frames": frames,
        "cpu_ms_per_frame": round(used * 1e3 / max(frames, 1), 3),
    }


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    pairs = []
    with edge_process() as edge:
        for _ in progress.track(range(options.runs), description="device CPU"):
            split = run_json(__file__, "split", str(options.seconds), edge.url)
            local = run_json(__file__, "local", str(options.seconds))
            pairs.append(
                {"split": split, "local": local, "cpu_ratio": split["cpu_ms_per_frame"] / local["cpu_ms_per_frame"]}
            )
    return {
        "runs": len(pairs),
        **medians(pairs),
        "cpu_ratio_of_runs": [round(pair["cpu_ratio"], 4) for pair in pairs],
    }


def main() -> None:
    """Run it from the command line; the two sides are processes of their own."""
    match sys.argv[1:]:
        case ["split", seconds, url]:
            print(json.dumps(run_async(play_split(url, float(seconds)))))
        case ["local", seconds]:
            print(json.dumps(play_local(float(seconds))))
        case _:
            run_benchmark(
                __file__,
                __doc__ or "",
                FIGURES,
                measure,
                Option("--runs", 3, "pairs to take the median of"),
                Option("--seconds", 60.0, "longest time of a run; the clip has ten"),
            )


if __name__ == "__main__":
    main()
