"""Who may come to the edge: who has its token and, where there is none, web pages that it knows.

How tokens travel, are compared, and stay out of logs: docs/protocol.md section 1.1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from signaling.addresses import is_loopback
from splitrtc_errors import BadArgument

__all__ = ["OriginGuard", "TokenGuard", "check_token", "redact", "token_subprotocol"]

SUBPROTOCOL_PREFIX = "splitrtc.token."

_TOKEN = re.compile(r"[!-~]{1,1024}")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)  # RFC 6750, section 2.1; scheme names ignore case
_OFFERED = re.compile(r"splitrtc\.token\.([A-Za-z0-9_-]+)")
_ORIGIN = re.compile(
    r"null|[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)  # RFC 6454, section 6
_SECRETS = re.compile(r"(bearer\s+|splitrtc\.token\.)[^\s,;'\"]+", re.IGNORECASE)


def check_token(token: str) -> str:
    """Return ``token``; BadArgument unless it has 1 to 1024 visible ASCII characters, which survive any HTTP header."""
    if not _TOKEN.fullmatch(token):
        raise BadArgument("a token has 1 to 1024 visible ASCII characters, no spaces")
    return token


def token_subprotocol(token: str) -> str:
    """The WebSocket sub-protocol in which a browser, that cannot set headers, offers its token."""
    encoded = base64.urlsafe_b64encode(check_token(token).encode()).decode().rstrip("=")
    return SUBPROTOCOL_PREFIX + encoded


def redact(text: str) -> str:
    """``text`` with every token in a form that may stand in a header replaced by ``***``."""
    return _SECRETS.sub(r"\1***", text)


class TokenGuard:
    """Knows whether a request may pass; everyone may when ``token`` is None. Keeps only the token's digest."""

    def __init__(self, token: str | None) -> None:
        self._digest = None if token is None else hashlib.sha256(check_token(token).encode()).digest()

    def admits(self, authorization: str | None, subprotocols: str | None) -> bool:
        """Whether the headers ``Authorization`` or ``Sec-WebSocket-Protocol`` carry the token.

        No token at all takes the same way as a wrong one: digests of equal length are compared in constant time.
        """
        if self._digest is None:
            return True
        presented = _presented(authorization or "", subprotocols or "")
        return hmac.compare_digest(hashlib.sha256(presented).digest(), self._digest)


class OriginGuard:
    """Knows which web pages may connect where no token says who may.

    A browser lets any page open a WebSocket to any machine that it reaches, this one included, and names the page's
    origin. So only pages of ``allowed`` origins may, and those that come from the edge itself: from the host and port
    of the request, if that host means this machine. Any other name could be made to lead here by whoever owns it.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Raises BadArgument for what is no origin."""
        self._allowed = {_check_origin(origin) for origin in allowed}

    def admits(self, origin: str | None, host: str | None) -> bool:
        """Whether a request with these headers ``Origin`` and ``Host`` may pass; without the former: no browser's."""
        if origin is None or origin.lower() in self._allowed:
            return True
        own = (host or "").lower()
        return origin.lower() in (f"http://{own}", f"https://{own}") and is_loopback(_host_of(own))


def _host_of(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _check_origin(origin: str) -> str:
    lower = origin.lower()
    if not _ORIGIN.fullmatch(lower):
        raise BadArgument(f"origin: expected SCHEME://HOST[:PORT], such as https://app.example, got {origin[:100]!r}")
    return lower


def _presented(authorization: str, subprotocols: str) -> bytes:
    """The token as it came; empty, which no token is, when there is none that can be read."""
    if match := _BEARER.fullmatch(authorization):
        return match[1].encode(errors="surrogatepass")
    for offered in subprotocols.split(","):
        if match := _OFFERED.fullmatch(offered.strip()):
            try:
                return base64.urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4))
            except binascii.Error:  # a length that no encoding has
                return b""
    return b""
