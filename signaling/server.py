"""The edge's HTTP server: SWAP on a WebSocket, the manifest, files, and health.

What a stranger can hold is bounded: connections, sockets, the time until the first message, the size and the number of
messages, the time that a send may take. Nothing of what peers say, nor where they are, is logged.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from signaling.addresses import parse_listen
from signaling.files import FILES_PATH, FileServer, ServedFile
from signaling.gate import Gate, problem_response
from signaling.limits import CONNECT_RATE
from signaling.problems import DRAINING, EDGE_FULL, MESSAGE_MALFORMATTED, make_problem
from signaling.session import CLOSE_TIMEOUT, FIRST_MESSAGE_TIMEOUT, ConnectHandler, Negotiate, SignalingSession
from signaling.swap import MAX_MESSAGE, PATH, SUBPROTOCOL
from splitrtc_errors import BadArgument

__all__ = ["SignalingServer"]

logger = logging.getLogger(__name__)

HEARTBEAT = 30.0
"""Seconds between WebSocket pings; a socket whose pong takes half of that is dead."""
RETRY_AFTER = 5
"""Seconds."""
MAX_UNSENT = 65_536
"""Bytes that a client may leave unread before the next send waits for it."""
MAX_SOCKETS = 1_024
MAX_HANDSHAKES = 64
"""TCP connections beyond the open sockets: HTTP requests and WebSocket upgrades under way."""
REQUESTS_PER_SOCKET = 10.0
"""Requests for the manifest and for files that an address may make, for each WebSocket that it may open."""
MANIFEST_PATH = "/manifest"


class SignalingServer:
    """Serves SWAP at ``/3gpp-swap/v1``, ``/healthz`` and ``/readyz`` at ``listen`` ("host:port", port 0 for any).

    Without a ``token``, web pages come in from ``allow_origins`` and from this machine's own address here alone. With
    one, who has it may. ``ready`` says whether the edge can take sessions, with details for ``/readyz``. Who may open
    a WebSocket may also have the ``manifest``, JSON that says what is served here, and the files that ``find_file``
    knows, by their 64 hex digits. ``routes`` are further ones, which look after themselves. ``negotiate``
    answers what comes before a connect (`signaling.procedures`); without it nothing does. BadArgument when ``listen``,
    ``token`` or an origin is not what it should be.
    """

    def __init__(
        self,
        listen: str,
        handler: ConnectHandler,
        *,
        token: str | None = None,
        ready: Callable[[], tuple[bool, dict[str, Any]]] = lambda: (True, {}),
        manifest: Callable[[], Awaitable[bytes] | bytes] | None = None,
        find_file: Callable[[str], ServedFile | None] | None = None,
        routes: Iterable[web.RouteDef] = (),
        max_sockets: int = MAX_SOCKETS,
        connect_rate: float = CONNECT_RATE,
        allow_origins: Iterable[str] = (),
        negotiate: Negotiate | None = None,
    ) -> None:
        self._host, self._port = parse_listen(listen)
        self._handler = handler
        self._negotiate = negotiate
        origins = tuple(allow_origins)
        self._sockets_gate = Gate(token, connect_rate, origins)
        self._requests_gate = Gate(token, connect_rate * REQUESTS_PER_SOCKET, origins)
        self._ready = ready
        self._manifest = manifest
        self._find_file = find_file
        self._files: FileServer | None = None
        self._routes = tuple(routes)
        self._max_sockets = max_sockets
        self._sessions: set[SignalingSession] = set()
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._closing = False

    @property
    def port(self) -> int:
        """The port that is listened on; with port 0, known after start()."""
        return self._port

    async def start(self, ssl_context: ssl.SSLContext | None = None) -> None:
        """Listen, with TLS if there is a context. BadArgument when that is not possible at this address."""
        app = web.Application()
        app.add_routes(
            [
                web.get(PATH, self._swap),
                web.get(f"{PATH}/", self._swap),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                *self._routes,
            ]
        )
        if self._manifest is not None:
            app.router.add_get(MANIFEST_PATH, self._serve_manifest)
        if self._find_file is not None:
            self._files = FileServer(self._find_file)
            app.router.add_get(f"{FILES_PATH}/{{hex:[0-9a-f]{{64}}}}", self._serve_file)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_DiscreetLogger(logger),
            keepalive_timeout=FIRST_MESSAGE_TIMEOUT,  # also counts from the beginning of a connection
            lingering_time=CLOSE_TIMEOUT,
            shutdown_timeout=2 * CLOSE_TIMEOUT,  # sockets take CLOSE_TIMEOUT at most to end by themselves
        )
        await runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: self._admit(runner), self._host or None, self._port, ssl=ssl_context
            )
        except OSError as error:
            await self._clean_up(runner)
            address = f"port {self._port} of {self._host or 'any interface'}"
            raise BadArgument(f"cannot listen on {address}: {error.strerror or error}") from error
        self._port = self._server.sockets[0].getsockname()[1]
        self._runner = runner

    async def close(self) -> None:
        """Stop listening and disconnect everybody. Accepted sessions live on: they do not need the socket."""
        if self._runner is None or self._server is None:
            return
        runner, server, self._runner, self._server = self._runner, self._server, None, None
        self._closing = True
        server.close()
        for session in self._sessions:
            session.leave()
        await self._clean_up(runner)
        await server.wait_closed()

    async def _clean_up(self, runner: web.AppRunner) -> None:
        await runner.cleanup()
        if self._files is not None:
            self._files.close()

    def _admit(self, runner: web.AppRunner) -> asyncio.Protocol:
        server = runner.server
        if server is None or len(server.connections) >= self._max_sockets + MAX_HANDSHAKES:
            return _Refusal()
        return server()

    async def _swap(self, request: web.Request) -> web.StreamResponse:
        offered = ",".join(request.headers.getall("Sec-WebSocket-Protocol", []))
        if (refusal := self._sockets_gate.refusal(request, offered)) is not None:
            return refusal
        if SUBPROTOCOL not in (name.strip() for name in offered.split(",")):
            detail = f"expected a WebSocket upgrade that offers the sub-protocol {SUBPROTOCOL}"
            return problem_response(make_problem(MESSAGE_MALFORMATTED, detail))
        # Of a connection that was there before: who waits for its answer would hold up the end, and wait for nothing.
        if self._closing or len(self._sessions) >= self._max_sockets:
            problem = make_problem(DRAINING if self._closing else EDGE_FULL, retry_after=RETRY_AFTER)
            return problem_response(problem, {"Retry-After": str(RETRY_AFTER)})
        socket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,),
            timeout=CLOSE_TIMEOUT,
            heartbeat=HEARTBEAT,
            compress=False,  # a few bytes would unpack to the limit
            max_msg_size=MAX_MESSAGE + 1,  # aiohttp refuses a message of just this size
            writer_limit=MAX_UNSENT,
        )
        session = SignalingSession(socket, request, self._handler, self._negotiate)
        self._sessions.add(session)  # before the first await: the limit holds however many come at once
        try:
            await socket.prepare(request)
            await session.serve()
        finally:
            self._sessions.discard(session)
        return socket

    async def _serve_manifest(self, request: web.Request) -> web.Response:
        if (refusal := self._requests_gate.refusal(request)) is not None:
            return refusal
        assert self._manifest is not None
        made = self._manifest()
        body = await made if inspect.isawaitable(made) else made
        # What it says of the load is true for a moment.
        response = web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})
        response.enable_compression()  # for who takes it, a quarter of the bytes
        return response

    async def _serve_file(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._requests_gate.refusal(request)) is not None:
            return refusal
        assert self._files is not None
        return await self._files.serve(request)

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        ready, details = self._ready()
        if ready:
            return web.json_response(details)
        return web.json_response(details, status=503, headers={"Retry-After": str(RETRY_AFTER)})


class _Refusal(asyncio.Protocol):
    """Drops a connection beyond the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class _DiscreetLogger(logging.LoggerAdapter[logging.Logger]):
    """Says only of what kind an error of the HTTP library is: its own words hold addresses and what the peer sent."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        error = kwargs.get("exc_info")
        if isinstance(error, HttpProcessingError):
            level = logging.DEBUG  # what comes to every open port
        self.logger.log(level, "an HTTP request failed: %s", type(error).__name__)
