"""The ladder of a partition: its profiles, what they were measured to cost and how accurate they are.

It is part of the model's card (models/card.py), and what a choice of the profile goes by: to a split point's
intermediate data size (TR 26.927 clause 6.6.3) it adds the bytes after compression, which depend on the content.
Reading it loads no numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from models.codecs import is_profile_id
from models.members import Members
from splitrtc_errors import ModelFileError

__all__ = ["CONTENTS", "Measurement", "Rung", "read_ladder"]

CONTENTS = ("static", "moving", "intra")
"""A clip from a camera that stands still, one from a camera that moves, and single images."""
MAX_RUNGS = 64


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one profile made of one set of frames, as `splitrtc eval rate` measures it (docs/evaluation.md).

    ``bytes`` per frame are in steady state and include headers; ``encode_ms`` and ``decode_ms`` are medians on one
    thread. ``f1`` is the agreement of the detections with those of the whole model, ``f1_ci`` its 5 to 95 % interval;
    ``map_drop`` and its interval, of labelled images, are in percent.
    """

    content: str
    set: str
    bytes: float
    encode_ms: float
    decode_ms: float
    f1: float
    f1_ci: tuple[float, float]
    map_drop: float | None = None
    map_drop_ci: tuple[float, float] | None = None

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read it strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        labelled = members.has("map_drop")
        measurement = cls(
            content=members.take_choice("content", CONTENTS),
            set=members.take_text("set"),
            bytes=_number(members, "bytes"),
            encode_ms=_number(members, "encode_ms"),
            decode_ms=_number(members, "decode_ms"),
            f1=members.take_share("f1"),
            f1_ci=_interval(members, "f1_ci", 0, 1),
            map_drop=_number(members, "map_drop", -100, 100) if labelled else None,
            map_drop_ci=_interval(members, "map_drop_ci", -100, 100) if labelled else None,
        )
        members.done()
        return measurement

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        value = {
            "content": self.content,
            "set": self.set,
            "bytes": self.bytes,
            "encode_ms": self.encode_ms,
            "decode_ms": self.decode_ms,
            "f1": self.f1,
            "f1_ci": list(self.f1_ci),
        }
        if self.map_drop is not None and self.map_drop_ci is not None:
            value |= {"map_drop": self.map_drop, "map_drop_ci": list(self.map_drop_ci)}
        return value


@dataclass(frozen=True, slots=True)
class Rung:
    """One profile of the ladder, with at most one measurement of each content."""

    profile: str
    measured: tuple[Measurement, ...]

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read it strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        profile = members.take("profile", str)
        if not is_profile_id(profile):
            raise ModelFileError(f"{where}: 'profile' is the id of a profile, not {profile[:100]!r}")
        items = members.take("measured", list)
        measured = tuple(Measurement.from_json(item, f"{where}: {profile}") for item in items)
        members.done()
        if len({one.content for one in measured}) != len(items):
            raise ModelFileError(f"{where}: {profile} is measured once on each content")
        return cls(profile, measured)

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        return {"profile": self.profile, "measured": [one.to_json() for one in self.measured]}


def read_ladder(value: list[object], where: str) -> tuple[Rung, ...]:
    """Read a ladder strictly; ModelFileError, which starts with ``where``, says what is wrong."""
    if len(value) > MAX_RUNGS:
        raise ModelFileError(f"{where}: a ladder has at most {MAX_RUNGS} rungs")
    rungs = tuple(Rung.from_json(item, where) for item in value)
    if len({rung.profile for rung in rungs}) != len(rungs):
        raise ModelFileError(f"{where}: no two rungs have the same profile")
    return rungs


def _number(members: Members, name: str, low: float = 0.0, high: float = 1e12) -> float:
    value = members.take_number(name, low, high)
    if value is None:
        raise ModelFileError(f"{members.where}: {name!r} is missing")
    return value


def _interval(members: Members, name: str, low: float, high: float) -> tuple[float, float]:
    ends = members.take_numbers(name)
    if len(ends) != 2 or not low <= ends[0] <= ends[1] <= high:
        raise ModelFileError(f"{members.where}: {name!r} is the two ends of an interval from {low:g} to {high:g}")
    return ends[0], ends[1]
