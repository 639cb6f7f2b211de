"""The edge's access token: how it travels, is compared, and stays out of logs (docs/protocol.md section 1.1)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re

from splitrtc_errors import BadArgument

__all__ = ["TokenGuard", "check_token", "redact", "token_subprotocol"]

SUBPROTOCOL_PREFIX = "splitrtc.token."

_TOKEN = re.compile(r"[!-~]{1,1024}")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)  # RFC 6750, section 2.1; scheme names ignore case
_OFFERED = re.compile(r"splitrtc\.token\.([A-Za-z0-9_-]+)")
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
