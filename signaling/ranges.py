"""Which bytes of a file a request asks for, and in which coding (RFC 9110, sections 12 to 14). Sans-I/O."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["Span", "chosen_coding", "span_of"]

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?"[^"]*"')
_QUALITY = re.compile(r";\s*q=([01](?:\.[0-9]{0,3})?)\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """What is answered: ``status`` 200, 206, 304 or 416, and of the first two the bytes from ``start`` to ``stop``."""

    status: int
    start: int = 0
    stop: int = 0

    def content_range(self, size: int) -> str | None:
        """The header ``Content-Range`` for a file of this size, where there is one."""
        if self.status == 416:
            return f"bytes */{size}"
        return f"bytes {self.start}-{self.stop - 1}/{size}" if self.status == 206 else None


def span_of(
    size: int, etag: str, *, range_: str | None = None, if_range: str | None = None, if_none_match: str | None = None
) -> Span:
    """What to answer about ``size`` bytes whose strong ETag is ``etag``, quotation marks included.

    The other arguments are the headers of these names. Whoever has the very bytes gets 304. One range is served;
    several of them, a malformed one, and one that was meant for other bytes (``If-Range``) count as none, which
    RFC 9110 allows.
    """
    if if_none_match is not None and (if_none_match.strip() == "*" or _names(if_none_match, etag)):
        return Span(304)
    whole = Span(200, 0, size)
    match = _RANGE.fullmatch((range_ or "").strip())
    if match is None or (if_range is not None and if_range.strip() != etag):
        return whole
    first, last = match.groups()
    if not first and not last:
        return whole
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return whole
    return Span(206, start, stop) if start < stop else Span(416)


def _names(header: str, etag: str) -> bool:
    return any(tag.removeprefix("W/") == etag for tag in _TAG.findall(header))


def chosen_coding(accept: str | None, there: Collection[str]) -> str | None:
    """The first of the codings that are ``there`` that the header ``Accept-Encoding`` allows best; None for none."""
    wanted: dict[str, float] = {}
    for item in (accept or "").lower().split(",")[:32]:
        quality = _QUALITY.search(item)
        wanted[item.partition(";")[0].strip()] = float(quality[1]) if quality else 1.0
    best = max(there, key=lambda coding: wanted.get(coding, wanted.get("*", 0.0)), default=None)
    return best if best is not None and wanted.get(best, wanted.get("*", 0.0)) > 0 else None
