"""stub"""

from __future__ import annotations

from models.graph.parts import Part


def batched(part: Part) -> Part:
    """Stub."""
    raise NotImplementedError
