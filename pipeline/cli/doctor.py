"""``splitrtc doctor``: what works here."""

from __future__ import annotations

import dataclasses

import click

from pipeline.cli.common import common_options, echo_json, option, set_up_logging
from pipeline.settings import DEFAULT_LISTEN

__all__ = ["doctor"]

EXAMPLES = """\b
Examples:
  splitrtc doctor
  splitrtc doctor --provider cuda         fails when the GPU is not truly in use
  splitrtc doctor --camera /dev/video2 --json
"""

COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


@click.command(epilog=EXAMPLES)
@option("--camera", default="0", metavar="S", help="The camera to try.")
@option("--provider", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="The provider to try.")
@option("--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="The edge's port to try.")
@common_options
def doctor(camera: str, provider: str, listen: str, as_json: bool, log_level: str, debug: bool) -> int:
    """Check runtime, providers, model files, ports, UDP, camera and display; say what to do. Exit code 1 if wrong."""
    set_up_logging(log_level, debug)
    from rich.console import Console
    from rich.markup import escape

    from pipeline.doctor import examine

    console = Console(stderr=as_json)
    findings = []
    with console.status("looking"):
        for finding in examine(camera, provider, listen):
            findings.append(finding)
            sign = f"[{COLOURS[finding.verdict]}]{finding.verdict:<6}[/]"
            console.print(f"{sign} [bold]{finding.subject:<16}[/] {escape(finding.detail)}", soft_wrap=True)
            if finding.advice:
                console.print(f"{'':24}{escape(finding.advice)}", style="dim", soft_wrap=True)
    if as_json:
        echo_json([dataclasses.asdict(finding) for finding in findings])
    return int(any(finding.verdict == "wrong" for finding in findings))
