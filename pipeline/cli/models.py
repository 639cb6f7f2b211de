"""``splitrtc models``: what the zoo holds."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import common_options, echo_json, option, set_up_logging

__all__ = ["models"]

EXAMPLES = """\b
Examples:
  splitrtc models
  splitrtc models --json | python3 -m json.tool
  splitrtc models --models ./my-cards
"""


@click.command(epilog=EXAMPLES)
@option(
    "--models",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Further folder of model cards; may be repeated.",
)
@common_options
def models(folders: tuple[Path, ...], as_json: bool, log_level: str, debug: bool) -> None:
    """List the models of the zoo with their cards: task, cuts, profiles, accuracy, licence."""
    set_up_logging(log_level, debug)
    from models import Zoo

    zoo = Zoo(folders)
    cards = [zoo.get(name) for name in zoo.names()]
    if as_json:
        cut_ids = [{cut.name: card.partition_id(cut) for cut in card.partitions} for card in cards]
        echo_json([{**card.to_json(), "partition_ids": ids} for card, ids in zip(cards, cut_ids, strict=True)])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Models", title_justify="left")
    for heading in ("name", "task", "input", "cuts", "profiles", "size", "accuracy", "licence"):
        table.add_column(heading, overflow="fold")
    for card in cards:
        cuts = "\n".join(f"{cut.name}{' (default)' if cut.default else ''}" for cut in card.partitions)
        profiles = "\n".join(f"{name}{' (default)' if name == card.default_profile else ''}" for name in card.profiles)
        shape = "x".join(map(str, card.inputs[0].shape))
        table.add_row(
            card.name, card.task, shape, cuts, profiles, f"{card.size / 1e6:.1f} MB", card.accuracy, card.licence
        )
    Console().print(table)
