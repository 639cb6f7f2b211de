"""Messages of the control channel (docs/protocol.md section 2) as values, and their JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from models.codecs import is_profile_id
from models.identity import is_digest, is_partition_id
from models.tensor import MAX_ELEMENTS, TensorSpec
from signaling.aisplit import Direction, is_variant
from signaling.strictjson import integer_of, member, printable, read_object, text_of, write_object
from splitrtc_errors import BadArgument, ProtocolError, TensorError

__all__ = [
    "MAX_MESSAGE",
    "Bye",
    "ControlMessage",
    "Drain",
    "ParameterSet",
    "ParameterSetAck",
    "ParameterSetReject",
    "ParameterSetRelease",
    "ParameterSetReleased",
    "PeerFailure",
    "Report",
    "parse_control",
    "serialise_control",
]

MAX_MESSAGE = 16_384
"""Bytes of one message."""
MAX_SET_ID = 255
MAX_TENSORS = 64
MAX_DEADLINE_MS = 60_000
MAX_DRAIN_MS = 3_600_000
MAX_FIGURES = 64
MAX_NAME = 64
MAX_TEXT = 500

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """An AI parameter set: what the units that carry its id contain.

    ``model`` and ``calibration`` are digests. How long after its first slice a frame is still waited for while
    incomplete: ``deadline_ms``; and is still worth processing: ``budget_ms``.
    """

    id: int
    direction: Direction
    model: str
    partition: str
    variant: str
    profile: str
    calibration: str | None
    tensors: tuple[TensorSpec, ...]
    deadline_ms: int
    budget_ms: int

    @property
    def operating_point(self) -> tuple[str, str, str, str, str | None, str]:
        """What it has in common with the `SplitOffer` that stands for the same work."""
        return (self.model, self.partition, self.variant, self.profile, self.calibration, self.direction)


@dataclass(frozen=True, slots=True)
class ParameterSetAck:
    """The set may be used from now on."""

    id: int


@dataclass(frozen=True, slots=True)
class ParameterSetReject:
    """The set is refused; its id is free."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class ParameterSetRelease:
    """The sender will not use the set any more."""

    id: int


@dataclass(frozen=True, slots=True)
class ParameterSetReleased:
    """The receiver has forgotten the set; its id may be used again."""

    id: int


@dataclass(frozen=True, slots=True)
class Report:
    """Statistics of the sender (TR 26.927 clause 5.3.5, steps 16 to 19)."""

    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PeerFailure:
    """Something failed at the sender; the session goes on. On the wire: ``error``."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Drain:
    """The edge will end all its sessions in so many milliseconds: who has another edge goes there now."""

    within_ms: int


@dataclass(frozen=True, slots=True)
class Bye:
    """The session ends now."""

    reason: str


ControlMessage = (
    ParameterSet
    | ParameterSetAck
    | ParameterSetReject
    | ParameterSetRelease
    | ParameterSetReleased
    | Report
    | PeerFailure
    | Drain
    | Bye
)


def parse_control(text: str) -> ControlMessage | None:
    """Read one message; None for one of an unknown type, which is to be counted and ignored.

    Raises ProtocolError for everything that is not such a message within the limits.
    """
    fields = read_object(text, MAX_MESSAGE)
    reader = _READERS.get(text_of(fields, "type", 1, MAX_NAME))
    return None if reader is None else reader(fields)


def serialise_control(message: ControlMessage) -> str:
    """Write one message. Long texts are cut; BadArgument when the peer would refuse the rest."""
    text = write_object(_write(message))
    try:
        parse_control(text)
    except ProtocolError as error:
        raise BadArgument(f"cannot send this {type(message).__name__}: {error}") from None
    return text


def _write(message: ControlMessage) -> dict[str, Any]:
    match message:
        case ParameterSet():
            return {
                "type": "aips",
                "id": message.id,
                "direction": message.direction,
                "model": message.model,
                "partition": message.partition,
                "variant": message.variant,
                "profile": message.profile,
                "calibration": message.calibration,
                "tensors": [tensor.to_json() for tensor in message.tensors],
                "deadline_ms": message.deadline_ms,
                "budget_ms": message.budget_ms,
            }
        case ParameterSetAck(id_):
            return {"type": "aips-ack", "id": id_}
        case ParameterSetReject(id_, reason):
            return {"type": "aips-reject", "id": id_, "reason": printable(reason[:MAX_TEXT])}
        case ParameterSetRelease(id_):
            return {"type": "aips-release", "id": id_}
        case ParameterSetReleased(id_):
            return {"type": "aips-released", "id": id_}
        case Report(figures):
            return {"type": "report", "figures": dict(figures)}
        case PeerFailure(code, detail):
            return {"type": "error", "code": code, "detail": printable(detail[:MAX_TEXT])}
        case Drain(within_ms):
            return {"type": "drain", "within_ms": within_ms}
    return {"type": "bye", "reason": printable(message.reason[:MAX_TEXT])}


def _read_set(fields: dict[str, Any]) -> ParameterSet:
    direction = text_of(fields, "direction", 1, MAX_NAME)
    if direction not in ("up", "down"):
        raise ProtocolError("direction: expected up or down")
    model = text_of(fields, "model", 1, MAX_TEXT)
    calibration = None if member(fields, "calibration") is None else text_of(fields, "calibration", 1, MAX_TEXT)
    if not is_digest(model) or (calibration is not None and not is_digest(calibration)):
        raise ProtocolError("model, calibration: expected 'sha-256:' and 64 lower-case hex digits")
    partition = text_of(fields, "partition", 1, MAX_TEXT)
    if not is_partition_id(partition):
        raise ProtocolError("partition: expected 32 lower-case hex digits")
    variant = text_of(fields, "variant", 1, MAX_TEXT)
    profile = text_of(fields, "profile", 1, MAX_TEXT)
    if not is_variant(variant) or not is_profile_id(profile):
        raise ProtocolError("variant, profile: expected ones such as fp32 and q4-zstd")
    return ParameterSet(
        id=_id(fields),
        direction=cast(Direction, direction),
        model=model,
        partition=partition,
        variant=variant,
        profile=profile,
        calibration=calibration,
        tensors=_read_tensors(member(fields, "tensors")),
        deadline_ms=integer_of(fields, "deadline_ms", 1, MAX_DEADLINE_MS),
        budget_ms=integer_of(fields, "budget_ms", 1, MAX_DEADLINE_MS),
    )


def _read_tensors(values: object) -> tuple[TensorSpec, ...]:
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_TENSORS:
        raise ProtocolError(f"tensors: expected a list of 1 to {MAX_TENSORS}")
    try:
        tensors = tuple(TensorSpec.from_json(value) for value in values)
    except TensorError as error:
        raise ProtocolError(f"tensors: {error}") from None
    if len({tensor.name for tensor in tensors}) != len(tensors) or not all(t.name.isprintable() for t in tensors):
        raise ProtocolError("tensors: a name twice, or one that cannot be printed")
    if sum(tensor.elements for tensor in tensors) > MAX_ELEMENTS:
        raise ProtocolError(f"tensors: more than {MAX_ELEMENTS} elements together")
    return tensors


def _read_report(fields: dict[str, Any]) -> Report:
    figures = member(fields, "figures")
    if not isinstance(figures, dict) or len(figures) > MAX_FIGURES:
        raise ProtocolError(f"figures: expected an object of at most {MAX_FIGURES} numbers")
    return Report({name: _figure(name, value) for name, value in figures.items()})


def _figure(name: str, value: object) -> float:
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise ProtocolError(f"figures: a name has 1 to {MAX_NAME} printable characters")
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ProtocolError("figures: expected numbers")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ProtocolError("figures: expected finite numbers")
    return number


def _read_failure(fields: dict[str, Any]) -> PeerFailure:
    code = text_of(fields, "code", 1, MAX_NAME)
    if not _CODE.fullmatch(code):
        raise ProtocolError("code: expected a token")
    return PeerFailure(code, _reason(fields, "detail"))


def _reason(fields: dict[str, Any], name: str) -> str:
    return printable(text_of(fields, name, 0, MAX_TEXT))


def _id(fields: dict[str, Any]) -> int:
    return integer_of(fields, "id", 1, MAX_SET_ID)


_READERS: dict[str, Callable[[dict[str, Any]], ControlMessage]] = {
    "aips": _read_set,
    "aips-ack": lambda fields: ParameterSetAck(_id(fields)),
    "aips-reject": lambda fields: ParameterSetReject(_id(fields), _reason(fields, "reason")),
    "aips-release": lambda fields: ParameterSetRelease(_id(fields)),
    "aips-released": lambda fields: ParameterSetReleased(_id(fields)),
    "report": _read_report,
    "error": _read_failure,
    "drain": lambda fields: Drain(integer_of(fields, "within_ms", 0, MAX_DRAIN_MS)),
    "bye": lambda fields: Bye(_reason(fields, "reason")),
}
