"""What an edge says of itself: its manifest, fetched (TR 26.927 clause 5.3.5, steps 1 and 2). Blocks."""

from __future__ import annotations

import time
import urllib.error
from collections.abc import Callable
from typing import TYPE_CHECKING

from models.access import Access
from models.download import read_url
from signaling import UNAUTHORIZED, make_problem, rejection
from signaling.client import http_url, parse_fingerprint, tls_context
from signaling.manifest import MAX_BYTES, Manifest, read_manifest
from signaling.problems import TOO_MANY_REQUESTS
from splitrtc_errors import BadArgument, Unreachable

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["fetch_manifest", "way_to"]

WARMING = 20.0
"""Seconds that an edge which has just started gets to say more than what it has ready."""
ASK_AGAIN = 0.5
"""Seconds after which it is asked again."""


def way_to(
    url: str, token: str | None = None, ca: Path | None = None, fingerprint: str | None = None
) -> tuple[str, Access]:
    """Where an edge's files are, and how to get at them; BadArgument for what names no edge, or no certificate."""
    base = http_url(url)
    if (ca is not None or fingerprint is not None) and not base.startswith("https:"):
        raise BadArgument("a certificate was given, but the URL is not one of wss:// or https://")
    trusted = None if ca is None else tls_context(ca)
    return base, Access(token, trusted, None if fingerprint is None else parse_fingerprint(fingerprint))


def fetch_manifest(base: str, access: Access, enough: Callable[[Manifest], bool] = lambda _: False) -> Manifest:
    """What an edge says of itself; of one that is warming, when that is ``enough``, or all, or for too long too little.

    Raises Unreachable, a kind of Rejected, or ProtocolError.
    """
    until = time.monotonic() + WARMING
    while True:
        manifest = _ask(base, access)
        if manifest.state != "warming" or enough(manifest) or time.monotonic() > until:
            return manifest
        time.sleep(ASK_AGAIN)


def _ask(base: str, access: Access) -> Manifest:
    try:
        return read_manifest(read_url(f"{base}/manifest", access, MAX_BYTES))
    except Unreachable as error:
        if isinstance(answer := error.__cause__, urllib.error.HTTPError):
            if answer.code == 401:
                problem = make_problem(UNAUTHORIZED, "the edge wants an access token, and not the one that it got")
                raise rejection(problem) from error
            if answer.code == 429:
                raise rejection(make_problem(TOO_MANY_REQUESTS)) from error
            if answer.code == 404:
                raise Unreachable("no model's file is here, and the edge does not deliver any") from error
        raise
