"""What a session tells while it runs, besides results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["NO_LANE", "ModeChanged", "point_text"]

NO_LANE = "none"
"""The mode of a session that has no results to show, and none to hope for at the moment: it waits for the edge."""


@dataclass(frozen=True, slots=True)
class ModeChanged:
    """From now on frames are answered another way: by whom, at which operating point, and why."""

    mode: str
    """``local``, ``split``, ``remote`` or ``none``."""
    point: Mapping[str, Any] | None
    """Model, partition, profile, variant of the head and provider, as of `Lane.describe`; None without a lane."""
    reason: str
    time: float
    """Seconds of the local monotonic clock."""

    def to_json(self) -> dict[str, Any]:
        """The change as plain values, as ``splitrtc ue --json`` writes it."""
        point = None if self.point is None else dict(self.point)
        return {"event": "mode", "mode": self.mode, "point": point, "reason": self.reason, "time": round(self.time, 6)}

    @property
    def text(self) -> str:
        """The change in one line."""
        if self.mode == NO_LANE:
            return f"waiting for the edge: {self.reason}"
        assert self.point is not None
        return f"{self.mode}: {point_text(self.point)} ({self.reason})"


def point_text(point: Mapping[str, Any]) -> str:
    """An operating point in words; a whole model has neither cut nor profile."""
    if point.get("partition") is None:
        return str(point["model"])
    return f"{point['model']} at {point['partition']}, {point['profile']}"
