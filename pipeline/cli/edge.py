"""``splitrtc edge``: the headless service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import common_options, echo_json, option, read_token, run_async, set_up_logging
from pipeline.cli.fetching import fetched, offline_option
from pipeline.settings import DEFAULT_LISTEN, DRAIN_TIME, MAX_SESSIONS, EdgeSettings
from pipeline.workers import TIME_LIMIT
from signaling.limits import CONNECT_RATE

__all__ = ["edge"]

EXAMPLES = """\b
Examples:
  splitrtc edge                                                 for UEs on this machine
  splitrtc edge --listen 0.0.0.0:8787 --token-file token        for others: they need the token
  splitrtc edge --listen 0.0.0.0:8787 --token-file token --self-signed
  splitrtc edge --provider cuda --max-sessions 200              fails if CUDA is not really in use
"""


@click.command(epilog=EXAMPLES)
@option("--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="Where to serve signalling and health.")
@option("--token", metavar="T", help="What UEs must present; needed when others than this machine can connect.")
@option("--token-file", type=click.Path(path_type=Path), help="File with the token in its first line.")
@option("--cert", type=click.Path(path_type=Path), help="Certificate chain for wss:// (PEM).")
@option("--key", type=click.Path(path_type=Path), help="Its key (PEM).")
@option("--self-signed", is_flag=True, help="Make a certificate; UEs pin the fingerprint that is printed.")
@option("--max-sessions", type=int, default=MAX_SESSIONS, help="Sessions at a time; more are politely refused.")
@option("--provider", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where tails run.")
@option("--threads", type=int, default=1, help="Threads of one tail.")
@option("--workers", type=int, help="Tails that run at the same time (default: one for each core).")
@option("--time-limit", default=TIME_LIMIT, help="Seconds that a frame may compute; a session that hangs is ended.")
@option(
    "--drain-time",
    default=DRAIN_TIME,
    help="Seconds that UEs have to go to another edge after SIGTERM; who has none is served until then.",
)
@option("--connect-rate", default=CONNECT_RATE, help="Connections per second from one address, in the long run.")
@option(
    "--allow-origin",
    "allow_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Without a token: let web pages of this origin connect, e.g. https://app.example; may be repeated.",
)
@option("--bind", metavar="ADDR", help="Local address for the media (default: all; loopback when listening there).")
@option(
    "--ice-server",
    "ice_servers",
    multiple=True,
    metavar="URL",
    help="stun:HOST[:PORT] or turn:USER:PASSWORD@HOST[:PORT]; may be repeated. None by default.",
)
@option(
    "--model",
    "model",
    multiple=True,
    metavar="M",
    help="Serve this model only: a name, or https://...#sha-256=...; may be repeated (default: all whose files are"
    " here).",
)
@option(
    "--models",
    "models",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Further folder of model cards or model files; may be repeated.",
)
@option(
    "--admin-token-file",
    type=click.Path(path_type=Path),
    help="File with a token for uploading models over HTTP into the first --models folder (default: nobody may).",
)
@offline_option
@option(
    "--accept",
    multiple=True,
    metavar="PROFILE",
    help="Take this profile, the first one preferred; may be repeated (default: all, in the UE's order).",
)
@option("--ready-file", type=click.Path(path_type=Path), help="Write {url, pid, ...} as JSON here once ready.")
@common_options
def edge(
    token: str | None,
    token_file: Path | None,
    admin_token_file: Path | None,
    ready_file: Path | None,
    model: tuple[str, ...],
    as_json: bool,
    log_level: str,
    debug: bool,
    **flags: Any,
) -> None:
    """Run the second part of the work of models for UEs that connect. SIGTERM ends it cleanly, a second one at once."""
    set_up_logging(log_level, debug)
    names = fetched(model, flags["models"])
    admin_token = None if admin_token_file is None else read_token(None, admin_token_file)
    settings = EdgeSettings(model=names, token=read_token(token, token_file), admin_token=admin_token, **flags)
    from pipeline.edge import serve_until_stopped

    summary = run_async(serve_until_stopped(settings, ready_file))
    if as_json:
        echo_json(summary)
