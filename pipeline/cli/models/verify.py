"""``splitrtc models verify``: that the parts of a model compute what the whole does."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import common_options, echo_json, option, set_up_logging
from pipeline.cli.models.options import (
    cut_options,
    model_argument,
    open_model,
    parse_shapes,
    progress,
    read_cuts,
    shape_option,
)
from splitrtc_errors import BadArgument, CutError

if TYPE_CHECKING:
    from models.graph import Model, Sweep, Verification

__all__ = ["verify"]

EXAMPLES = """\b
Examples:
  splitrtc models verify model.onnx --after Conv_12
  splitrtc models verify model.onnx --after Conv_12 --optimised --inputs frame.npz
  splitrtc models verify ssdlite_mbv2_coco_300 --all --json
"""


@click.command(epilog=EXAMPLES)
@model_argument
@cut_options
@option("--all", "every", is_flag=True, help="Check the cut after every node, bit for bit.")
@option("--sample", type=click.IntRange(1), help="With --all: only so many nodes, drawn by chance, the same each time.")
@option("--optimised", is_flag=True, help="Run with the runtime's optimisations, and compare within a tolerance.")
@option("--inputs", type=click.Path(path_type=Path), help="Real inputs: an .npz file with an array for each.")
@shape_option
@option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1, help="With --all: cuts checked at once.")
@common_options
def verify(
    model: str,
    folders: tuple[Path, ...],
    every: bool,
    sample: int | None,
    optimised: bool,
    inputs: Path | None,
    shapes: tuple[str, ...],
    workers: int,
    as_json: bool,
    log_level: str,
    debug: bool,
    **where: tuple[str, ...],
) -> None:
    """Run the parts of a model one after the other, and the whole model, on the same inputs, and compare.

    MODEL is a name in the zoo or the path of an ONNX file. Without --inputs it runs on random ones.
    """
    set_up_logging(log_level, debug)
    sizes = parse_shapes(shapes)
    whole = open_model(model, folders)
    cuts = read_cuts(whole.graph, **where)
    if bool(cuts) == every:
        raise BadArgument("which cut? Give --after, --before, --at or --up-to; or --all, and none of them")
    from models.graph import find_inputs, sweep
    from models.graph import verify as verify_cuts

    values = find_inputs(whole, sizes) if inputs is None else _read_inputs(whole, inputs)
    if not every:
        found = verify_cuts(whole, cuts, values, optimise=optimised)
        echo_json(found.to_json()) if as_json else _print_verification(found)
        if not found.ok:
            raise CutError("the parts do not compute what the whole model does")
        return
    nodes = list(whole.graph.node_names)
    if sample is not None:
        nodes = random.Random(0).sample(nodes, min(sample, len(nodes)))
    with progress("cutting after every node", len(nodes), quiet=as_json) as advance:
        result = sweep(whole, values, nodes, workers, advance)
    echo_json(result.to_json()) if as_json else _print_sweep(result)
    if result.different:
        raise CutError(f"at {len(result.different)} nodes the parts do not compute what the whole model does")


def _read_inputs(model: Model, path: Path) -> dict[str, Any]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            values = dict(file)
    except (OSError, ValueError, AttributeError, EOFError) as error:
        raise BadArgument(f"cannot read the inputs in {path}: an .npz file is expected ({error})") from error
    if missing := [kind.name for kind in model.input_types if kind.name not in values]:
        raise BadArgument(f"{path} has no array for the input {', '.join(missing)}")
    return values


def _print_verification(found: Verification) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("output", "largest difference", "relative")
    for output in found.outputs:
        same = "none, bit for bit" if output.exact else f"{output.largest:.3g}"
        table.add_row(Text(output.name), same, f"{output.relative:.1e}")
    console = Console()
    console.print(table)
    for line in found.fused:
        console.print(Text(line))


def _print_sweep(found: Sweep) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("nodes", "cuts that run", "different ones", "verified bit for bit")
    table.add_row(str(found.nodes), str(found.cuts), str(found.distinct), str(found.verified))
    console = Console()
    console.print(table)
    for node, reason in (*found.exceptions, *found.different):
        console.print(Text(f"{node}: {reason}"))
