"""What was measured on this machine, kept in the cache folder: measuring again would find the same, and takes time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from models.cache import default_cache_dir
from models.files import replace_file

__all__ = ["machine", "remembered"]

FORMAT = 1
MAX_AGE = 14 * 86_400
"""Seconds after which it is measured again: a machine may be throttled, or busy, on the day."""
MAX_BYTES = 4_096


def machine() -> str:
    """This machine and what runs models on it, as far as it matters to how fast."""
    from models.runtime import runtime_version

    return f"{platform.machine()} {_processor()} {os.cpu_count()} onnxruntime {runtime_version()}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor()


def remembered(what: str, measure: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """What ``measure`` found, on this machine, of ``what``; measured now if it was not, or long ago.

    Any number of processes may do so at once: a file is replaced in one step, and the last one stays. A cache that
    cannot be read or written costs the time, nothing else.
    """
    key = f"{FORMAT} {machine()} {what}"
    path = default_cache_dir() / "measured" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    found = _read(path, key)
    if found is None:
        found = dict(measure())
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps({"key": key, "values": found}).encode())
    return found


def _read(path: Path, key: str) -> dict[str, float] | None:
    try:
        if not 0 <= time.time() - path.stat().st_mtime <= MAX_AGE:
            return None
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_BYTES))
        values = value["values"]
        usable = all(type(number) in (int, float) and 0 <= number < math.inf for number in values.values())
        return dict(values) if usable and value["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
