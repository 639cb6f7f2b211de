"""``splitrtc models cuts``: where a model can be cut, and what each cut costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.common import common_options, echo_json, option, set_up_logging
from pipeline.cli.models.costing import SAMPLES, Speeds, catalogue_of, deployment_options, find_samples
from pipeline.cli.models.options import model_argument, open_model, parse_shapes, shape_option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from models.graph.candidates import Candidate

__all__ = ["console_for_tables", "cuts", "cuts_table"]

EXAMPLES = """\b
Examples:
  splitrtc models cuts ssdlite_mbv2_coco_300 --pareto
  splitrtc models cuts model.onnx --single --sort bytes
  splitrtc models cuts ssdlite_mbv2_coco_300 --rtt 20 --rate 20M --device-speed 0.25 --sort latency
  splitrtc models cuts ssdlite_mbv2_coco_300 --pareto --coded
"""

SHOWN_TENSORS = 3
SHOWN_PROFILES = ("raw-zstd", "q8-zstd", "q6-zstd", "q4-zstd")
"""As many as a table can hold."""
WIDTH = 120
"""Columns of a table that goes to a file."""


@click.command(epilog=EXAMPLES)
@model_argument
@shape_option
@option("--pareto", is_flag=True, help="Only those that no other beats in both bytes and device MACs.")
@option("--single", is_flag=True, help="Only those where one tensor crosses.")
@option(
    "--sort",
    type=click.Choice(["depth", "bytes", "macs", "memory", "latency", "name"]),
    default="depth",
    help="What to sort by; depth is the order in which the model runs.",
)
@option("--limit", type=click.IntRange(1), metavar="N", help="Show the first N only.")
@option(
    "--coded",
    is_flag=True,
    help="Also bytes under each profile, measured on pictures (made-up inputs outside the zoo).",
)
@option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="F",
    help="For --coded: this profile; may be repeated (default: a few; with --json all).",
)
@option("--images", metavar="S", help="For --coded: a folder of pictures or a video (default: the bundled clip).")
@option("--samples", type=click.IntRange(1, 1000), default=SAMPLES, help="For --coded: how many pictures.")
@deployment_options
@common_options
def cuts(
    model: str,
    folders: tuple[Path, ...],
    shapes: tuple[str, ...],
    pareto: bool,
    single: bool,
    sort: str,
    limit: int | None,
    coded: bool,
    profiles: tuple[str, ...],
    images: str | None,
    samples: int,
    rtt: float | None,
    rate: str | None,
    device_speed: str | None,
    edge_speed: str | None,
    runs: int,
    threads: int,
    as_json: bool,
    log_level: str,
    debug: bool,
) -> None:
    """List the cuts of a model, after each node in the order in which it runs: tensors, bytes, device work, memory.

    MODEL is a name in the zoo or the path of an ONNX file. With a link or a speed, the latency of a frame is predicted
    from times that are measured here.
    """
    set_up_logging(log_level, debug)
    from models.codecs import parse_profile
    from models.graph.candidates import SORTS, on_pareto_front
    from models.graph.costs import costs_of

    costs = costs_of(open_model(model, folders), parse_shapes(shapes) or None)
    speeds = Speeds(rtt, rate, device_speed, edge_speed, runs, threads)
    wanted = [str(parse_profile(name)) for name in profiles] or ([] if as_json else list(SHOWN_PROFILES))
    measured = coded or profiles or images
    values, source = find_samples(costs, model, folders, images, samples) if measured else ([], "")
    predicted = speeds if speeds.given or sort == "latency" else None
    found = catalogue_of(costs, predicted, values, wanted, quiet=as_json).frontier()
    if single:
        found = [cut for cut in found if cut.single]
    if pareto:
        found = on_pareto_front(found)
    found = sorted(found, key=SORTS[sort])[:limit]
    if as_json:
        echo_json([cut.to_json() for cut in found])
        return
    console = console_for_tables()
    console.print(cuts_table(found))
    if source:
        console.print(f"Bytes under a profile: mean over {source}, calibrated on the same.", style="dim")


def cuts_table(found: Sequence[Candidate]) -> Table:
    """The table of cuts that one can choose from; names are folded, so that all of them can be copied."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("after node, tensors", overflow="fold", min_width=28, ratio=1)
    for heading in ("kB", "MACs %", "head MB", "tail MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    profiles = [name for name in found[0].coded if name != "raw"] if found else []
    for name in profiles:
        table.add_column(f"{name}\nkB", justify="right", no_wrap=True)
    predicted = any(cut.latency is not None for cut in found)
    if predicted:
        table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("place", min_width=17)
    for cut in found:
        shown = [f"{t.name} {'x'.join(map(str, t.shape or ()))}" for t in cut.tensors[:SHOWN_TENSORS]]
        if len(cut.tensors) > SHOWN_TENSORS:
            shown.append(f"and {len(cut.tensors) - SHOWN_TENSORS} more")
        where = Text(cut.name if cut.flag == "after" else f"before {cut.name}", style="bold")
        where.append("\n" + "\n".join(shown), style="not bold dim")
        cells = [
            f"{cut.bytes / 1e3:.1f}",
            f"{100 * cut.device_macs_share:.1f}",
            f"{cut.head_memory.total / 1e6:.1f}",
            f"{cut.tail_memory.total / 1e6:.1f}",
        ]
        for name in profiles:
            size = cut.coded[name]
            cells.append("-" if size is None else f"{size / 1e3:.1f}")
        if predicted:
            cells.append("-" if cut.latency is None else f"{cut.latency.total:.1f}")
        table.add_row(where, *cells, ", ".join(dict.fromkeys(cut.places)))
    return table


def console_for_tables() -> Console:
    """A console that a table of cuts fits in, also where the output goes to a file."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, WIDTH))
