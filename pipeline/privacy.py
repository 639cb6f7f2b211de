"""What may leave the device: with `no-pictures` neither the picture nor a cut that has it among its tensors.

It is the device that sees to it, three times: in what it offers, when it reads the answer, and before it sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from splitrtc_errors import BadArgument, ProtocolError

if TYPE_CHECKING:
    from pipeline.offers import OperatingPoint

__all__ = ["refuse_pictures", "without_pictures"]


def without_pictures(points: Sequence[OperatingPoint], privacy: str) -> Sequence[OperatingPoint]:
    """The points that may be offered. BadArgument when there were some, and privacy leaves none."""
    allowed = points if privacy == "any" else [point for point in points if not point.carries_input]
    if points and not allowed:
        raise BadArgument("privacy no-pictures: what was asked for would send the picture itself; choose another cut")
    return allowed


def refuse_pictures(point: OperatingPoint, privacy: str) -> None:
    """Look once more before anything is sent at a point. ProtocolError when it would break the privacy asked for."""
    if privacy != "any" and point.carries_input:
        raise ProtocolError(f"the edge wants {point.cut.name} of {point.card.name}, which would send the picture")
