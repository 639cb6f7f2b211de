"""``splitrtc models best``: the best place to cut a model for a device, a link and an edge."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import common_options, echo_json, option, set_up_logging
from pipeline.cli.models.costing import SAMPLES, Speeds, catalogue_of, deployment_options, find_samples, size_text
from pipeline.cli.models.cuts import console_for_tables, cuts_table
from pipeline.cli.models.options import model_argument, open_model, parse_shapes, shape_option
from splitrtc_errors import BadArgument

if TYPE_CHECKING:
    from models.graph.planning import Plan
    from models.graph.prediction import Deployment, Latency

__all__ = ["best"]

EXAMPLES = """\b
Examples:
  splitrtc models best ssdlite_mbv2_coco_300 --rtt 20 --rate 20M --device-speed 0.25 --edge-speed 8
  splitrtc models best ssdlite_mbv2_coco_300 --rate 5M --device-speed 5G --edge-speed 2T --profile q8-zstd
  splitrtc models best model.onnx --rate 50M --device-speed 0.1 --memory 32M --split-only
"""


@click.command(epilog=EXAMPLES)
@model_argument
@shape_option
@option("--profile", metavar="F", help="Count the bytes under this profile, measured on pictures (default: raw).")
@option("--images", metavar="S", help="For --profile: a folder of pictures or a video (default: the bundled clip).")
@option("--samples", type=click.IntRange(1, 1000), default=SAMPLES, help="For --profile: how many pictures.")
@option("--memory", metavar="BYTES", help="What a run of the head may need on the device, e.g. 64M.")
@option("--split-only", is_flag=True, help="Divide the model: neither all on the device, nor the picture sent.")
@deployment_options
@common_options
def best(
    model: str,
    folders: tuple[Path, ...],
    shapes: tuple[str, ...],
    profile: str | None,
    images: str | None,
    samples: int,
    memory: str | None,
    split_only: bool,
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
    """Find the cut that takes the least time per frame: device, link (20 ms, 20M unless given) and edge together.

    MODEL is a name in the zoo or the path of an ONNX file. The cut may be of any number of tensors; it is a minimum
    cut, so that no other takes less. Running all on the device, and sending the picture, are considered as well.
    """
    set_up_logging(log_level, debug)
    from models.codecs import parse_profile
    from models.graph.costs import costs_of
    from models.graph.planning import best_plan

    limit = None if memory is None else _read_bytes(memory)
    if profile is not None:
        profile = str(parse_profile(profile))
    costs = costs_of(open_model(model, folders), parse_shapes(shapes) or None)
    speeds = Speeds(rtt, rate, device_speed, edge_speed, runs, threads)
    values, source = find_samples(costs, model, folders, images, samples) if profile else ([], "")
    catalogue = catalogue_of(costs, speeds, values, [profile] if profile else [], profile, quiet=as_json)
    plan = best_plan(catalogue, limit, split_only)
    assert catalogue.deployment is not None
    if as_json:
        echo_json(_plan_json(plan))
    else:
        _print(plan, catalogue.deployment, limit, profile, source)


def _read_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]?)B?", text)
    if match is None:
        raise BadArgument(f"memory is a number of bytes, as in 64M, not {text[:100]!r}")
    return round(float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]])


def _latency_json(latency: Latency | None) -> dict[str, float] | None:
    if latency is None:
        return None
    return {
        "device_ms": latency.device,
        "link_ms": latency.link,
        "edge_ms": latency.edge,
        "latency_ms": latency.total,
    }


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "mode": "local" if plan.cut is None else "remote" if not plan.cut.nodes else "split",
        "cut": None if plan.cut is None else plan.cut.to_json(),
        **(_latency_json(plan.latency) or {}),
        "lower_bound_ms": plan.bound,
        "optimal": plan.is_optimal,
        "local": _latency_json(plan.local),
        "remote": _latency_json(plan.remote),
        "single": None if plan.single is None else plan.single.to_json(),
    }


def _print(plan: Plan, deployment: Deployment, limit: int | None, profile: str | None, source: str) -> None:
    from rich.table import Table

    console = console_for_tables()
    table = Table("", "device ms", "link ms", "edge ms", "together")
    rows: list[tuple[str, Latency | None]] = [
        ("the best", plan.latency),
        ("the best at one tensor", None if plan.single is None else plan.single.latency),
        ("all on the device", plan.local),
        ("all at the edge, the picture sent", plan.remote),
    ]
    for name, latency in rows:
        if latency is not None:
            times = (latency.device, latency.link, latency.edge, latency.total)
            table.add_row(name, *(f"{ms:.1f}" for ms in times))
    console.print(table)
    if plan.cut is None:
        console.print("Run the whole model on the device: sending anything takes longer.")
    else:
        console.print("Cut here:" if plan.cut.nodes else "Send the picture: no head on the device pays.")
        console.print(cuts_table([plan.cut]))
    console.print(
        f"Link: {deployment.rtt:g} ms round trip, {deployment.rate / 1e6:g} Mbit/s, bytes as "
        f"{profile + ', measured on ' + source if profile else 'raw'}. Coding, batching and waiting come on top.",
        style="dim",
        soft_wrap=True,
    )
    if plan.is_optimal:
        console.print("No other cut, of any number of tensors, takes less.", style="dim")
    else:
        console.print(
            f"With at most {size_text(limit or 0)} on the device, none takes less than {plan.bound:.1f} ms: "
            f"this one is within {100 * (plan.latency.total / plan.bound - 1):.1f} % of the best.",
            style="dim",
            soft_wrap=True,
        )
