"""From what a user writes to a model's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from splitrtc_errors import UnknownModel

if TYPE_CHECKING:
    from models.zoo import Zoo

__all__ = ["resolve_model"]


def resolve_model(text: str, zoo: Zoo) -> Path:
    """Return the file of a model of the zoo, by its name and checked, or the file at a path.

    Raises UnknownModel when it is neither, ModelFileError when the zoo's file is damaged.
    """
    if text in zoo.names():
        return zoo.get(text).verified_path()
    path = Path(text)
    if path.is_file():
        return path
    raise UnknownModel(f"{text[:200]!r} is neither a model of the zoo ({', '.join(zoo.names())}) nor a file")
