"""``splitrtc models show``: what a model is and what a run of it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import common_options, echo_json, set_up_logging
from pipeline.cli.models.costing import size_text
from pipeline.cli.models.options import find_model, model_argument, open_model, parse_shapes, shape_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from models.ladder import Measurement, Rung

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

    MODEL is a name in the zoo or the path of an ONNX file; of one in the zoo the card's ladder is shown too: what
    profiles cost and how accurate they are. With --json this is the TR's model information.
    """
    set_up_logging(log_level, debug)
    from models import Zoo
    from models.graph.costs import costs_of
    from models.graph.describing import framework_of, model_information

    path = find_model(model, folders)
    whole = open_model(model, folders)
    costs = costs_of(whole, parse_shapes(shapes) or None)
    information = model_information(costs, path)
    operators = Counter(whole.graph.op_types).most_common()
    zoo = Zoo(folders)
    ladders = {cut.name: cut.ladder for cut in zoo.get(model).partitions if cut.ladder} if model in zoo.names() else {}
    if as_json:
        extra: dict[str, Any] = {"operators": dict(operators), "unknown_macs": list(costs.unknown)}
        if ladders:
            extra["ladders"] = {cut: [rung.to_json() for rung in ladder] for cut, ladder in ladders.items()}
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
    for cut, ladder in ladders.items():
        Console().print(_ladder_table(cut, ladder))


def _ladder_table(cut: str, ladder: Sequence[Rung]) -> RenderableType:
    """What each profile of a cut costs and keeps: a row for each, and a column for each content."""
    from rich.table import Table
    from rich.text import Text

    from models.ladder import CONTENTS

    table = Table(title=Text(f"ladder of {cut}"), title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("bytes, F1", no_wrap=True)
    for content in CONTENTS:
        table.add_column(content, justify="right", no_wrap=True)
    table.add_column("mAP lost", justify="right")
    table.add_column("ms", justify="right", no_wrap=True)
    for rung in ladder:
        by_content = {one.content: one for one in rung.measured}
        cells = [_cell(by_content.get(content)) for content in CONTENTS]
        lost = [f"{one.map_drop:.2f}" for one in rung.measured if one.map_drop is not None]
        slowest = max(((one.encode_ms, one.decode_ms) for one in rung.measured), default=None)
        table.add_row(
            rung.profile, *cells, " ".join(lost), "" if slowest is None else f"{slowest[0]:.1f} + {slowest[1]:.1f}"
        )
    return table


def _cell(one: Measurement | None) -> str:
    return "" if one is None else f"{one.bytes:.0f} {one.f1:.3f}"
