"""``splitrtc decide``: what each operating point of an edge would take, and which one to choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import common_options, echo_json, option, read_token, set_up_logging
from signaling.decision import MODES, OPTIMISE, PRIVACY
from splitrtc_errors import BadArgument, NoCommonOperatingPoint, SinkError

if TYPE_CHECKING:
    from rich.table import Table

    from signaling import Decision, Manifest

__all__ = ["decide"]

ASSUMED_LINK = "rtt=20,rate=20M"
EXAMPLES = """\b
Examples:
  splitrtc decide ws://gpu-box:8787 --token-file t --link rtt=40,rate=5M
  splitrtc decide --manifest edge.json --device-speed 0.25 --optimise energy --privacy no-pictures
"""


@click.command(epilog=EXAMPLES)
@click.argument("url", required=False)
@option("--manifest", type=click.Path(path_type=Path), help="A manifest in a file, instead of an edge.")
@option("--link", default=ASSUMED_LINK, metavar="SETTINGS", help="The link to the edge: rtt in ms, rate in bit/s.")
@option("--device-speed", type=click.FloatRange(1e-4, 1e4), default=1.0, help="How much faster than this machine.")
@option("--mode", "modes", type=click.Choice(MODES), multiple=True, help="May be chosen; may be repeated (all).")
@option("--optimise", type=click.Choice(OPTIMISE), default="latency", help="What there shall be little of.")
@option("--privacy", type=click.Choice(PRIVACY), default="any", help="no-pictures: nothing that sends the picture.")
@option("--prefer", metavar="CUT", help="Take this cut, by name or id, if it may be.")
@option("--max-latency", type=click.FloatRange(0, 1e6), metavar="MS", help="From capture to result.")
@option("--min-accuracy", type=click.FloatRange(0, 100), metavar="PERCENT", help="Of what is chosen.")
@option("--fps", type=click.FloatRange(0.001, 1000), default=30.0, help="Frames per second to be answered.")
@option("--token", metavar="TOKEN", help="The edge's access token; --token-file is safer.")
@option("--token-file", type=click.Path(path_type=Path), help="File with the token in its first line.")
@option("--ca", type=click.Path(path_type=Path), help="PEM file with the certificates to trust.")
@option("--fingerprint", metavar="HEX", help="SHA-256 of the edge's certificate, to trust that one.")
@common_options
def decide(
    url: str | None,
    manifest: Path | None,
    link: str,
    device_speed: float,
    modes: tuple[str, ...],
    token: str | None,
    token_file: Path | None,
    ca: Path | None,
    fingerprint: str | None,
    as_json: bool,
    log_level: str,
    debug: bool,
    **wishes: Any,
) -> None:
    """Explain the choice of an operating point for this device and the edge at URL, without connecting.

    Each model on the device alone, and each cut of it under each profile: what a frame would take by part, its bytes,
    and why it is not to be had.
    """
    set_up_logging(log_level, debug)
    if (url is None) == (manifest is None):
        raise BadArgument("expected the edge's URL, or --manifest FILE")
    from models import Zoo
    from pipeline.capabilities import capabilities
    from rtc import parse_link
    from signaling import Wish, candidates_of
    from signaling import decide as choose
    from signaling.decision import Device, Edge, Link

    if url is not None:
        told = _fetch(url, read_token(token, token_file), ca, fingerprint)
    else:
        assert manifest is not None
        told = _read(manifest)
    here = capabilities().at_speed(device_speed)
    zoo = Zoo()
    models = frozenset(card.digest for card in map(zoo.get, zoo.names()) if card.is_here)
    way = parse_link(link)
    if way.rate is None:
        raise BadArgument("link: expected a rate as well, as in rtt=40,rate=5M")
    decision = choose(
        candidates_of(told.models),
        Device(here, models),
        Edge(told.capabilities, told.load, told.state),
        Link(way.rate, 2e3 * way.delay),
        Wish(modes=modes or MODES, **wishes),
    )
    if as_json:
        echo_json(decision.to_json())
    else:
        _print(decision)
    if decision.chosen is None:
        raise NoCommonOperatingPoint(f"nothing can be chosen: {decision.reasons or 'the edge serves nothing'}")


def _read(path: Path) -> Manifest:
    from signaling.manifest import MAX_BYTES, read_manifest

    try:
        with path.open("rb") as file:
            return read_manifest(file.read(MAX_BYTES + 1), str(path))
    except OSError as error:
        raise BadArgument(f"cannot read the manifest {path}: {error.strerror}") from error


def _fetch(url: str, token: str | None, ca: Path | None, fingerprint: str | None) -> Manifest:
    from pipeline.announced import fetch_manifest, way_to

    return fetch_manifest(*way_to(url, token, ca, fingerprint))


def _print(decision: Decision) -> None:
    from rich.console import Console

    try:
        Console().print(_table(decision))
    except OSError as error:
        raise SinkError(f"cannot write standard output: {error.strerror}") from error


def _table(decision: Decision) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="milliseconds of a frame; the chosen operating point first")
    for name in ("mode", "model", "cut", "head", "profile"):
        table.add_column(name, overflow="fold")
    for name in ("on device", "link", "at edge", "total", "KiB", "fps", "energy"):
        table.add_column(name, justify="right")
    table.add_column("why not", overflow="fold")
    for one in decision.explained:
        point, latency = one.candidate, one.latency
        times = ["?"] * 4
        if latency is not None:
            there = latency.queue + latency.decode + latency.tail
            parts = (latency.device + latency.head + latency.encode, latency.link, there, latency.total)
            times = [f"{part:.1f}" for part in parts]
        table.add_row(
            point.mode,
            escape(point.model_name),
            escape(point.name or ""),
            point.variant,
            point.profile or "",
            *times,
            "?" if point.bytes is None else f"{point.bytes / 1024:.1f}",
            f"{one.fps:.0f}" if latency is not None else "?",
            f"{one.energy_share:.0%}",
            escape("; ".join(one.why_not)),
            style="bold" if one is decision.chosen else "dim" if one.why_not else "",
        )
    return table
