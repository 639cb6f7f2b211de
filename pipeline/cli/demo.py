"""``splitrtc demo``: everything on this machine, on embedded defaults."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipeline.cli.common import SECONDS, common_options, echo_json, echo_table, link_option, option, set_up_logging
from pipeline.cli.fetching import fetched, offline_option
from pipeline.settings import MODES

__all__ = ["demo"]

EXAMPLES = """\b
Examples:
  splitrtc demo                       the bundled clip, ten seconds
  splitrtc demo --source 0            the first camera (ends with Ctrl+C)
  splitrtc demo --model yolox_nano    another model of the zoo, fetched the first time
  splitrtc demo --link rtt=40,loss=1%,rate=5M      over an emulated network link
  splitrtc demo --profile klt         fewer bytes, less like the whole model
  splitrtc demo --kill-edge 5         the edge dies after 5 s and is back 5 s later; the boxes keep coming
  splitrtc demo --mode remote         the picture as a WebRTC video track, the whole model at the edge
  splitrtc demo --source street.mp4 --seconds 20 --out /tmp/street
"""

NEXT = """
Look at {out}/demo.mp4 (boxes on the frame that produced them) and {out}/latency.png (where the time goes).
Next: your camera          splitrtc demo --source 0
      a second machine     there: splitrtc edge --listen 0.0.0.0:8787 --token SECRET
                           here:  splitrtc ue --edge ws://THERE:8787 --token SECRET --source 0 --sink window
"""


@click.command(epilog=EXAMPLES)
@option("--source", default="clip", metavar="S", help="As for `splitrtc ue`.")
@option("--seconds", type=SECONDS, metavar="N", help="Stop after so long (default: at the end of the source).")
@option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out"), help="Folder for the results.")
@option("--model", metavar="M", help="Run this model: a name, or https://...#sha-256=... (default: the bundled one).")
@option(
    "--models",
    "models",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Further folder of model cards or model files; may be repeated.",
)
@offline_option
@option("--profile", metavar="F", help="As for `splitrtc ue` (default: the model's own).")
@option("--mode", type=click.Choice(MODES), default="auto", help="Who answers the frames, as for `splitrtc ue`.")
@option(
    "--kill-edge",
    type=SECONDS,
    metavar="N",
    help="Kill the edge N seconds after the start, start it again 5 s later, and plot who answered (modes.png).",
)
@link_option
@common_options
def demo(
    source: str,
    seconds: float | None,
    out: Path,
    model: str | None,
    models: tuple[Path, ...],
    profile: str | None,
    kill_edge: float | None,
    mode: str,
    link: str | None,
    as_json: bool,
    log_level: str,
    debug: bool,
) -> None:
    """Start an edge and a UE here, play a clip through both, draw boxes, measure every stage."""
    set_up_logging(log_level, debug)
    from pipeline.demo import run_demo

    name = None if model is None else fetched([model], models)[0]
    click.echo("Starting an edge and a UE (the first time, the model is cut in two and checked)...", err=True)
    summary = run_demo(
        source, seconds, out, link, profile=profile, model=name, models=models, kill_edge=kill_edge, mode=mode
    )
    if as_json:
        echo_json(summary)
        return
    if not sys.stderr.isatty():  # else the UE has left its live table there
        echo_table(summary)
    if kill_edge is not None:
        click.echo(f"\n{out}/modes.png shows who answered the frames while the edge was away.", err=True)
    click.echo(NEXT.format(out=out), err=True)
