"""Getting the files of the models that a command names, before it starts: with a progress bar, and not if told so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.cli.common import option

if TYPE_CHECKING:
    from models.download import Progress

__all__ = ["fetched", "offline_option", "progress_bar"]

F = TypeVar("F", bound=Callable[..., Any])


def offline_option(command: F) -> F:
    """``--offline``, for the commands that fetch model files."""
    return option("--offline", is_flag=True, help="Fetch no model file: end with an error when one is not here.")(
        command
    )


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


def fetched(models: Sequence[str], folders: Sequence[Path], offline: bool) -> tuple[str, ...]:
    """Return the names of models given by name or by URL with digest, after fetching the files that are not here.

    Raises UnknownModel for a model without a card, Unreachable or ModelFileError when a file cannot be had.
    """
    from models import Zoo
    from models.download import Download, ensure_file, fetch, is_url

    zoo = Zoo(folders)
    names = []
    for model in models:
        with progress_bar(model) as progress:
            if is_url(model):
                download = Download.parse(model)
                card = zoo.by_digest(download.digest)
                if not card.is_here:
                    fetch(Download(download.url, card.digest, card.size), offline=offline, progress=progress)
            else:
                card = zoo.get(model)
                ensure_file(card, offline=offline, progress=progress)
        names.append(card.name)
    return tuple(names)
