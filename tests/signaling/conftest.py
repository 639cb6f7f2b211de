from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from signaling import ConnectRequest, SignalingServer, SignalingSession

ANSWER = "v=0 the answer"
WAIT = 5.0
"""Seconds after which a test gives up waiting for what must happen at once."""


class Edge:
    """A handler that answers, refuses, or waits until it is cancelled, and remembers what it saw."""

    def __init__(self, behaviour: str | Exception | None = ANSWER) -> None:
        self.behaviour = behaviour
        self.requests: list[ConnectRequest] = []
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.closed: asyncio.Queue[str] = asyncio.Queue()

    async def connect(self, request: ConnectRequest) -> str:
        self.requests.append(request)
        request.session.on_close = self.closed.put_nowait
        self.asked.set()
        if isinstance(self.behaviour, str):
            return self.behaviour
        if self.behaviour is not None:
            raise self.behaviour
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError("nobody sets this event")

    @property
    def session(self) -> SignalingSession:
        return self.requests[-1].session


Serve = Callable[..., contextlib.AbstractAsyncContextManager[SignalingServer]]


@contextlib.asynccontextmanager
async def serving(
    edge: Edge, listen: str = "127.0.0.1:0", ssl_context: Any = None, **options: Any
) -> AsyncIterator[SignalingServer]:
    """A server that listens for as long as the block runs."""
    server = SignalingServer(listen, edge, **options)
    await server.start(ssl_context)
    try:
        yield server
    finally:
        await server.close()


@pytest.fixture
def serve() -> Serve:
    return serving


@pytest.fixture
def make_edge() -> type[Edge]:
    return Edge


@dataclass(frozen=True)
class Certificate:
    path: Path
    fingerprint: str
    context: ssl.SSLContext


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edge of the tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    path = folder / "edge.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path = folder / "edge.key"
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return Certificate(path, certificate.fingerprint(hashes.SHA256()).hex(), context)
