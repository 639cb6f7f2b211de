"""The user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from models.identity import digest_hex

__all__ = ["CACHE_VARIABLE", "default_cache_dir", "model_cache_path"]

CACHE_VARIABLE = "SPLITRTC_CACHE"


def default_cache_dir() -> Path:
    """Return the folder that SPLITRTC_CACHE names, else the user's cache folder of this platform."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    import platformdirs

    return platformdirs.user_cache_path("splitrtc")


def model_cache_path(digest: str) -> Path:
    """Return where the model's file of this digest lies once it was downloaded."""
    return default_cache_dir() / "models" / f"{digest_hex(digest)}.onnx"
