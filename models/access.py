"""How a server is spoken to over HTTP that the user has named, and may have secured in a way of its own."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.request
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import Any

__all__ = ["SLOW_BUFFER", "Access"]

SLOW_BUFFER = 2**14
"""Bytes that may wait to be read of what shall come slowly."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is spoken to that the user has named: an edge.

    ``token`` is its access token; ``tls`` what to trust, ``fingerprint`` the SHA-256 of the one certificate to trust
    instead. Such a server may do without TLS, as the user chose, and sends on to nowhere: the token is for it alone.
    """

    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    fingerprint: bytes | None = None

    def opener(self, *, slow: bool = False) -> urllib.request.OpenerDirector:
        """What opens URLs of this server; with ``slow``, so that little of what comes waits to be read."""
        # No proxy: the WebSocket goes without one, too.
        handlers = [_NoRedirects(), urllib.request.ProxyHandler({}), _Plain(slow), _Tls(self, slow)]
        opener = urllib.request.build_opener(*handlers)
        if self.token is not None:
            opener.addheaders.append(("Authorization", f"Bearer {self.token}"))
        return opener


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Nowhere."""


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, slow: bool) -> None:
        super().__init__()
        self._slow = slow

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)

    def _connection(self, host: str, **options: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(host, **options)
        return _checked(connection, None, self._slow)


class _Tls(urllib.request.HTTPSHandler):
    """Opens https as an `Access` says; a certificate is looked at before anything is said."""

    def __init__(self, access: Access, slow: bool) -> None:
        context = access.tls or ssl.create_default_context()
        if access.fingerprint is not None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        super().__init__(context=context)
        self._tls = context
        self._fingerprint = access.fingerprint
        self._slow = slow

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)

    def _connection(self, host: str, **options: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPSConnection(host, context=self._tls, **options)
        return _checked(connection, self._fingerprint, self._slow)


def _checked(
    connection: http.client.HTTPConnection, fingerprint: bytes | None, slow: bool
) -> http.client.HTTPConnection:
    """The same connection; when it comes up, its certificate must have this fingerprint."""
    connect = connection.connect

    def connect_and_look() -> None:
        connect()
        if slow:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        if fingerprint is not None:
            assert isinstance(connection.sock, ssl.SSLSocket)
            found = sha256(connection.sock.getpeercert(binary_form=True) or b"").digest()
            if not compare_digest(found, fingerprint):
                connection.close()
                raise ssl.SSLCertVerificationError("its certificate has another fingerprint")

    connection.connect = connect_and_look  # type: ignore[method-assign]
    return connection
