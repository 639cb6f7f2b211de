"""``splitrtc models show``: what a model is and what a run of it costs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import common_options, echo_json, set_up_logging
from pipeline.cli.models.costing import size_text
from pipeline.cli.models.options import find_model, model_argument, open_model, parse_shapes, shape_option

__all__ = ["show"]

EXAMPLES = """\b
Examples:
  splitrtc models show ssdlite_mbv2_coco_300
  splitrtc models show model.onnx --shape image=1x3x640x640 --json
"""


@click.command(epilog=EXAMPLES)
@model_argument
@shape_option
@common_options
def show(
    model: str, folders: tuple[Path, ...], shapes: tuple[str, ...], as_json: bool, log_level: str, debug: bool
) -> None:
    """Show a model's inputs and outputs, opsets, operators, MACs, parameters and peak memory.

    MODEL is a name in the zoo or the path of an ONNX file. With --json this is the TR's model information.
    """
    set_up_logging(log_level, debug)
    from models.graph.costs import costs_of
    from models.graph.describing import framework_of, model_information

    path = find_model(model, folders)
    whole = open_model(model, folders)
    costs = costs_of(whole, parse_shapes(shapes) or None)
    information = model_information(costs, path)
    operators = Counter(whole.graph.op_types).most_common()
    if as_json:
        extra: dict[str, Any] = {"operators": dict(operators), "unknown_macs": list(costs.unknown)}
        echo_json({**information.to_json(), **extra})
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    macs = f"{costs.total_macs / 1e6:,.1f} million"
    if costs.unknown:
        macs += f", without {len(costs.unknown)} nodes whose shapes are not known"
    for name, value in (
        ("file", f"{path}, {size_text(information.size)}"),
        ("digest", information.identifier),
        ("framework", framework_of(whole)),
        ("inputs", "\n".join(map(str, information.inputs))),
        ("outputs", "\n".join(map(str, information.outputs))),
        ("nodes", f"{len(whole.graph.node_names)}, of which {len(costs.path.nodes)} depend on the inputs"),
        ("operators", ", ".join(f"{count} {name}" for name, count in operators)),
        ("MACs", macs),
        ("parameters", f"{costs.parameters:,}"),
        ("peak memory", f"{size_text(costs.peak_memory)} for a run of the whole model"),
    ):
        table.add_row(name, Text(value))
    Console().print(table)
