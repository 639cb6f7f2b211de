"""The command ``splitrtc``: verbs, flags, environment, exit codes.

Every flag is also an environment variable (``--bind`` is ``SPLITRTC_BIND``), errors are one line on stderr with the
exit code of their class in `splitrtc_errors`, and with ``--json`` stdout holds one JSON value and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from pipeline.cli.common import VERSION, Group
from splitrtc_errors import NoCommonOperatingPoint, ProcessFailed, ProtocolError, SplitRtcError

__all__ = ["cli", "main"]

INTERRUPTED = 130
UNFORESEEN = 70
"""Exit code of an error that is none of splitrtc's own: sysexits.h calls it an internal software error."""


@click.group(
    cls=Group,
    invoke_without_command=True,
    commands={
        "demo": "pipeline.cli.demo:demo",
        "edge": "pipeline.cli.edge:edge",
        "ue": "pipeline.cli.ue:ue",
        "decide": "pipeline.cli.decide:decide",
        "doctor": "pipeline.cli.doctor:doctor",
        "models": "pipeline.cli.models:models",
        "eval": "pipeline.cli.eval:evaluate",
        "calibrate": "pipeline.cli.calibrate:calibrate",
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  splitrtc demo                                        both sides here, on the bundled clip
  splitrtc edge --listen 0.0.0.0:8787 --token-file t   on the machine with the GPU
  splitrtc ue --edge ws://gpu-box:8787 --source 0      on the machine with the camera
""",
)
@click.version_option(VERSION, prog_name="splitrtc")
@click.pass_context
def cli(context: click.Context) -> None:
    """Split inference over WebRTC: the device runs the first part of a vision model, an edge GPU the rest."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    _fill_standard_streams()
    sys.exit(run(arguments))


def _fill_standard_streams() -> None:
    """Put something harmless where the caller has closed stdin, stdout or stderr.

    A socket would get the free number otherwise, be written to as if it were that stream, and end an event loop.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Only ``--debug`` shows a traceback."""
    flags: dict[str, bool] = {}
    try:
        result = cli.main(args=arguments, prog_name="splitrtc", standalone_mode=False, obj=flags)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except Exception as error:
        if flags.get("debug"):
            traceback.print_exc()
        if isinstance(error, ProcessFailed) and error.told:
            return error.exit_code
        if isinstance(error, SplitRtcError):
            return _fail(f"{error}{_alternatives(error)}", error.exit_code)
        what = f"{type(error).__name__}: {error}"
        return _fail(f"{what} (not foreseen: please report it, with what --debug shows)", UNFORESEEN)
    return result if isinstance(result, int) else 0


def _alternatives(error: SplitRtcError) -> str:
    """What the edge would accept, where it said so."""
    from signaling import SplitOffer

    offers = []
    for line in error.problem.get("acceptable", ()) if isinstance(error, NoCommonOperatingPoint) else ():
        with contextlib.suppress(ProtocolError):
            offers.append(SplitOffer.parse(line))
    if not offers:
        return ""
    return "; it would accept " + ", ".join(f"{offer.model}/{offer.partition}/{offer.profile}" for offer in offers)


def _fail(message: str, exit_code: int) -> int:
    click.echo(f"splitrtc: {' '.join(message.split())}", err=True)
    return exit_code
