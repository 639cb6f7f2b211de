"""The split engine: how long it takes to look at every cut of a graph, to find the best one, and how well it predicts.

Each time is the least of some runs: what else the machine does only adds to it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from onnx import ModelProto
from rich.progress import Progress

from benchmarks.architectures import chain, densenet, inception, resnet
from benchmarks.common import Figure, Option, run_benchmark
from models import Zoo
from models.graph import Model, after, split
from models.graph.costs import Costs, costs_of
from models.graph.datapath import DataPath
from models.graph.enumeration import frontier_cuts, frontier_sizes, single_tensor_cuts
from models.graph.mincut import CutCosts, best_cut
from models.graph.running import find_inputs, whole
from models.graph.timing import time_nodes, time_parts

FIGURES = (
    Figure("DenseNet-121: analyse, all single-tensor and frontier cuts", "densenet_all_cuts_s", "s"),
    Figure("20 000 nodes: the same", "graph20k_all_cuts_s", "s"),
    Figure("minimum cut of 5 000 nodes, the slowest of several", "min_cut_5k_s", "s"),
    Figure("predicted against measured head time, median error", "prediction.median_error_percent", "%"),
    Figure("at how many cuts", "prediction.cuts"),
)

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


def measure(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """All of the figures."""
    task = progress.add_task("split engine", total=6)
    dense, long = densenet(growth=32, size=224), chain(20_000)
    result: dict[str, Any] = {"densenet_all_cuts_s": round(least_seconds(chosen.runs, lambda: all_cuts(dense)), 4)}
    progress.advance(task)
    result["graph20k_all_cuts_s"] = round(least_seconds(chosen.runs, lambda: all_cuts(long)), 4)
    progress.advance(task)
    result["min_cut_5k_s"] = round(slowest_minimum_cut(chosen.runs), 4)
    progress.advance(task)
    result["prediction"] = prediction(chosen.models, chosen.cuts, chosen.model_runs, lambda: progress.advance(task))
    return result


if __name__ == "__main__":
    run_benchmark(
        __file__,
        __doc__,
        FIGURES,
        measure,
        Option("--runs", 3, "runs of each time"),
        Option("--cuts", 7, "cuts of each model whose head time is predicted"),
        Option("--model-runs", 20, "runs of a model and of a head"),
        Option("--models", "", "ONNX files for the prediction, with commas between them"),
    )
