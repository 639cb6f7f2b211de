"""What the commands that weigh cuts share: the link and the two speeds, samples, and the catalogue made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from pipeline.cli.common import option
from pipeline.cli.models.options import progress
from splitrtc_errors import BadArgument

if TYPE_CHECKING:
    from models.graph.candidates import Catalogue
    from models.graph.costs import Costs
    from models.graph.prediction import Deployment
    from models.graph.timing import NodeTimes

__all__ = ["Speeds", "catalogue_of", "deployment_options", "find_samples", "measure", "read_rate", "size_text"]

F = TypeVar("F", bound=Callable[..., Any])

SAMPLES = 4
"""Pictures that bytes are measured on, unless told otherwise."""
NOMINAL_MACS_PER_MS = 1e6
"""Of a machine that 1G MACs per second is 1.0 times as fast as."""


def deployment_options(command: F) -> F:
    """``--rtt``, ``--rate``, ``--device-speed``, ``--edge-speed``, ``--runs``, ``--threads``."""
    for decorate in (
        option("--threads", type=click.IntRange(1), default=1, help="Threads of the runs that are measured."),
        option("--runs", type=click.IntRange(1, 1000), default=10, help="Runs that are measured."),
        option("--edge-speed", metavar="S", help="The same of the edge."),
        option(
            "--device-speed",
            metavar="S",
            help="How fast the device is: 0.25 for a quarter of this machine's speed, or 5G for MACs per second.",
        ),
        option("--rate", metavar="BITS", help="Bits per second from the device to the edge, e.g. 20M."),
        option("--rtt", type=click.FloatRange(0), metavar="MS", help="Round trip of the link in milliseconds."),
    ):
        command = decorate(command)
    return command


class Speeds(NamedTuple):
    """The flags of `deployment_options` as they were given."""

    rtt: float | None
    rate: str | None
    device_speed: str | None
    edge_speed: str | None
    runs: int
    threads: int

    @property
    def given(self) -> bool:
        """Whether anything was said that only a prediction needs."""
        return any(value is not None for value in self[:4])


def read_rate(text: str) -> float:
    """Bits per second, as `--link rate=` takes them."""
    from rtc import parse_link

    rate = parse_link(f"rate={text}").rate
    assert rate is not None
    return rate


def _speed(text: str | None) -> tuple[float, bool]:
    """A speed, and whether it is in MACs per second."""
    if text is None:
        return 1.0, False
    scale = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(text[-1:])
    try:
        value = float(text[:-1] if scale else text) * (scale or 1.0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise BadArgument(f"a speed is 0.25 (times this machine's) or 5G (MACs per second), not {text[:100]!r}")
    return value, scale is not None


def measure(costs: Costs, runs: int, threads: int, quiet: bool) -> NodeTimes:
    """Time every node of a model on this machine."""
    from models.graph.running import find_inputs
    from models.graph.timing import time_nodes

    values = find_inputs(costs.model, costs.inputs)
    with progress("timing every node", 2 * runs, quiet) as advance:
        return time_nodes(costs, values, runs, threads, progress=advance)


def _deployment(costs: Costs, speeds: Speeds, quiet: bool) -> Deployment:
    from models.graph.prediction import Deployment

    link = {"rtt": speeds.rtt} if speeds.rtt is not None else {}
    if speeds.rate is not None:
        link["rate"] = read_rate(speeds.rate)
    (device, by_macs), (edge, edge_by_macs) = map(_speed, (speeds.device_speed, speeds.edge_speed))
    if (by_macs or edge_by_macs) and not costs.total_macs:
        raise BadArgument("this model does no multiplications: give speeds as factors of this machine's")
    if by_macs and edge_by_macs:
        node_ms = [macs / NOMINAL_MACS_PER_MS for macs in costs.macs]
        device, edge = device / (1e3 * NOMINAL_MACS_PER_MS), edge / (1e3 * NOMINAL_MACS_PER_MS)
    else:
        times = measure(costs, speeds.runs, speeds.threads, quiet)
        node_ms = list(times.nodes)
        here = costs.total_macs / times.whole * 1e3 if costs.total_macs else 1.0
        device, edge = device / here if by_macs else device, edge / here if edge_by_macs else edge
    return Deployment(node_ms, device_speed=device, edge_speed=edge, **link)


def find_samples(
    costs: Costs, model: str, folders: Sequence[Path], images: str | None, count: int
) -> tuple[list[dict[str, Any]], str]:
    """Inputs to measure bytes on, and what they are: pictures for a model of the zoo, else made up."""
    from models import Preprocessor, Zoo
    from models.graph.running import find_inputs

    zoo = Zoo(folders)
    if model not in zoo.names():
        if images is not None:
            raise BadArgument("--images needs a model of the zoo: the card says how a picture becomes its input")
        return [find_inputs(costs.model, costs.inputs, seed) for seed in range(count)], "made-up inputs"
    from pipeline.sources import open_source

    card = zoo.get(model)
    preprocessor = Preprocessor(card)
    source = open_source(images or "clip")
    source.open()
    samples: list[dict[str, Any]] = []
    try:
        while len(samples) < count and (picture := source.read()) is not None:
            samples.append({card.image.name: preprocessor.prepare(picture.image).copy()})
    finally:
        source.close()
    return samples, f"{len(samples)} pictures of {images or 'the bundled clip'}"


def catalogue_of(
    costs: Costs,
    speeds: Speeds | None,
    samples: Sequence[dict[str, Any]] = (),
    profiles: Sequence[str] = (),
    sent_as: str | None = None,
    quiet: bool = False,
) -> Catalogue:
    """Measure what was asked for, and put it together; with samples, bytes under these (or all) profiles."""
    from models.graph.candidates import Catalogue

    coded = None
    if samples:
        from models.graph.coding import coded_sizes

        with progress("coding tensors", len(costs.path.readers), quiet) as advance:
            coded = coded_sizes(costs, samples, profiles, progress=advance)
    deployment = _deployment(costs, speeds, quiet) if speeds is not None else None
    return Catalogue(costs, deployment, coded, sent_as)


def size_text(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
