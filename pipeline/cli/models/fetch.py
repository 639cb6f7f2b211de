"""``splitrtc models fetch``: get the files of models."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import common_options, echo_json, set_up_logging
from pipeline.cli.fetching import find_model, offline_option
from pipeline.cli.models.options import folders_option

__all__ = ["fetch"]

EXAMPLES = """\b
Examples:
  splitrtc models fetch yolox_nano deimv2_femto
  splitrtc models fetch https://example.org/model.onnx#sha-256=0123...
"""


@click.command(epilog=EXAMPLES)
@click.argument("names", metavar="MODEL...", nargs=-1, required=True)
@folders_option
@offline_option
@common_options
def fetch(names: tuple[str, ...], folders: tuple[Path, ...], as_json: bool, log_level: str, debug: bool) -> None:
    """Fetch models' files into the cache, where they are not here, check them and say where they are."""
    set_up_logging(log_level, debug)
    paths = {name: str(find_model(name, folders).absolute()) for name in names}
    if as_json:
        echo_json(paths)
        return
    for path in paths.values():
        click.echo(path)
