"""What the commands share: flags with their environment variables, lazy loading, JSON on stdout."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline import logs
from splitrtc_errors import BadArgument

__all__ = ["VERSION", "Group", "common_options", "echo_json", "echo_table", "option", "read_token"]

VERSION = metadata.version("splitrtc")

MAX_TOKEN_FILE = 4096
"""Bytes of a token file, at most."""

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


def common_options(command: F) -> F:
    """``--json``, ``--log-level`` and ``--debug``, for every command."""
    for decorate in (
        option("--debug", is_flag=True, help="Show everything, tracebacks included."),
        option(
            "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="What to log."
        ),
        option("--json", "as_json", is_flag=True, help="One JSON value on stdout and nothing else."),
    ):
        command = decorate(command)
    return command


def set_up_logging(log_level: str, debug: bool) -> None:
    """Start logging for a command."""
    logs.configure(log_level, debug=debug)


def echo_json(value: Any) -> None:
    """Write one JSON value to stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def echo_table(summary: Mapping[str, Any]) -> None:
    """Write the table of a run's stages to stderr: stdout may hold JSON lines."""
    from rich.console import Console

    from pipeline.table import summary_table

    title = f"{summary['model']} at {summary['partition']}, {summary['profile']}"
    Console(stderr=True).print(summary_table(summary, title))


def read_token(token: str | None, token_file: Path | None) -> str | None:
    """The token as given, or the first line of a file; raises BadArgument for both, or for an unreadable file."""
    if token_file is None:
        return token
    if token is not None:
        raise BadArgument("give either --token or --token-file")
    try:
        with token_file.open(encoding="utf-8") as file:
            line = file.read(MAX_TOKEN_FILE).split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(f"cannot read the token from {token_file}: {error}") from error
    if not line:
        raise BadArgument(f"token file {token_file}: expected a token in the first line, found none")
    return line
