"""Codecs of intermediate data: which profiles there are, and the encoders and decoders behind them.

Listing and parsing profiles loads no numpy, which signalling does not need.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.codecs.base import DecodedFrame, Decoder, EncodedFrame, Encoder, Profile
from splitrtc_errors import BadArgument, UnknownModel

if TYPE_CHECKING:
    from models.calibration import Calibration
    from models.tensor import TensorSpec

__all__ = [
    "DecodedFrame",
    "Decoder",
    "EncodedFrame",
    "Encoder",
    "Profile",
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

_COMPRESSIONS = ("zstd", "snappy")

_SCALAR: dict[str, tuple[int | None, str | None]] = {
    f"{code}-{compression}" if compression else code: (bits, compression)
    for code, bits in (("raw", None), ("q16", 16), ("q8", 8), *((f"q{bits}", bits) for bits in (7, 6, 5, 4, 3, 2)))
    for compression in (None, *_COMPRESSIONS)
    if compression or bits in (None, 16, 8, 4)
}
"""Bits of a code, and what compresses the slices' bodies. Codes of odd widths take a byte each, which is worth it only
where something follows that compresses them."""


def profile_ids() -> tuple[str, ...]:
    """Return the ids of the profiles that this version codes and decodes."""
    return tuple(_SCALAR)


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
    if name not in _SCALAR:
        raise UnknownModel(f"there is no profile {name!r}; there are: {', '.join(_SCALAR)}")
    if parameters is not None:
        raise BadArgument(f"profile {name} takes no parameters, not {parameters!r}")
    return Profile(name)


def needs_calibration(profile: Profile) -> bool:
    """Whether both sides need the same calibration file for this profile."""
    bits, _ = _SCALAR[profile.name]
    return bits is not None


def bits_per_element(profile: Profile) -> int | None:
    """How many bits an element takes before any compression; None for as many as it has."""
    bits, _ = _SCALAR[profile.name]
    return bits if bits in (None, 4) else -(-bits // 8) * 8


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
    from models.codecs.scalar import ScalarEncoder

    bits, compression = _SCALAR[profile.name]
    return ScalarEncoder(tensors, bits, compression, calibration, max_payload)


def make_decoder(profile: Profile, tensors: Sequence[TensorSpec], calibration: Calibration | None) -> Decoder:
    """Make a decoder for the frames of one parameter set; arguments and errors are those of make_encoder()."""
    from models.codecs.scalar import ScalarDecoder

    bits, compression = _SCALAR[profile.name]
    return ScalarDecoder(tensors, bits, compression, calibration)
