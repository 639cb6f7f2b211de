"""``splitrtc ue``: the device's side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import (
    SECONDS,
    common_options,
    echo_json,
    echo_table,
    link_option,
    option,
    read_token,
    run_async,
    set_up_logging,
)
from pipeline.cli.fetching import is_offline, local_model, offline_option, progress_bar
from pipeline.settings import CONNECT_TIMEOUT, DECIDERS, FRAME_BUDGET, MODES, UeSettings
from signaling.decision import OPTIMISE, PRIVACY
from splitrtc_errors import BadArgument

__all__ = ["ue"]

EXAMPLES = """\b
Examples:
  splitrtc ue --edge ws://127.0.0.1:8787                            the bundled clip
  splitrtc ue --edge wss://gpu-box:8787 --token-file t --source 0 --sink window
  splitrtc ue --edge gpu-box:8787 --source street.mp4 --sink out.mp4 --sink out.jsonl
  splitrtc ue --mode local --source 0 --sink window                 without an edge
  splitrtc ue --edge 127.0.0.1:8787 --link rtt=40,loss=1%,rate=5M
"""


@click.command(epilog=EXAMPLES)
@option(
    "--edge",
    "edges",
    multiple=True,
    metavar="URL",
    help="The edge: ws://HOST:PORT, wss://HOST:PORT or HOST:PORT; may be repeated: the best one is taken."
    " Only --mode local needs none.",
)
@option(
    "--mode",
    type=click.Choice(MODES),
    default="auto",
    help="Who answers: split, the edge with this device; local, this device alone; remote, the edge alone, which is"
    " sent the picture; auto, split, and local while that gives no results.",
)
@option(
    "--no-fallback", is_flag=True, help="With --mode auto, keep no whole model in memory for when there is no edge."
)
@option(
    "--privacy",
    type=click.Choice(PRIVACY),
    default="any",
    help="no-pictures: refuse whatever would send the picture itself.",
)
@option(
    "--source",
    default="clip",
    metavar="S",
    help="clip, testsrc, a camera (0, /dev/video0), a video file, a folder of images, an rtsp:// or http:// URL.",
)
@option(
    "--sink",
    "sinks",
    multiple=True,
    metavar="SINK",
    help="window, FILE.mp4, FILE.jsonl, - (JSON lines on stdout) or null; may be repeated.",
)
@option(
    "--model",
    metavar="M",
    help="Offer this model only: a name, or https://...#sha-256=... (default: all whose files are here).",
)
@option("--partition", metavar="P", help="Cut it here: a name from `splitrtc models`, or a partition id.")
@option(
    "--profile",
    metavar="F",
    help="Code the intermediate data so, e.g. q4-zstd. With model and partition, the UE decides.",
)
@option("--fps", type=float, metavar="N", help="Frames per second at most (default: the source's own).")
@option("--seconds", type=SECONDS, metavar="N", help="Stop after so long (default: at the end of the source).")
@option("--loop", "repeat", is_flag=True, help="Start a file again at its end.")
@option("--token", metavar="T", help="The edge's token.")
@option("--token-file", type=click.Path(path_type=Path), help="File with the token in its first line.")
@option("--ca", type=click.Path(path_type=Path), help="Certificate to trust for wss:// (PEM).")
@option(
    "--fingerprint",
    metavar="SHA256",
    help="Trust exactly the certificate with this SHA-256 fingerprint (64 hex digits).",
)
@option(
    "--bind", metavar="ADDR", help="Local address for the media (default: all interfaces; loopback for a local edge)."
)
@option(
    "--ice-server",
    "ice_servers",
    multiple=True,
    metavar="URL",
    help="stun:HOST[:PORT] or turn:USER:PASSWORD@HOST[:PORT]; may be repeated. None by default.",
)
@option("--provider", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where the head runs.")
@option("--threads", type=int, default=1, help="Threads of the head.")
@option(
    "--models",
    "models",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Further folder of model cards or model files; may be repeated.",
)
@option("--bundled/--no-bundled", default=True, help="Use the models that come with the program.")
@offline_option
@option(
    "--decide",
    type=click.Choice(DECIDERS),
    default="offer",
    help="Who decides on cut and profile: the network or the ue, by what each would take; offer: the edge takes the"
    " first one that it accepts.",
)
@option("--optimise", type=click.Choice(OPTIMISE), default="latency", help="With --decide: what shall be little.")
@option("--prefer", metavar="CUT", help="With --decide: take this cut, by name or id, if it may be.")
@option("--budget", type=float, default=FRAME_BUDGET, metavar="S", help="Seconds after which a result is worthless.")
@option("--timeout", type=float, default=CONNECT_TIMEOUT, metavar="S", help="Seconds to connect.")
@option(
    "--threshold", type=float, metavar="SCORE", help="Show detections from this score on (default: the model card's)."
)
@option(
    "--reconnect",
    is_flag=True,
    help="Go on when the edge or the camera fails: try again until it is back (default: end with an error; with --mode"
    " auto that holds for the camera alone).",
)
@link_option
@common_options
def ue(
    edges: tuple[str, ...],
    no_fallback: bool,
    sinks: tuple[str, ...],
    source: str,
    seconds: float | None,
    repeat: bool,
    token: str | None,
    token_file: Path | None,
    model: str | None,
    as_json: bool,
    log_level: str,
    debug: bool,
    **flags: Any,
) -> None:
    """Send the first part of a model's work on camera frames to an edge, get detections back."""
    set_up_logging(log_level, debug)
    if as_json and "-" in sinks:
        raise BadArgument("--json and --sink - both want stdout: write the lines to a file, as in --sink out.jsonl")
    if model is not None:
        model = local_model(model, flags["models"], bundled=flags["bundled"])
    if not edges and flags["mode"] != "local":
        raise BadArgument("no edge: give --edge URL, or --mode local to do without")
    url, *others = edges or ("",)
    settings = UeSettings(
        url,
        edges=tuple(others),
        fallback=not no_fallback,
        model=model,
        token=read_token(token, token_file),
        deliver=not is_offline(),
        **flags,
    )
    from pipeline.live import play

    live = sys.stderr.isatty()
    events = {"on_mode": lambda change: echo_json(change.to_json())} if as_json else {}
    summary = run_async(
        play(settings, source, sinks=sinks, seconds=seconds, repeat=repeat, table=live, show=progress_bar, **events)
    )
    if as_json:
        echo_json(summary)
    elif not live:
        echo_table(summary)
