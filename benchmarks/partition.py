"""Partitions: the time to make one, and the memory to cut a model whose weights are in other files.

The partition is one of a ResNet-50 with 20 MB of random weights: from its file to the files of head and tail, with
their digests, in a process that has loaded onnx; medians over the runs. The check, which a partition's first use adds
once, loads and runs the whole and both parts. Memory is measured in a process of its own, on 3 GB of weights in a
sparse file: the most that is resident, less what was before the model's file was read.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.progress import Progress

from benchmarks.architectures import external, resnet
from benchmarks.common import Figure, Option, memory_of, run_benchmark, run_json
from models.graph import Model, after, find_inputs, split, verify
from models.identity import file_digest

FIGURES = (
    Figure("one partition of a 20 MB model", "partition_20mb_s", "s"),
    Figure("- of it CPU time, which other processes do not lengthen", "partition_20mb_cpu_s", "s"),
    Figure("its check, once", "check_20mb_s", "s"),
    Figure("memory to cut 3 GB of weights", "external_3gb_mb", "MB"),
)

WIDTH = 29
"""Of the ResNet: 20 MB."""

MIDDLE = "Relu_77"


def measure(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {**partition(folder, chosen.runs, progress), "external_3gb_mb": memory(folder, progress)}


def partition(folder: Path, runs: int, progress: Progress) -> dict[str, Any]:
    """Seconds to make one partition, and to check it."""
    path = folder / "resnet.onnx"
    path.write_bytes(resnet(width=WIDTH).SerializeToString())
    times, cpu = [], []
    for _ in progress.track(range(runs + 1), description="partition"):
        start, start_cpu = time.perf_counter(), time.process_time()
        file_digest(path)
        model = Model.load(path)
        cut = after(model.graph, MIDDLE)
        for part, file in zip(split(model, [cut]), (folder / "head.onnx", folder / "tail.onnx"), strict=True):
            part.write(file)
            file_digest(file)
        times.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    inputs = find_inputs(model)
    start = time.perf_counter()
    assert verify(model, [cut], inputs).exact
    return {
        "model_mb": round(path.stat().st_size / 1e6, 1),
        "partition_20mb_s": round(statistics.median(times[1:]), 4),  # without the first, which imports
        "partition_20mb_cpu_s": round(statistics.median(cpu[1:]), 4),
        "check_20mb_s": round(time.perf_counter() - start, 4),
    }


def memory(folder: Path, progress: Progress) -> float:
    """Megabytes that cutting takes, in a process of its own."""
    task = progress.add_task("memory", total=None)
    external(folder / "big.onnx", gigabytes=3.0)
    found: float = run_json(__file__, "--cut", folder / "big.onnx")["mb"]
    progress.remove_task(task)
    return found


def cut_in_this_process(path: Path) -> dict[str, float]:
    """Cut a model into two files beside it; megabytes that were resident at most meanwhile, more than before."""
    before = memory_of(os.getpid()).rss
    model = Model.load(path)
    parts = split(model, [after(model.graph, "Relu_7")])
    for part, name in zip(parts, ("big-head.onnx", "big-tail.onnx"), strict=True):
        part.write(path.with_name(name))
    # Not getrusage's, which begins with what the parent process had.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    most = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    return {"mb": round(most - before, 1)}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cut"]:
        print(json.dumps(cut_in_this_process(Path(sys.argv[2]))))
    else:
        run_benchmark(__file__, __doc__, FIGURES, measure, Option("--runs", 7, "partitions that are made"))
