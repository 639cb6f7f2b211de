"""The user's cache folder, and how what is in it stays within bounds."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from models.identity import digest_hex
from splitrtc_errors import BadArgument

__all__ = ["CACHE_VARIABLE", "SIZE_VARIABLE", "cache_limit", "default_cache_dir", "model_cache_path", "trim"]

CACHE_VARIABLE = "SPLITRTC_CACHE"
SIZE_VARIABLE = "SPLITRTC_CACHE_MB"
DEFAULT_MB = 2000

IN_USE_SECONDS = 60.0
"""Between getting a file from the cache and having opened it."""


def default_cache_dir() -> Path:
    """Return the folder that SPLITRTC_CACHE names, else the user's cache folder of this platform."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    import platformdirs

    return platformdirs.user_cache_path("splitrtc")


def model_cache_path(digest: str) -> Path:
    """Return where the model's file of this digest lies once it was downloaded."""
    return default_cache_dir() / "models" / f"{digest_hex(digest)}.onnx"


def cache_limit() -> int:
    """How many bytes what was made, and what was delivered, may each take: SPLITRTC_CACHE_MB megabytes, else 2 GB."""
    text = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_MB)
    if not text.isascii() or not text.isdigit():
        raise BadArgument(f"{SIZE_VARIABLE} is a number of megabytes, not {text[:100]!r}")
    return int(text) * 10**6


def trim(entries: Iterable[Path], limit: int, keep: Path, used: Callable[[Path], float]) -> None:
    """Remove the files or folders that were not used for the longest time, until the rest fits; never ``keep``.

    Nor one that was used a moment ago: whoever got it may not have opened it yet. ``used`` tells when that was, in
    seconds of the wall clock.
    """
    found = []
    for entry in entries:
        with contextlib.suppress(OSError):  # another process removes it just now
            found.append((used(entry), _size(entry), entry))
    total = sum(size for _, size, _ in found)
    for _, size, entry in sorted(found):
        if total <= limit:
            return
        if entry == keep:
            continue
        # In one step, right after looking: who asks for it meanwhile finds nothing and makes it again.
        gone = entry.with_name(f".{entry.name}.{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            if time.time() - used(entry) < IN_USE_SECONDS:
                continue
            entry.rename(gone)
            shutil.rmtree(gone, ignore_errors=True) if gone.is_dir() else gone.unlink()
            total -= size


def _size(entry: Path) -> int:
    return sum(path.stat().st_size for path in (entry.iterdir() if entry.is_dir() else [entry]))
