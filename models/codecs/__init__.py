"""Codecs of intermediate data: which profiles there are, and the encoders and decoders behind them.

Listing and parsing profiles loads no numpy, which signalling does not need.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from models.codecs.base import DecodedFrame, Decoder, EncodedFrame, Encoder, Profile
from splitrtc_errors import BadArgument, UnknownModel

if TYPE_CHECKING:
    from models.calibration import Calibration
    from models.tensor import TensorSpec

    _MakeEncoder = Callable[[Sequence[TensorSpec], Calibration | None, int], Encoder]
    _MakeDecoder = Callable[[Sequence[TensorSpec], Calibration | None], Decoder]

__all__ = [
    "DecodedFrame",
    "Decoder",
    "EncodedFrame",
    "Encoder",
    "Profile",
    "calibration_for",
    "is_accepted_unasked",
    "is_calibrated",
    "is_profile_id",
    "make_decoder",
    "make_encoder",
    "bits_per_element",
    "needs_calibration",
    "parse_profile",
    "profile_ids",
]

MAX_PROFILE_ID = 128

_PARAMETER = r"[a-z0-9_]{1,32}=[A-Za-z0-9._+-]{1,32}"
_PROFILE = re.compile(rf"([a-z0-9-]{{1,32}})(?::({_PARAMETER}(?:,{_PARAMETER})*))?")

_NUMBER = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,4})?")


@dataclass(frozen=True, slots=True)
class _Codec:
    """What is known of the profiles of one name without loading what codes them.

    ``bits``: of an element before any compression, None for as many as it has. ``parameters``: names, and what says
    whether a value is right. ``make``: returns encoder and decoder; their modules are loaded only there. ``tables``:
    what a calibration must have besides ranges. ``unasked``: whether an edge accepts it unless told otherwise.
    """

    bits: int | None
    make: Callable[[Mapping[str, str]], tuple[_MakeEncoder, _MakeDecoder]]
    parameters: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)
    tables: str | None = None
    unasked: bool = True


def _scalar(bits: int | None, compression: str | None) -> _Codec:
    def make(_: Mapping[str, str]) -> tuple[_MakeEncoder, _MakeDecoder]:
        from models.codecs.scalar import ScalarDecoder, ScalarEncoder

        return (
            lambda tensors, calibration, size: ScalarEncoder(tensors, bits, compression, calibration, size),
            lambda tensors, calibration: ScalarDecoder(tensors, bits, compression, calibration),
        )

    tables = "range" if compression == "range" else None
    return _Codec(bits if bits in (None, 4) else -(-bits // 8) * 8, make, tables=tables)


def _klt(light: bool) -> _Codec:
    def make(parameters: Mapping[str, str]) -> tuple[_MakeEncoder, _MakeDecoder]:
        from models.codecs.klt import KltDecoder, KltEncoder

        step = float(parameters.get("step", DEFAULT_STEP))
        return (
            lambda tensors, calibration, size: KltEncoder(tensors, step, light, calibration, size),
            KltDecoder,
        )

    return _Codec(8, make, {"step": _is_step}, "klt")


def _pca() -> _Codec:
    def make(parameters: Mapping[str, str]) -> tuple[_MakeEncoder, _MakeDecoder]:
        from models.codecs.reduced import pca

        return _reduced(pca(int(parameters.get("k", MAX_COMPONENTS)), int(parameters.get("bits", DEFAULT_BITS))))

    return _Codec(8, make, {"k": _between(1, MAX_COMPONENTS), "bits": _between(2, 8)}, "pca")


def _clusters() -> _Codec:
    def make(parameters: Mapping[str, str]) -> tuple[_MakeEncoder, _MakeDecoder]:
        from models.codecs.reduced import clusters

        return _reduced(clusters(int(parameters.get("size", 4))))

    return _Codec(8, make, {"size": {"2", "4", "8"}.__contains__}, "clusters")


def _reduced(reduce: Any) -> tuple[_MakeEncoder, _MakeDecoder]:
    from models.codecs.reduced import ReducedDecoder, ReducedEncoder

    return (
        lambda tensors, calibration, size: ReducedEncoder(tensors, reduce, calibration, size),
        lambda tensors, calibration: ReducedDecoder(tensors, reduce, calibration),
    )


def _avc() -> _Codec:
    def make(parameters: Mapping[str, str]) -> tuple[_MakeEncoder, _MakeDecoder]:
        from models.codecs.avc import AvcDecoder, AvcEncoder

        components = int(parameters.get("k", MAX_COMPONENTS))
        qp, refresh = int(parameters.get("qp", DEFAULT_QP)), int(parameters.get("refresh", 0))
        return (
            lambda tensors, calibration, size: AvcEncoder(tensors, components, qp, refresh, calibration, size),
            lambda tensors, calibration: AvcDecoder(tensors, components, calibration),
        )

    parameters = {"k": _between(1, MAX_COMPONENTS), "qp": _between(1, 51), "refresh": _is_refresh}
    return _Codec(8, make, parameters, "klt", unasked=False)


def _is_refresh(text: str) -> bool:
    return text == "0" or _between(2, 300)(text)


def _between(low: int, high: int) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(r"0|[1-9][0-9]{0,3}", text) is not None and low <= int(text) <= high


def _is_step(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and MIN_STEP <= float(text) <= MAX_STEP


DEFAULT_STEP = 1.6
"""Of the klt profiles, where their id names none."""
MAX_COMPONENTS = 1024
"""Of pca and avc: all that there are, unless ``k`` says otherwise. Leaving some out costs more than it brings."""
DEFAULT_BITS = 5
"""Of pca, where its id names none."""
DEFAULT_QP = 14
"""Of avc, where its id names none."""
MIN_STEP = 0.25
MAX_STEP = 64.0

_CODECS = {
    f"{code}-{compression}" if compression else code: _scalar(bits, compression)
    for code, bits in (("raw", None), ("q16", 16), ("q8", 8), *((f"q{bits}", bits) for bits in (7, 6, 5, 4, 3, 2)))
    for compression in (None, "zstd", "snappy", "range")
    # Codes of odd widths take a byte each, which is worth it only where something follows that compresses them.
    if (compression or bits in (None, 16, 8, 4)) and not (compression == "range" and bits in (None, 16))
} | {
    "klt": _klt(light=False),
    "klt-light": _klt(light=True),
    "pca": _pca(),
    "clusters": _clusters(),
    "avc": _avc(),
}


def profile_ids() -> tuple[str, ...]:
    """Return the names of the profiles that this version codes and decodes: ids, as all parameters are optional."""
    return tuple(_CODECS)


def is_profile_id(text: str) -> bool:
    """Whether a text has the form of a profile id (docs/protocol.md, section 4), of whatever version."""
    return len(text) <= MAX_PROFILE_ID and _PROFILE.fullmatch(text) is not None


def parse_profile(text: str) -> Profile:
    """Read a profile id, ``name[:key=value[,key=value ...]]``.

    BadArgument when it is malformed or has parameters that the profile does not take, UnknownModel when there is no
    profile of that name.
    """
    match = _PROFILE.fullmatch(text) if len(text) <= MAX_PROFILE_ID else None
    if match is None:
        raise BadArgument(f"a profile is name[:key=value[,key=value ...]], not {text[:MAX_PROFILE_ID]!r}")
    name, parameters = match.groups()
    codec = _CODECS.get(name)
    if codec is None:
        raise UnknownModel(f"there is no profile {name!r}; there are: {', '.join(_CODECS)}")
    given: dict[str, str] = {}
    for item in parameters.split(",") if parameters else ():
        key, _, value = item.partition("=")
        if key not in codec.parameters:
            takes = ", ".join(codec.parameters) or "no parameters"
            raise BadArgument(f"profile {name} takes {takes}, not {item!r}")
        if key in given or not codec.parameters[key](value):
            raise BadArgument(f"profile {name} does not take {parameters!r}: {item!r} comes twice or is out of range")
        given[key] = value
    return Profile(name, given)


def needs_calibration(profile: Profile) -> bool:
    """Whether both sides need the same calibration file for this profile."""
    return _CODECS[profile.name].bits is not None


def is_calibrated(profile: Profile, calibration: Calibration | None) -> bool:
    """Whether a calibration has all that this profile needs; None has what those need that need none."""
    codec = _CODECS[profile.name]
    if codec.bits is None:
        return True
    if calibration is None:
        return False
    return codec.tables is None or not any(tensor.missing(codec.tables) for tensor in calibration.tensors)


def calibration_for(profile: Profile) -> frozenset[str]:
    """Which tables (`models.calibration.TABLES`) a calibration for this profile must have besides ranges."""
    tables = _CODECS[profile.name].tables
    return frozenset(() if tables is None else (tables,))


def is_accepted_unasked(profile: Profile) -> bool:
    """Whether an edge takes this profile from anybody unless its owner says otherwise.

    Not one whose decoder is a large one for untrusted video: its owner has to want it.
    """
    return _CODECS[profile.name].unasked


def bits_per_element(profile: Profile) -> int | None:
    """How many bits an element takes before any compression, or takes at most; None for as many as it has."""
    return _CODECS[profile.name].bits


def make_encoder(
    profile: Profile, tensors: Sequence[TensorSpec], calibration: Calibration | None, max_payload: int
) -> Encoder:
    """Make an encoder for the frames of one parameter set.

    Args:
        profile: from parse_profile().
        tensors: 1 to 64, in the order of the parameter set.
        calibration: of the tensors, by name; not used by profiles that need none.
        max_payload: bytes of a slice, at least 64.

    Raises:
        BadArgument: the calibration is missing, or max_payload is too small.
        CodecError: the profile cannot code these tensors, or the calibration is not for them.
    """
    encoder, _ = _CODECS[profile.name].make(profile.parameters)
    return encoder(tensors, calibration, max_payload)


def make_decoder(profile: Profile, tensors: Sequence[TensorSpec], calibration: Calibration | None) -> Decoder:
    """Make a decoder for the frames of one parameter set; arguments and errors are those of make_encoder()."""
    _, decoder = _CODECS[profile.name].make(profile.parameters)
    return decoder(tensors, calibration)
