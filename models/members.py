"""Reading JSON that somebody else wrote, member by member, each of them known and checked."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeVar

from models.tensor import TensorSpec
from splitrtc_errors import ModelFileError, TensorError

__all__ = ["Members", "known", "read_object", "shown"]

T = TypeVar("T")

_MOST = 10**18
"""No number in a file of ours is larger."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read_object(data: bytes, limit: int, where: str) -> Members:
    """Read one JSON object of at most ``limit`` bytes; ModelFileError, which starts with ``where``, says what is wrong.

    Refused besides what is no JSON: a member that comes twice, NaN and infinities, nesting that Python cannot hold.
    """
    if len(data) > limit:
        raise ModelFileError(f"{where}: larger than {limit} bytes")
    try:
        return Members(json.loads(data.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant), where)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{where}: not JSON: {error}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member comes twice")
    return members


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


class Members:
    """The members of one JSON object, each taken once and checked; what is left over at the end is an error."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ModelFileError(f"{where}: expected an object, not {shown(value)}")
        self._left = dict(value)
        self.where = where

    def take(self, name: str, kind: type[T]) -> T:
        """A member of this type; an integer will do for a float."""
        if name not in self._left:
            raise ModelFileError(f"{self.where}: {name!r} is missing")
        value = self._left.pop(name)
        if kind is float and type(value) is int and abs(value) <= _MOST:
            value = float(value)
        if type(value) is not kind:  # not isinstance: True is no integer
            raise ModelFileError(f"{self.where}: {name!r} is a {kind.__name__}, not {shown(value)}")
        return value

    def take_number(self, name: str, low: float = 0.0, high: float = _MOST) -> float | None:
        """A number within limits; None where the member is missing."""
        if not self.has(name):
            return None
        value = self.take(name, float)
        if not low <= value <= high:
            raise ModelFileError(f"{self.where}: {name!r} is between {low:g} and {high:g}, not {shown(value)}")
        return value

    def take_count(self, name: str, low: int = 0, high: int = _MOST) -> int | None:
        """An integer within limits; None where the member is missing."""
        if not self.has(name):
            return None
        value = self.take(name, int)
        if not low <= value <= high:
            raise ModelFileError(f"{self.where}: {name!r} is between {low} and {high}, not {shown(value)}")
        return value

    def take_integer(self, name: str, low: int, high: int) -> int:
        """An integer within limits."""
        value = self.take_count(name, low, high)
        if value is None:
            raise ModelFileError(f"{self.where}: {name!r} is missing")
        return value

    def take_text(self, name: str, limit: int = 512) -> str:
        """A text of 1 to ``limit`` characters that can be written in UTF-8."""
        value = self.take(name, str)
        if not 1 <= len(value) <= limit or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ModelFileError(f"{self.where}: {name!r} is a text of 1 to {limit} characters, not {shown(value)}")
        return value

    def take_name(self, name: str) -> str:
        """A name that can be part of a file name."""
        value = self.take(name, str)
        if _NAME.fullmatch(value) is None:
            raise ModelFileError(
                f"{self.where}: {name!r} is made of letters, digits, '_', '-' and '.', at most 64, not {shown(value)}"
            )
        return value

    def take_texts(self, name: str) -> tuple[str, ...]:
        """A list of at least one text."""
        value = self.take(name, list)
        if not value or not all(isinstance(item, str) for item in value):
            raise ModelFileError(f"{self.where}: {name!r} is a list of at least one text, not {shown(value)}")
        return tuple(value)

    def take_choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of these texts."""
        value = self.take(name, str)
        if value not in choices:
            raise ModelFileError(f"{self.where}: {name!r} is {' or '.join(choices)}, not {shown(value)}")
        return value

    def take_numbers(self, name: str) -> tuple[float, ...]:
        """A list of at least one finite number."""
        value = self.take(name, list)
        if not value or not all(type(item) in (int, float) and abs(item) <= _MOST for item in value):
            raise ModelFileError(f"{self.where}: {name!r} is a list of finite numbers, not {shown(value)}")
        return tuple(map(float, value))

    def take_integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """A list of at least one integer, all within limits."""
        value = self.take(name, list)
        if not value or not all(type(item) is int and low <= item <= high for item in value):
            raise ModelFileError(
                f"{self.where}: {name!r} is a list of integers from {low} to {high}, not {shown(value)}"
            )
        return tuple(value)

    def take_plane_values(self, name: str) -> tuple[float, ...]:
        """A finite number for each of three colour planes."""
        numbers = self.take_numbers(name)
        if len(numbers) != 3:
            raise ModelFileError(f"{self.where}: {name!r} is a list of 3 finite numbers, not {shown(list(numbers))}")
        return numbers

    def take_share(self, name: str) -> float:
        """A number from 0 to 1."""
        value = self.take(name, float)
        if not 0 <= value <= 1:
            raise ModelFileError(f"{self.where}: {name!r} is between 0 and 1, not {value}")
        return value

    def take_tensors(self, name: str) -> tuple[TensorSpec, ...]:
        """A list of tensors' descriptions."""
        try:
            return tuple(TensorSpec.from_json(item) for item in self.take(name, list))
        except TensorError as error:
            raise ModelFileError(f"{self.where}: {name!r}: {error}") from error

    def has(self, name: str) -> bool:
        """Whether a member is there and was not taken yet."""
        return name in self._left

    def rest(self) -> dict[str, Any]:
        """What is left over, for another reader."""
        left, self._left = self._left, {}
        return left

    def done(self) -> None:
        """Refuse what is left over."""
        if self._left:
            raise ModelFileError(f"{self.where}: unknown {', '.join(map(shown, sorted(self._left)))}")


def known(**members: Any) -> dict[str, Any]:
    """The members of an object to write, without those of which nothing is known."""
    return {name: value for name, value in members.items() if value is not None}


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
