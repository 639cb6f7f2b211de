"""``splitrtc models`` without a command: what the zoo holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.common import echo_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from models import ModelCard

__all__ = ["list_models"]


def list_models(folders: tuple[Path, ...], as_json: bool) -> None:
    """Print the cards of the zoo and of further folders."""
    from models import Zoo

    zoo = Zoo(folders)
    cards = [zoo.get(name) for name in zoo.names()]
    if as_json:
        cut_ids = [{cut.name: card.partition_id(cut) for cut in card.partitions} for card in cards]
        echo_json([{**card.to_json(), "partition_ids": ids} for card, ids in zip(cards, cut_ids, strict=True)])
        return
    from rich.console import Console

    console = Console()
    for card in cards:
        console.print(_card_table(card))


def _card_table(card: ModelCard) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    cuts = [
        f"{cut.name}{' (default)' if cut.default else ''}: {', '.join(cut.tensors)}  {card.partition_id(cut)}"
        for cut in card.partitions
    ]
    profiles = [f"{name}{' (default)' if name == card.default_profile else ''}" for name in card.profiles]
    table = Table(
        title=card.name, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("what", card.title),
        ("task", card.task),
        ("input", ", ".join(map(str, card.inputs))),
        ("cuts", "\n".join(cuts) or "found in the file"),
        ("profiles", ", ".join(profiles)),
        ("accuracy", card.accuracy),
        ("file", f"{card.file}, {card.size / 1e6:.1f} MB, {card.digest}{'' if card.is_here else ' (not here)'}"),
        ("licence", card.licence),
        ("source", card.source),
    ):
        table.add_row(name, Text(value))  # brackets in a plain string would be taken for markup
    return table
