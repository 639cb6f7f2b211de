"""Reading JSON that somebody else wrote: one object, bounded, without what RFC 8259 leaves open."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from splitrtc_errors import ProtocolError

__all__ = ["integer_of", "member", "printable", "read_object", "text_of", "write_object"]


def read_object(text: str, max_bytes: int) -> dict[str, Any]:
    """Read one JSON object of at most ``max_bytes`` bytes of UTF-8.

    Raises ProtocolError for everything else, and for duplicate keys, NaN, infinities, numbers beyond the range of a
    double, and nesting that Python cannot hold. Messages never quote what came.
    """
    try:
        size = len(text.encode()) if len(text) <= max_bytes else len(text)
    except UnicodeEncodeError:
        raise ProtocolError("the message is not Unicode text") from None
    if size > max_bytes:
        raise ProtocolError(f"the message has more than {max_bytes} bytes")
    try:
        value = json.loads(
            text, object_pairs_hook=_distinct, parse_constant=_refuse_constant, parse_float=_finite_number
        )
    except RecursionError:
        raise ProtocolError("the message is nested too deeply") from None
    except ValueError as error:  # includes integers of more digits than int() takes
        reason = f"{error.msg} at {error.pos}" if isinstance(error, json.JSONDecodeError) else "a number is too long"
        raise ProtocolError(f"the message is not JSON: {reason}") from None
    if not isinstance(value, dict):
        raise ProtocolError("the message is not a JSON object")
    return value


def write_object(value: dict[str, Any]) -> str:
    """Write an object compactly, in ASCII: surrogates and control characters cannot break a frame or a log."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def member(fields: dict[str, Any], name: str) -> Any:
    """The member ``name``; ProtocolError when there is none."""
    if name not in fields:
        raise ProtocolError(f"{name} is missing")
    return fields[name]


def text_of(fields: dict[str, Any], name: str, low: int, high: int) -> str:
    """The text ``name`` of ``low`` to ``high`` characters, without lone surrogates; else ProtocolError."""
    value = member(fields, name)
    if not isinstance(value, str) or not low <= len(value) <= high:
        raise ProtocolError(f"{name}: expected a text of {low} to {high} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ProtocolError(f"{name} is not Unicode text") from None
    return value


def integer_of(fields: dict[str, Any], name: str, low: int, high: int) -> int:
    """The integer ``name`` from ``low`` to ``high``; else ProtocolError. ``true`` and ``1.0`` are no integers."""
    value = member(fields, name)
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"{name}: expected an integer from {low} to {high}")
    return value


def printable(text: str) -> str:
    """``text`` with whatever a terminal or a log might obey, and lone surrogates, replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ProtocolError("an object has a key twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ProtocolError(f"{name} is not a JSON value")


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ProtocolError("a number is beyond the range of a double")
    return value
