"""``splitrtc models``: what the zoo holds, and cutting models. One module for each of its commands."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import Group, common_options, set_up_logging
from pipeline.cli.models.options import folders_option

__all__ = ["models"]

EXAMPLES = """\b
Examples:
  splitrtc models
  splitrtc models --json | python3 -m json.tool
  splitrtc models --models ./my-cards
  splitrtc models fetch yolox_nano
  splitrtc models cuts ssdlite_mbv2_coco_300 --pareto
  splitrtc models best ssdlite_mbv2_coco_300 --rate 20M --device-speed 0.25
  splitrtc models split model.onnx --after Conv_12 --out parts
  splitrtc models verify model.onnx --all
"""


@click.group(
    cls=Group,
    invoke_without_command=True,
    commands={
        "fetch": "pipeline.cli.models.fetch:fetch",
        "show": "pipeline.cli.models.show:show",
        "cuts": "pipeline.cli.models.cuts:cuts",
        "best": "pipeline.cli.models.best:best",
        "split": "pipeline.cli.models.split:split",
        "verify": "pipeline.cli.models.verify:verify",
        "time": "pipeline.cli.models.time:time",
        "draw": "pipeline.cli.models.draw:draw",
    },
    epilog=EXAMPLES,
)
@folders_option
@common_options
@click.pass_context
def models(context: click.Context, folders: tuple[Path, ...], as_json: bool, log_level: str, debug: bool) -> None:
    """List the models of the zoo with their cards: task, cuts, profiles, accuracy, licence; or work on one model."""
    if context.invoked_subcommand is None:
        set_up_logging(log_level, debug)
        from pipeline.cli.models.listing import list_models

        list_models(folders, as_json)
