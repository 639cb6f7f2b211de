"""Reading what a JSON file says, strictly: each member is taken once and checked, and what is left over is an error."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TypeVar

from models.tensor import TensorSpec
from splitrtc_errors import ModelFileError, TensorError

__all__ = ["Members", "shown"]

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Members:
    """The members of one JSON object. Every method raises ModelFileError, which starts with ``where``."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ModelFileError(f"{where}: expected an object, not {shown(value)}")
        self._left = dict(value)
        self._where = where

    def has(self, name: str) -> bool:
        """Whether an optional member is there, not taken yet."""
        return name in self._left

    def take(self, name: str, kind: type[T]) -> T:
        """A member of exactly this type; an integer is also taken for a float."""
        if name not in self._left:
            raise ModelFileError(f"{self._where}: {name!r} is missing")
        value = self._left.pop(name)
        if kind is float and type(value) is int:
            value = float(value) if abs(value) < 2**1023 else math.inf
        if type(value) is not kind:  # not isinstance: True is no integer
            raise self._wrong(name, f"a {kind.__name__}", value)
        return value

    def take_name(self, name: str) -> str:
        """A name that is also good for a file: it leads nowhere else."""
        value = self.take(name, str)
        if _NAME.fullmatch(value) is None:
            raise ModelFileError(
                f"{self._where}: {name!r} is made of letters, digits, '_', '-' and '.', at most 64, not {shown(value)}"
            )
        return value

    def take_texts(self, name: str) -> tuple[str, ...]:
        """A list of at least one text."""
        value = self.take(name, list)
        if not value or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of at least one text", value)
        return tuple(value)

    def take_choice(self, name: str, choices: Sequence[str]) -> str:
        """One of these texts."""
        value = self.take(name, str)
        if value not in choices:
            raise self._wrong(name, " or ".join(choices), value)
        return value

    def take_plane_values(self, name: str) -> tuple[float, ...]:
        """A list of three finite numbers, one for each colour plane."""
        numbers = self.take_numbers(name)
        if len(numbers) != 3:
            raise self._wrong(name, "a list of 3 finite numbers", list(numbers))
        return numbers

    def take_numbers(self, name: str) -> tuple[float, ...]:
        """A list of at least one finite number."""
        value = self.take(name, list)
        numbers = [float(item) for item in value if type(item) in (int, float) and abs(item) < 2**1023]
        if not numbers or len(numbers) != len(value):
            raise self._wrong(name, "a list of finite numbers", value)
        return tuple(numbers)

    def take_integers(self, name: str, lowest: int, highest: int) -> tuple[int, ...]:
        """A list of at least one integer, all within these bounds."""
        value = self.take(name, list)
        if not value or not all(type(item) is int and lowest <= item <= highest for item in value):
            raise self._wrong(name, f"a list of integers from {lowest} to {highest}", value)
        return tuple(value)

    def take_share(self, name: str) -> float:
        """A number from 0 to 1."""
        value = self.take(name, float)
        if not 0 <= value <= 1:
            raise ModelFileError(f"{self._where}: {name!r} is between 0 and 1, not {value}")
        return value

    def take_tensors(self, name: str) -> tuple[TensorSpec, ...]:
        """A list of descriptions of tensors."""
        try:
            return tuple(TensorSpec.from_json(item) for item in self.take(name, list))
        except TensorError as error:
            raise ModelFileError(f"{self._where}: {name!r}: {error}") from error

    def done(self) -> None:
        """Refuse members that nobody has taken."""
        if self._left:
            raise ModelFileError(f"{self._where}: unknown {', '.join(map(shown, sorted(self._left)))}")

    def _wrong(self, name: str, expected: str, value: object) -> ModelFileError:
        return ModelFileError(f"{self._where}: {name!r} is {expected}, not {shown(value)}")


def shown(value: object) -> str:
    """How a message shows a value: in at most 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
