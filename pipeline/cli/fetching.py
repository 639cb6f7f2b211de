"""Getting the files of the models that a command names, before it starts: with a progress bar, and not if told so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli.common import option

if TYPE_CHECKING:
    from models.download import Progress

__all__ = ["fetched", "find_model", "is_offline", "local_model", "offline_option", "progress_bar"]

OFFLINE = "splitrtc.offline"

F = TypeVar("F", bound=Callable[..., Any])


def offline_option(command: F) -> F:
    """``--offline``, for the commands that fetch model files; they need not hand it on."""
    return option(
        "--offline",
        is_flag=True,
        expose_value=False,
        callback=_note_offline,
        help="Fetch no model file: end with an error when one is not here.",
    )(command)


def _note_offline(context: click.Context, _: click.Parameter, offline: bool) -> None:
    context.meta[OFFLINE] = offline


def is_offline() -> bool:
    """Whether the command was told to fetch nothing."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(OFFLINE))


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on stderr, which shows once something is being fetched; in a log, one line."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        console=console, disable=not console.is_terminal, transient=True,
    ) as bar:  # fmt: skip
        task = None

        def show(there: int, total: int | None) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task(f"fetching {title}", total=total)
                if not console.is_terminal:
                    console.print(f"fetching {title}" + (f", {total / 1e6:.1f} MB" if total else ""), markup=False)
            bar.update(task, completed=there, total=total)

        yield show


def find_model(model: str, folders: Sequence[Path]) -> Path:
    """Return the file of a model that is given by name, path or URL with digest; fetched when it is not here.

    Raises what `models.resolve_model` raises; Unreachable instead of fetching with ``--offline``.
    """
    from models import Zoo, resolve_model

    with progress_bar(model) as progress:
        return resolve_model(model, Zoo(folders), offline=is_offline(), progress=progress)


def fetched(models: Sequence[str], folders: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of models that have a card, given by name or by URL with digest, when their files are here.

    Raises UnknownModel for a model without a card, Unreachable or ModelFileError when a file cannot be had.
    """
    from models import Zoo
    from models.download import Download, is_url

    if not models:
        return ()
    zoo = Zoo(folders)
    cards = [zoo.by_digest(Download.parse(model).digest) if is_url(model) else zoo.get(model) for model in models]
    for model, card in zip(models, cards, strict=True):
        if not (is_url(model) and card.is_here):
            find_model(model, folders)
    return tuple(card.name for card in cards)


def local_model(model: str, folders: Sequence[Path], *, bundled: bool = True) -> str:
    """Return a model's name, its file fetched if there is a card of it here; else as it is: an edge may deliver it."""
    from models import Zoo
    from models.download import is_url

    if not is_url(model) and model not in Zoo(folders, bundled=bundled).names():
        return model
    return fetched([model], folders)[0]
