"""The split engine: how long it takes to look at every cut, to find the best and to make one; how well it predicts.

Each time is the least of some runs: what else the machine does only adds to it. The partition that is made is one of a
ResNet-50 with 20 MB of random weights: from its file to the files of head and tail, with their digests, in a process
that has loaded onnx. The check, which a partition's first use adds once, loads and runs the whole and both parts.
Memory is measured in a process of its own, on 3 GB of weights in a sparse file: the most that is resident, less what
was before the model's file was read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from onnx import ModelProto
from rich.progress import Progress

from benchmarks.architectures import chain, densenet, external, inception, resnet
from benchmarks.common import Figure, Option, memory_of, run_benchmark, run_json
from models import Zoo
from models.graph import Model, after, split, verify
from models.graph.costs import Costs, costs_of
from models.graph.datapath import DataPath
from models.graph.enumeration import frontier_cuts, frontier_sizes, single_tensor_cuts
from models.graph.mincut import CutCosts, best_cut
from models.graph.running import find_inputs, whole
from models.graph.timing import time_nodes, time_parts
from models.identity import file_digest

FIGURES = (
    Figure("DenseNet-121: analyse, all single-tensor and frontier cuts", "densenet_all_cuts_s", "s"),
    Figure("20 000 nodes: the same", "graph20k_all_cuts_s", "s"),
    Figure("minimum cut of 5 000 nodes, the slowest of several", "min_cut_5k_s", "s"),
    Figure("one partition of a 20 MB model", "partition_20mb_s", "s"),
    Figure("- of it CPU time, which other processes do not lengthen", "partition_20mb_cpu_s", "s"),
    Figure("its check, once", "check_20mb_s", "s"),
    Figure("memory to cut 3 GB of weights", "external_3gb_mb", "MB"),
    Figure("predicted against measured head time, median error", "prediction.median_error_percent", "%"),
    Figure("at how many cuts", "prediction.cuts"),
)

WIDTH = 29
"""Of the ResNet: 20 MB."""

MIDDLE = "Relu_77"

PRICES = (0.001, 0.03, 1.0, 30.0)
"""Of the link against the device: where the best cut lies depends on it, and how long it takes to find."""
SMALLEST_SHARE = 0.05
"""Heads that take less of the whole than this are not compared: a run's own overhead is most of it."""


def least_seconds(runs: int, work: Callable[[], object]) -> float:
    """The shortest of some runs."""
    took = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return min(took)


def all_cuts(proto: ModelProto) -> None:
    """From a loaded file to every cut with its bytes."""
    costs = costs_of(Model(proto))
    single_tensor_cuts(costs.path)
    frontier_sizes(costs.path, costs.sizes)
    for _ in frontier_cuts(costs.path):
        pass


def slowest_minimum_cut(runs: int) -> float:
    """Seconds for graphs of 5 000 nodes: a chain with connections past some nodes, and 128 branches side by side."""
    worst = 0.0
    for proto in (chain(5000), inception(128, 20)):
        path = DataPath.of(Model(proto).graph)
        rng = random.Random(5)
        device = [rng.lognormvariate(0, 1) for _ in path.nodes]
        for price in PRICES:
            wire = {t: price * rng.lognormvariate(3, 1.5) for t in path.readers}
            costs = CutCosts(device, [ms / 10 for ms in device], wire)
            worst = max(worst, least_seconds(runs, lambda path=path, costs=costs: best_cut(path, costs)))  # type: ignore[misc]
    return worst


def prediction_errors(costs: Costs, cuts: int, runs: int) -> list[float]:
    """Relative errors of the predicted head time, at cuts drawn by chance, each measured in turns with the whole model.

    What is predicted is the head's share of the whole model's time. It is measured in CPU time of the one thread, as
    small models on a busy machine are interrupted in every run.
    """
    model, graph = costs.model, costs.model.graph
    values = find_inputs(model, costs.inputs)
    times = time_nodes(costs, values, runs)
    place_of = {node: place for place, node in enumerate(costs.path.nodes)}
    shares = [ms / times.whole for ms in times.nodes]
    rng = random.Random(1)
    errors: list[float] = []
    while len(errors) < cuts:
        cut = after(graph, graph.node_names[rng.choice(costs.path.nodes)])
        predicted = sum(shares[place_of[node]] for node in cut.head if node in place_of)
        if predicted < SMALLEST_SHARE:
            continue
        head = split(model, [cut])[0]
        part, everything = time_parts([head, whole(model)], values, runs, clock=time.thread_time)
        measured = part / everything
        errors.append((predicted - measured) / measured)
    return errors


def prediction(paths: str, cuts: int, runs: int, advance: Callable[[], object]) -> dict[str, Any]:
    """Errors over three models: the bundled one and two that are made here, or those of the files that are named."""
    models = {Path(path).stem: Model.load(Path(path)) for path in paths.split(",") if path}
    if not models:
        models = {
            "ssdlite": Model.load(Zoo().get().verified_path()),
            "resnet": Model(resnet(width=32, size=160)),
            "densenet": Model(densenet(growth=16, size=160)),
        }
    errors = {}
    for name, model in models.items():
        errors[name] = prediction_errors(costs_of(model), cuts, runs)
        advance()
    everything = [abs(error) for found in errors.values() for error in found]
    return {
        "median_error_percent": round(100 * statistics.median(everything), 1),
        "worst_error_percent": round(100 * max(everything), 1),
        "cuts": len(everything),
        "by_model_percent": {
            name: round(100 * statistics.median(map(abs, found)), 1) for name, found in errors.items()
        },
    }


def partition(folder: Path, runs: int) -> dict[str, Any]:
    """Seconds to make one partition, and to check it."""
    path = folder / "resnet.onnx"
    path.write_bytes(resnet(width=WIDTH).SerializeToString())
    times, cpu = [], []
    for _ in range(runs + 1):
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
        "partition_20mb_s": round(min(times[1:]), 4),  # without the first, which imports
        "partition_20mb_cpu_s": round(min(cpu[1:]), 4),
        "check_20mb_s": round(time.perf_counter() - start, 4),
    }


def memory(folder: Path) -> float:
    """Megabytes that cutting takes, in a process of its own."""
    external(folder / "big.onnx", gigabytes=3.0)
    found: float = run_json(__file__, "--cut", folder / "big.onnx")["mb"]
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


def measure(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """All of the figures."""
    task = progress.add_task("split engine", total=8)
    dense, long = densenet(growth=32, size=224), chain(20_000)
    result: dict[str, Any] = {"densenet_all_cuts_s": round(least_seconds(chosen.runs, lambda: all_cuts(dense)), 4)}
    progress.advance(task)
    result["graph20k_all_cuts_s"] = round(least_seconds(chosen.runs, lambda: all_cuts(long)), 4)
    progress.advance(task)
    result["min_cut_5k_s"] = round(slowest_minimum_cut(chosen.runs), 4)
    progress.advance(task)
    with tempfile.TemporaryDirectory() as name:
        result |= partition(Path(name), chosen.partitions)
        progress.advance(task)
        result["external_3gb_mb"] = memory(Path(name))
        progress.advance(task)
    result["prediction"] = prediction(chosen.models, chosen.cuts, chosen.model_runs, lambda: progress.advance(task))
    return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cut"]:
        print(json.dumps(cut_in_this_process(Path(sys.argv[2]))))
    else:
        run_benchmark(
            __file__,
            __doc__,
            FIGURES,
            measure,
            Option("--runs", 3, "runs of each time"),
            Option("--partitions", 7, "partitions that are made"),
            Option("--cuts", 7, "cuts of each model whose head time is predicted"),
            Option("--model-runs", 20, "runs of a model and of a head"),
            Option("--models", "", "ONNX files for the prediction, with commas between them"),
        )
