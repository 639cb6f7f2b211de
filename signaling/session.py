"""One WebSocket at the edge: moves texts between it and a SwapEndpoint, watches the clock, asks the handler.

Nothing of what the client says, nor where it is, is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from signaling.applications import REQUESTS, Request, Response
from signaling.endpoint import (
    ApplicationReceived,
    CloseConfirmed,
    CloseReceived,
    ConnectReceived,
    State,
    SwapEndpoint,
)
from signaling.messages import Criterion
from signaling.problems import problem_of
from signaling.procedures import EdgeProcedures
from splitrtc_errors import SplitRtcError

__all__ = ["ConnectHandler", "ConnectRequest", "Negotiate", "SignalingSession"]

logger = logging.getLogger(__name__)

FIRST_MESSAGE_TIMEOUT = 10.0
"""Seconds until a socket has brought its connect."""
CONNECT_TIMEOUT = 30.0
"""Seconds that the handler has for an answer."""
SEND_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0


class SignalingSession:
    """The edge's end of one WebSocket, and of the one session that is negotiated on it."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        handler: ConnectHandler,
        negotiate: Negotiate | None = None,
    ) -> None:
        self.on_close: Callable[[str], None] | None = None
        """Called at most once, with a reason: when the client closes the session, cannot have got its answer, or goes
        without having connected."""
        self._socket = socket
        self._request = request
        self._handler = handler
        self._negotiate = negotiate
        self._procedures = EdgeProcedures()
        self._endpoint = SwapEndpoint("server", applications=REQUESTS if negotiate is not None else ())
        self._deadline: asyncio.Timeout | None = None
        """of the socket; None before and after it is served"""
        self._code = WSCloseCode.OK
        self._answering: asyncio.Task[None] | None = None
        self._left = False

    async def close(self) -> None:
        """Tell the client that the session is over. Does nothing when it is over already, or the socket is gone."""
        if self._deadline is not None and self._endpoint.close():
            self._limit(CLOSE_TIMEOUT)
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._flush()

    async def serve(self) -> None:
        """Serve the socket, which is prepared, until one end is done with it. For the server."""
        try:
            async with asyncio.timeout(0 if self._left else FIRST_MESSAGE_TIMEOUT) as self._deadline:
                await self._receive_all()
        except (ConnectionError, TimeoutError):
            logger.info("a signalling socket timed out or was lost")
        finally:
            self._deadline = None
            if self._endpoint.state is State.IDLE:
                self._notify("the client left without having connected")
            if self._answering is not None:
                self._answering.cancel()
                await asyncio.gather(self._answering, return_exceptions=True)
            await self._disconnect()

    def leave(self) -> None:
        """Make serve() end, also one that has not begun, because the server stops. This ends no accepted session."""
        self._left = True
        self._code = WSCloseCode.GOING_AWAY
        self._limit(0)

    async def _disconnect(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._socket.close(code=self._code)
        except TimeoutError:  # the close frame waits behind what the client does not read
            if self._request.transport is not None:
                self._request.transport.abort()

    async def _receive_all(self) -> None:
        while not self._endpoint.exhausted:
            message = await self._socket.receive()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            event = self._endpoint.receive(message.data)
            await self._flush()
            match event:
                case ConnectReceived(offer, criteria):
                    self._limit(None)
                    self._answering = asyncio.create_task(self._answer(offer, criteria, self._answering))
                case ApplicationReceived(number, type_, value):
                    await self._receive_request(number, type_, value)
                case CloseReceived():
                    self._notify("the client closed the session")
                    return
                case CloseConfirmed():
                    return
        logger.warning("a signalling client sent too many messages, or too many bad ones, and was disconnected")

    async def _receive_request(self, number: int, type_: str, value: object) -> None:
        try:
            request = self._procedures.receive(type_, value)
        except SplitRtcError as error:
            self._endpoint.refuse(number, problem_of(error))
            await self._flush()
        else:
            self._limit(None)
            self._answering = asyncio.create_task(self._decide(number, request))

    async def _decide(self, number: int, request: Request) -> None:
        """Answer a request of the procedures; the client has some time then to ask again, or to connect."""
        assert self._negotiate is not None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                response = await self._negotiate(request, self)
            self._endpoint.say(*self._procedures.answer(response))
        except Exception as error:
            _log_failure(error)
            self._procedures.refuse()
            self._endpoint.refuse(number, problem_of(error))
        if self._endpoint.state is State.IDLE:
            self._limit(FIRST_MESSAGE_TIMEOUT)
        with contextlib.suppress(ConnectionError, TimeoutError):
            await self._flush()

    async def _answer(self, offer: str, criteria: tuple[Criterion, ...], deciding: asyncio.Task[None] | None) -> None:
        if deciding is not None:
            await deciding
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                answer = await self._handler.connect(ConnectRequest(offer, criteria, self._request.remote, self))
        except Exception as error:
            _log_failure(error)
            if self._endpoint.reject(problem_of(error)):
                self._limit(CLOSE_TIMEOUT)  # time for the client to read it and to close
                with contextlib.suppress(ConnectionError, TimeoutError):
                    await self._flush()
            return
        delivered = False
        try:
            if self._endpoint.accept(answer):
                await self._flush()
                delivered = True
        finally:
            if not delivered:
                self._notify("the client was lost before the answer was delivered")
                self._limit(0)

    async def _flush(self) -> None:
        # TCP lets a peer that does not read hold up a writer for ever.
        async with asyncio.timeout(SEND_TIMEOUT):
            for text in self._endpoint.take_outgoing():
                await self._socket.send_str(text)

    def _limit(self, seconds: float | None) -> None:
        """Give the socket so much time from now on."""
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    def _notify(self, reason: str) -> None:
        if self.on_close is not None:
            on_close, self.on_close = self.on_close, None
            on_close(reason)


Negotiate = Callable[[Request, SignalingSession], Awaitable[Response]]
"""Answers a request of the procedures, or raises a Rejected whose problem the client shall get. What it promised it may
give to others when ``on_close`` of the session is called, or when no connect follows for long."""


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """A client's offer. ``remote`` is its address as the socket sees it: for limits, never for logs."""

    offer: str
    criteria: tuple[Criterion, ...]
    remote: str | None
    session: SignalingSession


class ConnectHandler(Protocol):
    """What the edge brings along."""

    async def connect(self, request: ConnectRequest) -> str:
        """Return the SDP answer, or raise a Rejected whose problem the client shall get.

        Cancelled when the client goes away first. Once the answer is delivered, the loss of the socket ends nothing:
        ``request.session.on_close`` says when the client closes the session.
        """


def _log_failure(error: Exception) -> None:
    """Name an error and its place. Its message may quote the peer's SDP."""
    if isinstance(error, SplitRtcError):
        logger.info("a connect was refused: %s", type(error).__name__)
    else:
        place = traceback.extract_tb(error.__traceback__)[-1]
        logger.error("a connect failed: %s in %s, line %s", type(error).__name__, place.name, place.lineno)
