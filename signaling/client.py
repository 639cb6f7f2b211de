"""The UE's end of SWAP: one WebSocket to an edge, one session on it. A thin shell around SwapEndpoint."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl as tls
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from signaling.addresses import is_loopback
from signaling.applications import (
    RESPONSES,
    InferenceResponse,
    InformationResponse,
    Need,
    Response,
    Selection,
    SelectionResponse,
    Statement,
)
from signaling.auth import check_token, redact
from signaling.endpoint import (
    Accepted,
    Acknowledged,
    ApplicationReceived,
    ApplicationRefused,
    CloseConfirmed,
    CloseReceived,
    Refused,
    SwapEndpoint,
)
from signaling.messages import Criterion
from signaling.problems import EDGE_FULL, TOO_MANY_REQUESTS, UNAUTHORIZED, make_problem, rejection
from signaling.procedures import DeviceProcedures
from signaling.swap import MAX_MESSAGE, PATH, STANDARD, SUBPROTOCOL, Dialect
from splitrtc_errors import BadArgument, ConnectionLost, NegotiationTimeout, ProtocolError, SplitRtcError, Unreachable

__all__ = ["Ending", "SignalingClient", "http_url", "normalise_url", "parse_fingerprint", "tls_context"]

logger = logging.getLogger(__name__)

OPEN_TIMEOUT = 10.0
"""Seconds until the WebSocket is there."""
CONNECT_TIMEOUT = 15.0
"""Seconds until the edge has answered an offer."""
SEND_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
HEARTBEAT = 30.0
_CLOSED_EARLY = "the edge closed the signalling socket before it answered"

T = TypeVar("T")
Ending = Literal["closed", "lost"]
"""Why a socket ended: the edge closed the session, or only the socket went, which ends no session."""


class SignalingClient:
    """``async with SignalingClient("wss://edge.example", token=...) as client: answer = await client.connect(offer)``.

    Args:
        url: ws://, wss://, http://, https:// or host:port; the path is completed to ``/3gpp-swap/v1``.
        token: the edge's access token.
        ssl: a TLS context of the caller's making.
        ca: a PEM file with the certificates to trust instead of the system's.
        fingerprint: SHA-256 of the edge's certificate in hex, to trust that very certificate and no other.
        dialect: STANDARD, unless the peer is known to speak the other one.

    ``ssl``, ``ca`` and ``fingerprint`` exclude each other and want wss://. BadArgument for all that is not so.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ssl: tls.SSLContext | None = None,
        ca: str | Path | None = None,
        fingerprint: str | None = None,
        dialect: Dialect = STANDARD,
    ) -> None:
        self.url = normalise_url(url)
        self._headers = {} if token is None else {"Authorization": f"Bearer {check_token(token)}"}
        self._ssl = trusted(ssl, ca, fingerprint)
        if self._ssl is not True and not self.url.startswith("wss:"):
            raise BadArgument("a certificate was given, but the URL is not one of wss:// or https://")
        if token is not None and not self.url.startswith("wss:") and not is_loopback(urlsplit(self.url).hostname or ""):
            logger.warning("the access token travels unprotected: use wss://")
        self._endpoint = SwapEndpoint("client", dialect=dialect, applications=RESPONSES)
        self._procedures = DeviceProcedures()
        self._known: asyncio.Future[None] | None = None
        """Done when the edge has told its source, which application messages are addressed to."""
        self._met: float | None = None
        self._reply: asyncio.Future[Response] | None = None
        self._stack = contextlib.AsyncExitStack()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._answer: asyncio.Future[str] | None = None
        self._closed: asyncio.Future[Ending] | None = None
        self._closed_by: float | None = None
        """When the end must be over, on the loop's clock."""

    @property
    def closed(self) -> asyncio.Future[Ending]:
        """Done when the socket has ended, with the reason. Known once the client is open."""
        assert self._closed is not None, "the client was never opened"
        return self._closed

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def request_inference(self, need: Need, *, resume: str | None = None) -> InferenceResponse:
        """Let the edge decide (TR 26.927 clause 5.2.3.2, case 1), before `connect`; returns what it selected.

        Raises as `connect` does, and ProtocolError for an answer that does not fit.
        """
        response = await self._ask(lambda: self._procedures.request_inference(need, resume))
        assert isinstance(response, InferenceResponse)
        return response

    async def request_information(self, need: Need) -> InformationResponse:
        """Ask for the candidates (case 2); raises as `request_inference` does."""
        response = await self._ask(lambda: self._procedures.request_information(need))
        assert isinstance(response, InformationResponse)
        return response

    async def select(self, selection: Selection, *, resume: str | None = None) -> SelectionResponse:
        """Tell the edge what was decided (case 2), and have it get ready; raises as `request_inference` does."""
        response = await self._ask(lambda: self._procedures.select(selection, resume))
        assert isinstance(response, SelectionResponse)
        return response

    async def meet(self) -> float:
        """Have the edge tell its name, which every request needs; returns the seconds of that round trip."""
        assert self._reader is not None, "the client was never opened"
        loop = asyncio.get_running_loop()
        if self._met is None:
            before = loop.time()
            self._known = loop.create_future()
            self._endpoint.register()
            await self._in_time(self._known)
            self._met = loop.time() - before
        return self._met

    async def _ask(self, said: Callable[[], Statement]) -> Response:
        await self.meet()
        self._reply = asyncio.get_running_loop().create_future()
        try:
            self._endpoint.say(*said())
            return await self._in_time(self._reply)
        finally:
            self._procedures.give_up()
            self._reply = None

    async def _in_time(self, awaited: asyncio.Future[T]) -> T:
        """Send what is to be sent, and wait for what the edge says to it."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._flush()
                if self._reader is None or self._reader.done():
                    raise ConnectionError
                return await awaited
        except TimeoutError:
            raise NegotiationTimeout(f"the edge did not answer within {CONNECT_TIMEOUT:g} s") from None
        except ConnectionError:
            raise ConnectionLost(_CLOSED_EARLY) from None

    async def connect(self, offer: str, criteria: Sequence[Criterion] = (), *, timeout: float = CONNECT_TIMEOUT) -> str:
        """Offer a session, once; returns the edge's SDP answer.

        Raises what the edge's problem says (Unauthorized, EdgeFull, NoCommonOperatingPoint, else Rejected),
        NegotiationTimeout after ``timeout`` seconds, ConnectionLost when the socket goes.
        """
        assert self._answer is not None, "the client was never opened"
        self._endpoint.connect(offer, tuple(criteria))
        try:
            async with asyncio.timeout(timeout):
                await self._flush()
                return await self._answer
        except TimeoutError:
            raise NegotiationTimeout(f"the edge did not answer the offer within {timeout:g} s") from None
        except ConnectionError:
            raise ConnectionLost(_CLOSED_EARLY) from None

    async def close(self) -> None:
        """Close the session, if there is one, and the socket, within CLOSE_TIMEOUT. Can be called again."""
        self._closed_by = asyncio.get_running_loop().time() + CLOSE_TIMEOUT
        try:
            if self._reader is not None and not self._reader.done() and self._endpoint.close():
                with contextlib.suppress(ConnectionError, TimeoutError):
                    async with asyncio.timeout_at(self._closed_by):
                        await self._flush()
                        await asyncio.wait([self._reader])  # until the edge has confirmed
        finally:
            await self._stack.aclose()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self._answer, self._closed = loop.create_future(), loop.create_future()
        http = await self._stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                self._socket = await http.ws_connect(
                    self.url,
                    protocols=(SUBPROTOCOL,),
                    headers=self._headers,
                    ssl=self._ssl,
                    heartbeat=HEARTBEAT,
                    max_msg_size=MAX_MESSAGE + 1,  # aiohttp refuses a message of just this size
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
                )
        except aiohttp.WSServerHandshakeError as error:
            raise _refusal(error) from None
        except (aiohttp.ServerFingerprintMismatch, aiohttp.ClientConnectorCertificateError):
            advice = "name the authority's file or the fingerprint"
            raise _unreachable(self.url, f"the certificate is not one to trust; {advice}") from None
        except TimeoutError:
            advice = "is the address right, and TCP to that port let through?"
            raise _unreachable(self.url, f"no answer within {OPEN_TIMEOUT:g} s; {advice}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _unreachable(self.url, _diagnosis(error)) from error
        self._stack.push_async_callback(self._disconnect, self._socket)
        if self._socket.protocol != SUBPROTOCOL:
            raise ProtocolError(f"{self.url}: the server did not select the sub-protocol {SUBPROTOCOL}")
        self._reader = asyncio.create_task(self._read(self._socket, self._answer, self._closed))

    async def _disconnect(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._closed_by or asyncio.get_running_loop().time() + CLOSE_TIMEOUT):
                await socket.close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(
        self, socket: aiohttp.ClientWebSocketResponse, answer: asyncio.Future[str], closed: asyncio.Future[Ending]
    ) -> None:
        try:
            while not self._endpoint.exhausted:
                message = await socket.receive()
                if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    return
                event = self._endpoint.receive(message.data)
                await self._flush()
                match event:
                    case Accepted(text) if not answer.done():
                        answer.set_result(text)
                    case Refused(problem) if not answer.done():
                        answer.set_exception(rejection(problem))
                    case Acknowledged() if self._known is not None and not self._known.done():
                        self._known.set_result(None)
                    case ApplicationReceived(_, type_, value):
                        self._receive_response(type_, value)
                    case ApplicationRefused(problem):
                        for asked in (self._known, self._reply):
                            if asked is not None and not asked.done():
                                asked.set_exception(rejection(problem))
                    case CloseReceived():
                        closed.set_result("closed")  # and now the edge closes the socket
                    case CloseConfirmed():
                        return
        except (ConnectionError, TimeoutError):
            pass
        finally:
            for waiting in (answer, self._known, self._reply):
                if waiting is not None and not waiting.done():
                    waiting.set_exception(ConnectionLost(_CLOSED_EARLY))
            with contextlib.suppress(asyncio.CancelledError):
                answer.exception()  # nobody may be waiting for it any more
            if not closed.done():
                closed.set_result("lost")

    def _receive_response(self, type_: str, value: object) -> None:
        try:
            response = self._procedures.receive(type_, value)
        except ProtocolError as error:
            if self._reply is not None and not self._reply.done():
                self._reply.set_exception(error)
        else:
            if response is not None and self._reply is not None and not self._reply.done():
                self._reply.set_result(response)

    async def _flush(self) -> None:
        assert self._socket is not None
        async with asyncio.timeout(SEND_TIMEOUT):
            for text in self._endpoint.take_outgoing():
                await self._socket.send_str(text)


def normalise_url(url: str) -> str:
    """The ws:// or wss:// URL of the SWAP endpoint that ``url`` means.

    http and https stand for ws and wss, no scheme for ws; the path is completed to ``/3gpp-swap/v1`` unless it ends so.
    BadArgument for anything else, and for a query or credentials: a token never stands in a URL.
    """
    try:
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    schemes = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}
    if not host or port == 0 or parts.scheme not in schemes:
        raise BadArgument("expected the edge's URL, such as wss://edge.example:8443 or 192.0.2.7:8080")
    if parts.username is not None or parts.query or parts.fragment:
        raise BadArgument("the edge's URL holds credentials, a query or a fragment: a token is an argument of its own")
    path = parts.path.rstrip("/")
    return urlunsplit((schemes[parts.scheme], parts.netloc, path if path.endswith(PATH) else path + PATH, "", ""))


def http_url(url: str) -> str:
    """The http:// or https:// URL, without a slash at its end, under which the same edge serves the rest."""
    parts = urlsplit(normalise_url(url))
    return urlunsplit((parts.scheme.replace("ws", "http"), parts.netloc, parts.path.removesuffix(PATH), "", ""))


def tls_context(ca: str | Path) -> tls.SSLContext:
    """What trusts the certificates in a PEM file, and no others; BadArgument when it cannot be read."""
    try:
        return tls.create_default_context(cafile=ca)
    except OSError as error:  # includes ssl.SSLError
        raise BadArgument(f"cannot read certificates from {ca}: {error.strerror or error}") from error


def parse_fingerprint(text: str) -> bytes:
    """The SHA-256 of a certificate as 32 bytes; BadArgument for what is none."""
    try:
        found = bytes.fromhex(text.lower().removeprefix("sha-256:").replace(":", ""))
    except ValueError:
        found = b""
    if len(found) != 32:
        raise BadArgument("a fingerprint is the SHA-256 of a certificate: 64 hex digits, colons allowed")
    return found


def trusted(
    ssl: tls.SSLContext | None, ca: str | Path | None, fingerprint: str | None
) -> tls.SSLContext | aiohttp.Fingerprint | bool:
    if sum(option is not None for option in (ssl, ca, fingerprint)) > 1:
        raise BadArgument("give one of a TLS context, a certificate file, a fingerprint")
    if ca is not None:
        return tls_context(ca)
    if fingerprint is not None:
        return aiohttp.Fingerprint(parse_fingerprint(fingerprint))
    return True if ssl is None else ssl


def _unreachable(url: str, why: str) -> Unreachable:
    return Unreachable(f"cannot reach an edge at {url}: {why}")


def _diagnosis(error: Exception) -> str:
    """Why a socket did not come up, and what to do about it."""
    match error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error:
        case ConnectionRefusedError():
            return "nothing listens there; is the edge running, and with --listen if on another machine?"
        case socket.gaierror() as cause:
            return f"{cause.strerror}; is the host's name right?"
        case tls.SSLError():
            return "it does not speak TLS; an edge without it wants ws://"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError():
            return "it hung up; an edge that serves TLS wants wss://"
        case OSError(errno=int(number)):
            return f"{os.strerror(number)}; is the edge running there?"
        case cause:
            return f"{redact(str(cause))}; is the edge running there?"


def _refusal(error: aiohttp.WSServerHandshakeError) -> SplitRtcError:
    if error.status in (502, 504):
        return Unreachable(f"HTTP status {error.status}: a proxy answers there, and no edge behind it")
    if error.status == 401:
        return rejection(make_problem(UNAUTHORIZED, "the edge wants an access token, and not the one that it got"))
    if error.status in (429, 503):
        seconds = error.headers.get("Retry-After", "") if error.headers is not None else ""
        type_ = TOO_MANY_REQUESTS if error.status == 429 else EDGE_FULL
        return rejection(make_problem(type_, retry_after=int(seconds[:6]) if seconds.isdecimal() else None))
    return ProtocolError(f"HTTP status {error.status} instead of a WebSocket: there is no SWAP endpoint at this URL")
