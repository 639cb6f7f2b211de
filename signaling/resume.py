"""The SDP attribute ``ai-resume``: by it an edge knows a UE again (docs/protocol.md section 1.5).

Who knows the id can end the session that carries it, and take its slot: it is as secret as the ICE password beside it,
and is never logged.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

from splitrtc_errors import ProtocolError

__all__ = ["new_resume_id", "resume_attribute", "resume_id_of", "without_resume_id"]

ATTRIBUTE = "ai-resume"

_ID = re.compile(r"[0-9a-f]{32}")
_LINE = re.compile(rf"(?m)^a=dcsa:[^\n]* {ATTRIBUTE}:[^\n]*\n?")


def new_resume_id() -> str:
    """A new id: 128 random bits."""
    return secrets.token_hex(16)


def resume_attribute(resume_id: str) -> tuple[str, str]:
    """Name and value of the attribute on the intermediate channel."""
    return ATTRIBUTE, resume_id


def resume_id_of(attributes: Iterable[tuple[str, str]]) -> str | None:
    """The id among the attributes of an offer's intermediate channel; None without one. Raises ProtocolError."""
    values = [value for name, value in attributes if name == ATTRIBUTE]
    if not values:
        return None
    # What was wrong with it is not repeated: it may be most of somebody's id.
    if len(values) > 1:
        raise ProtocolError(f"{ATTRIBUTE}: expected one line, got {len(values)}")
    if not _ID.fullmatch(values[0]):
        raise ProtocolError(f"{ATTRIBUTE}: expected 32 lower-case hex digits")
    return values[0]


def without_resume_id(offer: str) -> str:
    """An offer for those who need not know the id, such as a transport that logs what it is given."""
    return _LINE.sub("", offer)
