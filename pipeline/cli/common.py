"""What the commands share: flags with their environment variables, lazy loading, JSON on stdout."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from pipeline import logs
from splitrtc_errors import BadArgument, SinkError

__all__ = [
    "SECONDS",
    "VERSION",
    "Group",
    "common_options",
    "echo_json",
    "echo_table",
    "link_option",
    "option",
    "read_token",
    "run_async",
]

VERSION = metadata.version("splitrtc")

MAX_TOKEN_FILE = 4096
"""Characters of a token file that are read; the token is in the first line, and has fewer."""

SECONDS = click.FloatRange(0, 1e9, min_open=True)
"""How long to go on."""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Group(click.Group):
    """A group whose commands are imported when they are called: ``splitrtc --help`` loads no model and no network."""

    def __init__(self, *args: Any, commands: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = dict(commands or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order in which a newcomer needs them."""
        return list(self._places)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if (place := self._places.get(name)) is None:
            return None
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


def option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """A flag that is also read from the environment: ``--max-sessions`` from ``SPLITRTC_MAX_SESSIONS``."""
    flag = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "SPLITRTC_" + flag.removeprefix("--").replace("-", "_").upper()
    if attributes.get("show_default") is None and attributes.get("default") not in (None, (), False):
        attributes["show_default"] = True
    return click.option(*names, envvar=variable, show_envvar=True, **attributes)


def link_option(command: F) -> F:
    """``--link``, for the commands that run a UE."""
    return option(
        "--link",
        metavar="SETTINGS",
        help="Emulate a network link to the edge, e.g. rtt=40,loss=1%,rate=5M (also jitter, burst, reorder, duplicate,"
        " corrupt, queue, outage, seed, trace).",
    )(command)


def common_options(command: F) -> F:
    """``--json``, ``--log-level`` and ``--debug``, for every command."""
    for decorate in (
        option("--debug", is_flag=True, callback=_note_debug, help="Show everything, tracebacks included."),
        option(
            "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="What to log."
        ),
        option("--json", "as_json", is_flag=True, help="One JSON value on stdout and nothing else."),
    ):
        command = decorate(command)
    return command


def _note_debug(context: click.Context, _: click.Parameter, debug: bool) -> bool:
    """Let the caller of the whole command line know, whether the flag or the environment said so."""
    context.ensure_object(dict)["debug"] = debug
    return debug


def set_up_logging(log_level: str, debug: bool) -> None:
    """Start logging for a command."""
    logs.configure(log_level, debug=debug)


def echo_json(value: Any) -> None:
    """Write one JSON value to stdout; in ASCII, because a path may hold what stdout's encoding does not have.

    Raises SinkError when it cannot be written; that nobody reads it any more is no error, and left to click.
    """
    try:
        click.echo(json.dumps(value, allow_nan=False))
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget_stdout()
        raise SinkError(f"cannot write standard output: {error.strerror}") from error


def _forget_stdout() -> None:
    """Let what stdout still holds go nowhere: Python would try it again at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):  # one that is no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def echo_table(summary: Mapping[str, Any]) -> None:
    """Write the table of a run's stages to stderr: stdout may hold JSON lines."""
    from rich.console import Console

    from pipeline.table import summary_table

    Console(stderr=True).print(summary_table(summary))


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine, on uvloop where that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def _on_command_line(parameter: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def read_token(token: str | None, token_file: Path | None) -> str | None:
    """The token as given, or the first line of a file; raises BadArgument for both, or for an unreadable file.

    Of a flag and a variable of the environment the flag counts.
    """
    if token_file is None:
        return token
    if token is not None:
        from_command_line = _on_command_line("token"), _on_command_line("token_file")
        if from_command_line == (True, False):
            return token
        if from_command_line != (False, True):
            raise BadArgument("give either --token or --token-file")
    try:
        with token_file.open(encoding="utf-8") as file:
            line = file.readline(MAX_TOKEN_FILE)
    except OSError as error:
        raise BadArgument(f"cannot read the token from {token_file}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadArgument(f"token file {token_file}: expected text, found something else") from None
    if not line.strip() or len(line) == MAX_TOKEN_FILE:
        raise BadArgument(f"token file {token_file}: expected a token in the first line, and found none")
    return line.strip()
