"""``splitrtc models time``: how long a model takes here, node by node, and its parts."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import common_options, echo_json, option, set_up_logging
from pipeline.cli.models.costing import measure
from pipeline.cli.models.options import (
    cut_options,
    model_argument,
    open_model,
    parse_shapes,
    progress,
    read_cuts,
    shape_option,
)

if TYPE_CHECKING:
    from models.graph import Cut
    from models.graph.costs import Costs
    from models.graph.timing import NodeTimes

__all__ = ["time"]

EXAMPLES = """\b
Examples:
  splitrtc models time ssdlite_mbv2_coco_300
  splitrtc models time ssdlite_mbv2_coco_300 --at Conv__979:0
  splitrtc models time model.onnx --runs 50 --threads 4 --json
"""

SHOWN_NODES = 10


@click.command(epilog=EXAMPLES)
@model_argument
@cut_options
@shape_option
@option("--runs", type=click.IntRange(1, 1000), default=10, help="Runs that are measured; the shortest counts.")
@option("--threads", type=click.IntRange(1), default=1, help="Threads of a run.")
@common_options
def time(
    model: str,
    folders: tuple[Path, ...],
    shapes: tuple[str, ...],
    runs: int,
    threads: int,
    as_json: bool,
    log_level: str,
    debug: bool,
    **where: tuple[str, ...],
) -> None:
    """Measure how long a model takes on this machine: each node by the runtime's profiler, and each part of a cut.

    MODEL is a name in the zoo or the path of an ONNX file.
    """
    set_up_logging(log_level, debug)
    from models.graph.costs import costs_of

    costs = costs_of(open_model(model, folders), parse_shapes(shapes) or None)
    cuts = read_cuts(costs.model.graph, **where)
    times = measure(costs, runs, threads, quiet=as_json)
    parts = _time_parts(costs, cuts, times, runs, threads, quiet=as_json) if cuts else []
    names = [costs.model.graph.node_names[node] for node in costs.path.nodes]
    operators = [costs.model.graph.op_types[node] for node in costs.path.nodes]
    rows = sorted(zip(times.nodes, names, operators, costs.macs, strict=True), reverse=True)
    if as_json:
        nodes = [{"node": name, "operator": op, "ms": ms, "macs": macs} for ms, name, op, macs in rows]
        echo_json({"whole_ms": times.whole, "parts": parts, "nodes": nodes})
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(f"The whole model: {times.whole:.2f} ms (the shortest of {runs} runs, threads: {threads})")
    if parts:
        table = Table("part", "measured ms", "predicted ms")
        for part in parts:
            table.add_row(Text(part["part"]), f"{part['ms']:.2f}", f"{part['predicted_ms']:.2f}")
        console.print(table)
    by_operator: dict[str, list[float]] = defaultdict(list)
    for ms, _, op, _ in rows:
        by_operator[op].append(ms)
    table = Table("operator", "nodes", "ms", "share")
    for op, found in sorted(by_operator.items(), key=lambda item: -sum(item[1]))[:SHOWN_NODES]:
        table.add_row(op, str(len(found)), f"{sum(found):.2f}", f"{100 * sum(found) / times.whole:.1f} %")
    console.print(table)
    table = Table("slowest nodes", "operator", "ms", "million MACs")
    for ms, name, op, macs in rows[:SHOWN_NODES]:
        table.add_row(Text(name), op, f"{ms:.2f}", f"{macs / 1e6:.1f}")
    console.print(table)


def _time_parts(
    costs: Costs, cuts: list[Cut], times: NodeTimes, runs: int, threads: int, quiet: bool
) -> list[dict[str, Any]]:
    from models.graph import find_inputs, split
    from models.graph.running import Runner
    from models.graph.timing import time_parts

    values = find_inputs(costs.model, costs.inputs)
    at = {node: place for place, node in enumerate(costs.path.nodes)}
    parts = split(costs.model, cuts)
    names = ["head", "tail"] if len(parts) == 2 else [f"part {number + 1}" for number in range(len(parts))]
    for part in parts:  # what goes into the next one
        values = {**values, **Runner(part).run(values)}
    with progress("timing the parts", runs, quiet) as advance:
        measured = time_parts(parts, values, runs, threads, progress=advance)
    predicted = [sum(times.nodes[at[node]] for node in part.nodes if node in at) for part in parts]
    rows = zip(names, measured, predicted, strict=True)
    return [{"part": name, "ms": ms, "predicted_ms": expected} for name, ms, expected in rows]
