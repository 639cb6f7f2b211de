"""The SDP attribute ``ai-split``: one line names one way to split the work (docs/protocol.md section 1.3).

TR 26.927 clauses 6.6.2 to 6.6.5 fix what has to be said of model, split point and intermediate data; the attribute is a
private profile of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn, cast

from models.codecs import is_profile_id
from models.identity import is_digest, is_partition_id
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, ProtocolError, TensorError

__all__ = ["ATTRIBUTE", "MAX_OFFERS", "Direction", "SplitOffer", "attributes_of", "is_variant", "offers_of"]

ATTRIBUTE = "ai-split"
MAX_OFFERS = 32
"""``ai-split`` lines in one description."""
MAX_VALUE = 2_000
"""Bytes of the parameters, so that the whole line stays within 2 048."""
MAX_PREFERENCE = 255
MAX_TENSORS = 512
"""Bytes of the encoded ``tensors``: more are not written, and not read."""
MAX_FPS = 1_000

Direction = Literal["up", "down"]

_NAME = re.compile(r"[^\W_]\S{0,127}")
_VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_FPS = re.compile(r"(?:0|[1-9][0-9]{0,3})(?:\.[0-9]{1,3})?")
_PREFERENCE = re.compile(r"[1-9][0-9]{0,2}")
_PARAMETER = re.compile(r"([A-Za-z0-9_-]+)=((?:[A-Za-z0-9\-._~:/+@,]|%[0-9A-Fa-f]{2})*)")
_DIMENSIONS = re.compile(r"(?:[1-9][0-9]{0,7}(?:x[1-9][0-9]{0,7}){0,7})?")

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/+@,")
_SAFE_IN_NAME = _SAFE - frozenset(b":,")  # which separate within tensors
_REQUIRED = frozenset({"model", "digest", "partition", "head", "profile", "dir", "fps", "dynamic"})
_KNOWN = _REQUIRED | {"cal"}


@dataclass(frozen=True, slots=True)
class SplitOffer:
    """One ``ai-split`` line. BadArgument when a value is outside the protocol's limits.

    ``fps`` is rounded to the three decimals that the line has. ``tensors`` is informative, as is ``model``: the digest
    identifies the model.
    """

    model: str
    digest: str
    partition: str
    head: str
    profile: str
    calibration: str | None
    direction: Direction
    fps: float
    dynamic: bool
    tensors: tuple[TensorSpec, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", round(self.fps, 3))
        if not _NAME.fullmatch(self.model) or not self.model.isprintable():
            _refuse("model", "a name of at most 128 printable characters without spaces")
        if not is_digest(self.digest):
            _refuse("digest", "'sha-256:' and 64 lower-case hex digits")
        if not is_partition_id(self.partition):
            _refuse("partition", "32 lower-case hex digits")
        if not is_variant(self.head):
            _refuse("head", "a variant such as fp32")
        if not is_profile_id(self.profile):
            _refuse("profile", "a profile id such as q4-zstd")
        if self.calibration is not None and not is_digest(self.calibration):
            _refuse("cal", "'sha-256:' and 64 lower-case hex digits, or absent")
        if self.direction not in ("up", "down"):
            _refuse("dir", "up or down")
        if not 0 < self.fps <= MAX_FPS:
            _refuse("fps", f"a number above 0, at most {MAX_FPS}")

    @property
    def operating_point(self) -> tuple[str, str, str, str, str | None, str]:
        """What two offers have in common that stand for the same work, at whatever frame rate."""
        return (self.digest, self.partition, self.head, self.profile, self.calibration, self.direction)

    @classmethod
    def parse(cls, text: str) -> SplitOffer:
        """Read the parameters of a line, without the attribute's name and preference. Raises ProtocolError.

        What only informs never stands in the way: ``tensors`` that cannot be read are left out.
        """
        parameters = _read_parameters(text)
        values = {name: _decode(value) for name, value in parameters.items() if name in _KNOWN}
        if missing := _REQUIRED - values.keys():
            raise ProtocolError(f"{ATTRIBUTE}: {', '.join(sorted(missing))} missing")
        if not _FPS.fullmatch(values["fps"]):
            raise ProtocolError(f"{ATTRIBUTE}: fps is a decimal number with at most 3 decimals")
        if values["dynamic"] not in ("0", "1"):
            raise ProtocolError(f"{ATTRIBUTE}: dynamic is 0 or 1")
        try:
            return cls(
                model=values["model"],
                digest=values["digest"],
                partition=values["partition"],
                head=values["head"],
                profile=values["profile"],
                calibration=values.get("cal"),
                direction=cast(Direction, values["dir"]),
                fps=float(values["fps"]),
                dynamic=values["dynamic"] == "1",
                tensors=_read_tensors(parameters.get("tensors", "")),
            )
        except BadArgument as error:
            raise ProtocolError(f"{ATTRIBUTE}: {error}") from None

    def format(self) -> str:
        """Write the parameters. BadArgument when they are longer than a line."""
        values = {
            "model": self.model,
            "digest": self.digest,
            "partition": self.partition,
            "head": self.head,
            "profile": self.profile,
            "cal": self.calibration,
            "dir": self.direction,
            "fps": f"{self.fps:.3f}".rstrip("0").rstrip("."),
            "dynamic": "1" if self.dynamic else "0",
        }
        parameters = [f"{name}={_encode(value)}" for name, value in values.items() if value is not None]
        tensors = _encode(",".join(_format_tensor(tensor) for tensor in self.tensors))
        if 0 < len(tensors) <= MAX_TENSORS:
            parameters.append(f"tensors={tensors}")
        text = ";".join(parameters)
        if len(text) > MAX_VALUE:
            raise BadArgument(f"an {ATTRIBUTE} line of {len(text)} bytes: at most {MAX_VALUE} are allowed")
        return text


def is_variant(text: str) -> bool:
    """Whether a text can name the variant of a head."""
    return _VARIANT.fullmatch(text) is not None


def attributes_of(offers: Sequence[SplitOffer]) -> list[tuple[str, str]]:
    """Names and values of the channel attributes for ``offers``, the preferred one first.

    BadArgument when there are none, or more than MAX_OFFERS.
    """
    if not 1 <= len(offers) <= MAX_OFFERS:
        raise BadArgument(f"{len(offers)} offers: 1 to {MAX_OFFERS} are allowed")
    return [(ATTRIBUTE, f"{preference} {offer.format()}") for preference, offer in enumerate(offers, 1)]


def offers_of(attributes: Iterable[tuple[str, str]]) -> list[SplitOffer]:
    """The offers among the names and values of a channel's attributes, in order of preference; maybe none.

    Other attributes are passed over. ProtocolError when an ``ai-split`` is malformed, there are more than MAX_OFFERS,
    or two have the same preference.
    """
    offers: dict[int, SplitOffer] = {}
    for name, value in attributes:
        if name != ATTRIBUTE:
            continue
        preference, _, parameters = value.partition(" ")
        if not _PREFERENCE.fullmatch(preference) or int(preference) > MAX_PREFERENCE:
            raise ProtocolError(f"{ATTRIBUTE}: the preference is a number from 1 to {MAX_PREFERENCE}")
        if int(preference) in offers or len(offers) == MAX_OFFERS:
            raise ProtocolError(f"{ATTRIBUTE}: more than {MAX_OFFERS} lines, or two with the same preference")
        offers[int(preference)] = SplitOffer.parse(parameters)
    return [offer for _, offer in sorted(offers.items(), key=lambda item: item[0])]


def _refuse(name: str, expected: str) -> NoReturn:
    raise BadArgument(f"{name} is {expected}")


def _read_parameters(text: str) -> dict[str, str]:
    """Names and values, these still percent-encoded."""
    if len(text) > MAX_VALUE:
        raise ProtocolError(f"{ATTRIBUTE}: more than {MAX_VALUE} bytes")
    values: dict[str, str] = {}
    for parameter in text.split(";"):
        match = _PARAMETER.fullmatch(parameter)
        if match is None:
            raise ProtocolError(f"{ATTRIBUTE}: expected name=value, percent-encoded, separated by ';'")
        name, value = match.groups()
        if name in values:
            raise ProtocolError(f"{ATTRIBUTE}: {name} twice")
        values[name] = value
    return values


def _read_tensors(value: str) -> tuple[TensorSpec, ...]:
    """The tensors of an encoded value; none when any cannot be read, such as one of a newer element type."""
    if not 0 < len(value) <= MAX_TENSORS:
        return ()
    try:
        return tuple(_read_tensor(item) for item in _decode(value).split(","))
    except (ProtocolError, TensorError):
        return ()


def _read_tensor(item: str) -> TensorSpec:
    name, dtype, dimensions = (*item.split(":"), "", "")[:3]
    if item.count(":") != 2 or not _DIMENSIONS.fullmatch(dimensions):
        raise ProtocolError(f"{ATTRIBUTE}: a tensor is name:type:d1xd2x...")
    shape = tuple(int(size) for size in dimensions.split("x")) if dimensions else ()
    return TensorSpec(_decode(name), dtype, shape)


def _format_tensor(tensor: TensorSpec) -> str:
    return f"{_encode(tensor.name, _SAFE_IN_NAME)}:{tensor.dtype}:{'x'.join(map(str, tensor.shape))}"


def _encode(text: str, safe: frozenset[int] = _SAFE) -> str:
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in text.encode(errors="replace"))


def _decode(text: str) -> str:
    """Undo the percent-encoding; what stands for itself is left alone."""
    try:
        return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode()).decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"{ATTRIBUTE}: a value is not UTF-8") from None
