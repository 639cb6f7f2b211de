"""The bundled clip: ten seconds of moving over four freely usable photographs (see SOURCES.md beside it)."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CLIP"]

CLIP = Path(__file__).with_name("clip.mp4")
"""H.264, 640x480, 30 frames per second, 300 frames; the last frame leads over to the first, so it can run in a loop."""
