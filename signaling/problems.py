"""Problem documents (RFC 7807), the way SWAP says no (TS 26.113 clause 13.2.4.7), and the errors they stand for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

from signaling.strictjson import printable
from splitrtc_errors import EdgeFull, NoCommonOperatingPoint, ProtocolError, Rejected, SplitRtcError, Unauthorized

__all__ = [
    "DRAINING",
    "EDGE_FAILURE",
    "EDGE_FULL",
    "MESSAGE_MALFORMATTED",
    "MESSAGE_UNKNOWN",
    "NO_COMMON_OPERATING_POINT",
    "NO_ROOM",
    "NO_SUCH_FILE",
    "ORIGIN_NOT_ALLOWED",
    "TARGET_UNKNOWN",
    "TOO_MANY_REQUESTS",
    "TOO_MANY_TRANSFERS",
    "UNAUTHORIZED",
    "Problem",
    "make_problem",
    "problem_of",
    "rejection",
]

_SWAP = "http://forge.3gpp.org/sa4/swap/"
MESSAGE_UNKNOWN = f"{_SWAP}message_unknown.html"
MESSAGE_MALFORMATTED = f"{_SWAP}message_malformatted.html"
TARGET_UNKNOWN = f"{_SWAP}target_unknown.html"
UNAUTHORIZED = f"{_SWAP}unauthorized.html"

_SPLITRTC = "urn:splitrtc:problem:"
NO_COMMON_OPERATING_POINT = f"{_SPLITRTC}no-common-operating-point"
EDGE_FULL = f"{_SPLITRTC}edge-full"
DRAINING = f"{_SPLITRTC}draining"
EDGE_FAILURE = f"{_SPLITRTC}edge-failure"
TOO_MANY_REQUESTS = f"{_SPLITRTC}too-many-requests"
ORIGIN_NOT_ALLOWED = f"{_SPLITRTC}origin-not-allowed"
NO_ROOM = f"{_SPLITRTC}no-room"
NO_SUCH_FILE = f"{_SPLITRTC}no-such-file"
TOO_MANY_TRANSFERS = f"{_SPLITRTC}too-many-transfers"

# The titles of the first four are those of table 13.2.4.6-1.
_KNOWN: dict[str, tuple[str, int]] = {
    MESSAGE_UNKNOWN: ("Message type unknown", 400),
    MESSAGE_MALFORMATTED: ("Message malformatted", 400),
    TARGET_UNKNOWN: ("Target cannot be located", 404),
    UNAUTHORIZED: ("Unauthorized", 401),
    NO_COMMON_OPERATING_POINT: ("No common operating point", 409),
    EDGE_FULL: ("The edge has no free slot", 503),
    DRAINING: ("The edge takes no new sessions", 503),
    EDGE_FAILURE: ("The edge failed", 500),
    TOO_MANY_REQUESTS: ("Too many connections from this address", 429),
    ORIGIN_NOT_ALLOWED: ("Pages of this origin may not connect", 403),
    NO_ROOM: ("No room for it", 507),
    NO_SUCH_FILE: ("No such file", 404),
    TOO_MANY_TRANSFERS: ("Too many files are being sent", 503),
}
_BLANK = "about:blank"  # RFC 7807, section 4.2: a problem that is no more than its status

MAX_TEXT = 500
"""Characters of a title or a detail that are kept."""
MAX_ACCEPTABLE = 32
MAX_ACCEPTABLE_LINE = 2_048
MAX_RETRY_AFTER = 86_400
"""Seconds; a longer time is no advice."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem document. ``acceptable`` and ``retry_after`` (seconds) are this protocol's extension members."""

    type: str = _BLANK
    title: str = ""
    status: int = 0
    detail: str = ""
    acceptable: tuple[str, ...] = ()
    retry_after: float | None = None

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what a peer sent as a problem; never raises.

        A text is read as JSON, failing that as the detail. Members of the wrong kind count as absent (RFC 7807,
        section 3.1); texts are cut to their limit, and what cannot be printed is replaced: they end on
        terminals.
        """
        if isinstance(value, str):
            try:
                document = json.loads(value)
            except (ValueError, RecursionError):
                document = None
            value = document if isinstance(document, dict) else {"detail": value}
        fields: dict[str, Any] = value if isinstance(value, dict) else {}
        status = fields.get("status")
        acceptable = fields.get("acceptable")
        return cls(
            type=_text(fields.get("type")) or _BLANK,
            title=_text(fields.get("title")),
            status=status if type(status) is int and 100 <= status <= 599 else 0,
            detail=_text(fields.get("detail")),
            acceptable=_lines(acceptable) if isinstance(acceptable, list) else (),
            retry_after=_duration(fields.get("retry_after")),
        )

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json(); empty members are left out."""
        fields: dict[str, Any] = {"type": self.type}
        if self.title:
            fields["title"] = self.title
        if self.status:
            fields["status"] = self.status
        if self.detail:
            fields["detail"] = self.detail
        if self.acceptable:
            fields["acceptable"] = list(self.acceptable)
        if self.retry_after is not None:
            fields["retry_after"] = self.retry_after
        return fields

    def __str__(self) -> str:
        text = ": ".join(filter(None, (self.title or self.type, self.detail)))
        return text if self.retry_after is None else f"{text}; try again in {self.retry_after:g} s"


def make_problem(
    type_: str, detail: str = "", *, acceptable: tuple[str, ...] = (), retry_after: float | None = None
) -> Problem:
    """A problem of one of the types above, with the title and the status that belong to it."""
    title, status = _KNOWN[type_]
    return Problem(type_, title, status, detail, acceptable, retry_after)


def rejection(problem: Problem) -> Rejected:
    """The exception that stands for ``problem``; ``problem_of`` is its inverse."""
    kind: type[Rejected] = {
        UNAUTHORIZED: Unauthorized,
        EDGE_FULL: EdgeFull,
        DRAINING: EdgeFull,
        TOO_MANY_REQUESTS: EdgeFull,
        NO_COMMON_OPERATING_POINT: NoCommonOperatingPoint,
    }.get(problem.type, Rejected)
    return kind(f"the peer refused: {problem}", problem.to_json())


def problem_of(error: BaseException) -> Problem:
    """What to tell a peer about ``error``. Only a refusal and a breach of the protocol say more than "it failed"."""
    if isinstance(error, Rejected):
        if "type" in error.problem:
            return Problem.from_json(error.problem)
        for kind, type_ in (
            (Unauthorized, UNAUTHORIZED),
            (EdgeFull, EDGE_FULL),
            (NoCommonOperatingPoint, NO_COMMON_OPERATING_POINT),
        ):
            if isinstance(error, kind):
                return make_problem(type_, retry_after=error.retry_after)
        return make_problem(EDGE_FAILURE)
    if isinstance(error, ProtocolError):
        return make_problem(MESSAGE_MALFORMATTED, _text(str(error)))
    return make_problem(EDGE_FAILURE, type(error).__name__ if isinstance(error, SplitRtcError) else "")


def _text(value: object) -> str:
    return printable(value[:MAX_TEXT]) if isinstance(value, str) else ""


def _lines(values: list[object]) -> tuple[str, ...]:
    lines = (line for line in values if isinstance(line, str) and len(line) <= MAX_ACCEPTABLE_LINE)
    return tuple(line for line in lines if line.isprintable())[:MAX_ACCEPTABLE]


def _duration(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= MAX_RETRY_AFTER:
        return None
    return float(value)
