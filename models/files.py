"""Writing files in one step."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["draft", "replace_file"]


@contextlib.contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; what is there at the end replaces ``path``, or goes when an error came.

    Nobody ever sees half a file. No fsync: digests find what a power cut destroys.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")  # tempfile's would be ours alone
    try:
        yield beside
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Write a file of this content in one step; OSError when that fails."""
    with draft(path) as beside:
        beside.write_bytes(data)
