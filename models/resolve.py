"""From what a user writes to a model's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.download import Download, Progress, ensure_file, fetch, is_url
from splitrtc_errors import UnknownModel

if TYPE_CHECKING:
    from models.zoo import Zoo

__all__ = ["resolve_model"]


def resolve_model(text: str, zoo: Zoo, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """Return the file of a model of the zoo, by its name and checked, the file at a path, or at a URL with its digest.

    What is not here is fetched unless ``offline``, which blocks. Raises UnknownModel when it is none of these, else
    what `models.download.ensure_file` and `fetch` raise.
    """
    if is_url(text):
        return fetch(Download.parse(text), offline=offline, progress=progress)
    if text in zoo.names():
        return ensure_file(zoo.get(text), offline=offline, progress=progress)
    path = Path(text)
    if path.is_file():
        return path
    raise UnknownModel(f"{text[:200]!r} is neither a model of the zoo ({', '.join(zoo.names())}) nor a file")
