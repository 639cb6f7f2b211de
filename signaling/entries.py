"""Objects that travel as JSON, each declared once: the names of its members, and how each is taken and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self

from models.members import Members
from splitrtc_errors import ModelFileError

__all__ = ["Entry", "Take", "choice", "flag", "integer", "matching", "maybe", "number", "one", "some"]

Take = Callable[[Members, str], Any]
"""Takes a member by its name and checks it; ModelFileError says what is wrong."""


class Entry:
    """An object of a manifest: read as ``_members`` say, written as its fields are, without those that are None."""

    __slots__ = ()
    _members: ClassVar[Mapping[str, Take]] = {}

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read it strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        entry = cls(**{name: take(members, name) for name, take in cls._members.items()})
        members.done()
        entry._check(where)
        return entry

    def _check(self, where: str) -> None:
        """Refuse members that are well-formed but do not fit each other."""

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return {name: _plain(value) for name, value in values if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.to_json() if hasattr(value, "to_json") else value


def one(kind: type[Entry]) -> Take:
    """An object of this kind."""
    return lambda members, name: kind.from_json(members.take(name, dict), f"{members.where}: {name}")


def maybe(take: Take) -> Take:
    """None where the member is missing."""
    return lambda members, name: take(members, name) if members.has(name) else None


def some(kind: type[Entry], limit: int, key: Callable[[Any], str]) -> Take:
    """At most ``limit`` entries, of which no two have the same ``key``."""

    def take(members: Members, name: str) -> tuple[Any, ...]:
        values = members.take(name, list)
        if len(values) > limit:
            raise ModelFileError(f"{members.where}: {name!r} has at most {limit} members")
        entries = tuple(kind.from_json(item, f"{members.where}: {name} {i}") for i, item in enumerate(values))
        if len(set(map(key, entries))) < len(entries):
            raise ModelFileError(f"{members.where}: {name!r} tells something twice")
        return entries

    return take


def matching(allowed: Callable[[str], bool], what: str) -> Take:
    """A text that is allowed; ``what`` says which are."""

    def take(members: Members, name: str) -> str:
        value = members.take(name, str)
        if not allowed(value):
            raise ModelFileError(f"{members.where}: {name!r} is {what}")
        return value

    return take


def number(high: float) -> Take:
    """A number from 0; None where the member is missing."""
    return lambda members, name: members.take_number(name, high=high)


def integer(low: int, high: int) -> Take:
    """An integer within limits."""
    return lambda members, name: members.take_integer(name, low, high)


def choice(choices: tuple[str, ...]) -> Take:
    """One of these texts."""
    return lambda members, name: members.take_choice(name, choices)


def flag(members: Members, name: str) -> bool:
    """True or false."""
    return members.take(name, bool)
