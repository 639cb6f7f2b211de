"""The command ``splitrtc``: verbs, flags, environment, exit codes.

Every flag is also an environment variable (``--bind`` is ``SPLITRTC_BIND``), errors are one line on stderr with the
exit code of their class in `splitrtc_errors`, and with ``--json`` stdout holds one JSON value and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from pipeline.cli.common import VERSION, Group
from splitrtc_errors import SplitRtcError

__all__ = ["cli", "main"]

INTERRUPTED = 130


@click.group(
    cls=Group,
    invoke_without_command=True,
    commands={
        "demo": "pipeline.cli.demo:demo",
        "edge": "pipeline.cli.edge:edge",
        "ue": "pipeline.cli.ue:ue",
        "doctor": "pipeline.cli.doctor:doctor",
        "models": "pipeline.cli.models:models",
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
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Only ``--debug`` shows a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = cli.main(args=words, prog_name="splitrtc", standalone_mode=False)
    except click.Abort:
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except SplitRtcError as error:
        if "--debug" in words:
            raise
        return _fail(str(error), error.exit_code)
    return result if isinstance(result, int) else 0


def _fail(message: str, exit_code: int) -> int:
    click.echo(f"splitrtc: {' '.join(message.split())}", err=True)
    return exit_code
