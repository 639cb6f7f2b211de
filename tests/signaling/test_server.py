from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from signaling import ConnectRequest, SignalingServer, server, token_subprotocol
from signaling.session import CLOSE_TIMEOUT
from signaling.swap import MAX_MESSAGE
from splitrtc_errors import BadArgument

WAIT = 5.0
TOKEN = "open-sesame-of-the-tests"
PROTOCOL = "3gpp.SWAP.v1"
CONNECT = {
    "version": 1,
    "source": "client-of-tests",
    "message_id": 1,
    "message_type": "connect",
    "offer": "v=0 the offer",
    "matching_criteria": [],
}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@contextlib.asynccontextmanager
async def raw(edge_server: SignalingServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge_server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def url(edge_server: SignalingServer, path: str = "/3gpp-swap/v1") -> str:
    return f"http://127.0.0.1:{edge_server.port}{path}"


async def receive(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    fields: dict[str, Any] = await ws.receive_json(timeout=WAIT)
    return fields


async def closing(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    """The code with which the server closes; messages on the way are passed over."""
    async with asyncio.timeout(WAIT):
        while (await ws.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.PONG):
            pass
    return ws.close_code


# HTTP


async def test_health_and_readiness(serve: Any, make_edge: Any, http: aiohttp.ClientSession) -> None:
    state: tuple[bool, dict[str, Any]] = (True, {"models": ["net"]})
    async with serve(make_edge(), ready=lambda: state, token=TOKEN) as edge_server:
        async with http.get(url(edge_server, "/healthz")) as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
        async with http.get(url(edge_server, "/readyz")) as response:
            assert (response.status, await response.json()) == (200, {"models": ["net"]})
        state = (False, {"reason": "warming up"})
        async with http.get(url(edge_server, "/readyz")) as response:
            assert (response.status, await response.json()) == (503, {"reason": "warming up"})
            assert int(response.headers["Retry-After"]) > 0


async def test_an_edge_is_ready_unless_it_says_otherwise(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession
) -> None:
    async with serve(make_edge()) as edge_server, http.get(url(edge_server, "/readyz")) as response:
        assert response.status == 200


async def test_a_wrong_token_and_a_missing_one_look_the_same(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession
) -> None:
    edge = make_edge()
    attempts: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Sec-WebSocket-Protocol": f"{PROTOCOL}, {token_subprotocol('wrong')}"},
        {"Sec-WebSocket-Protocol": f"{PROTOCOL}, splitrtc.token.!"},
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"},
    ]
    seen = set()
    async with serve(edge, token=TOKEN) as edge_server:
        for headers in attempts:
            async with http.get(url(edge_server), headers=headers) as response:
                assert response.status == 401
                kept = tuple((name, value) for name, value in response.headers.items() if name != "Date")
                seen.add((kept, await response.text()))
        with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
            await http.ws_connect(url(edge_server), protocols=[PROTOCOL], headers={"Authorization": "Bearer wrong"})
        assert raised.value.status == 401
    assert len(seen) == 1
    ((headers_seen, body),) = seen
    assert dict(headers_seen)["WWW-Authenticate"] == "Bearer"
    assert json.loads(body)["type"].endswith("/unauthorized.html")
    assert edge.requests == []


async def test_the_token_passes_in_both_forms_and_is_never_selected(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession
) -> None:
    async with serve(make_edge(), token=TOKEN) as edge_server:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with http.ws_connect(url(edge_server), protocols=[PROTOCOL], headers=headers) as ws:
            assert ws.protocol == PROTOCOL
        async with http.ws_connect(url(edge_server), protocols=[token_subprotocol(TOKEN), PROTOCOL]) as ws:
            assert ws.protocol == PROTOCOL


async def test_without_a_token_only_known_pages_connect(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession
) -> None:
    edge = make_edge()
    async with serve(edge, allow_origins=["https://app.example"]) as edge_server:
        own = f"http://127.0.0.1:{edge_server.port}"
        for origin in (None, own, "https://app.example"):
            async with http.ws_connect(url(edge_server), protocols=[PROTOCOL], origin=origin):
                pass
        for origin in ("https://evil.example", "null", f"http://localhost:{edge_server.port}"):
            headers = {"Origin": origin, "Sec-WebSocket-Protocol": PROTOCOL}
            async with http.get(url(edge_server), headers=headers) as response:
                assert (response.status, response.content_type) == (403, "application/problem+json")
                assert (await response.json())["type"] == "urn:splitrtc:problem:origin-not-allowed"
    assert edge.requests == []


async def test_a_page_with_the_token_may_come_from_anywhere(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession
) -> None:
    async with serve(make_edge(), token=TOKEN) as edge_server:
        protocols = [token_subprotocol(TOKEN), PROTOCOL]
        async with http.ws_connect(url(edge_server), protocols=protocols, origin="https://evil.example"):
            pass


async def test_the_subprotocol_is_required(serve: Any, make_edge: Any, http: aiohttp.ClientSession) -> None:
    async with serve(make_edge()) as edge_server:
        for protocols in ([], ["chat"], [token_subprotocol(TOKEN)]):
            with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
                await http.ws_connect(url(edge_server), protocols=protocols)
            assert raised.value.status == 400
        async with http.get(url(edge_server), headers={"Sec-WebSocket-Protocol": PROTOCOL}) as response:
            assert response.status == 400


async def test_a_trailing_slash_is_accepted(serve: Any, make_edge: Any, http: aiohttp.ClientSession) -> None:
    async with serve(make_edge()) as edge_server:
        async with http.ws_connect(url(edge_server, "/3gpp-swap/v1/"), protocols=[PROTOCOL]) as ws:
            await ws.send_json(CONNECT)
            assert (await receive(ws))["type"] == "ack"


async def test_sockets_are_bounded_and_come_free(serve: Any, make_edge: Any, http: aiohttp.ClientSession) -> None:
    async with serve(make_edge(), max_sockets=1) as edge_server:
        async with http.ws_connect(url(edge_server), protocols=[PROTOCOL]) as ws:
            async with http.get(url(edge_server), headers={"Sec-WebSocket-Protocol": PROTOCOL}) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) == (await response.json())["retry_after"]
            await ws.send_json(CONNECT)
        # The server has the client's close when the client has the server's.
        async with http.ws_connect(url(edge_server), protocols=[PROTOCOL]) as ws:
            await ws.send_json(CONNECT)
            assert (await receive(ws))["type"] == "ack"


async def test_connections_are_bounded(serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_HANDSHAKES", 1)
    async with serve(make_edge(), max_sockets=1) as edge_server, raw(edge_server), raw(edge_server):
        async with raw(edge_server) as (reader, _):
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), WAIT) == b""


@pytest.mark.parametrize("request_", [b"", b"GET /3gpp-swap/v1 HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_connection_without_a_request_is_closed(
    serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    monkeypatch.setattr(server, "FIRST_MESSAGE_TIMEOUT", 0.05)
    async with serve(make_edge()) as edge_server, raw(edge_server) as (reader, writer):
        writer.write(request_)
        assert await asyncio.wait_for(reader.read(), WAIT) == b""


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        b"BREW /coffee HTTP/9\r\n\r\n",
        b"GET / HTTP/1.1\r\nAuthorization Bearer " + TOKEN.encode() + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /3gpp-swap/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
    ],
)
async def test_hostile_http_is_refused_and_not_logged(
    serve: Any, make_edge: Any, caplog: pytest.LogCaptureFixture, request_: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve(make_edge()) as edge_server, raw(edge_server) as (reader, writer):
        writer.write(request_)
        status = await asyncio.wait_for(reader.readline(), WAIT)
        assert status.split()[1] in (b"400", b"405")
    assert "127.0.0.1" not in caplog.text
    assert TOKEN not in caplog.text


async def test_a_failure_of_our_own_is_logged_by_its_kind(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    def ready() -> tuple[bool, dict[str, Any]]:
        raise LookupError("127.0.0.1 is secret")

    async with serve(make_edge(), ready=ready) as edge_server, http.get(url(edge_server, "/readyz")) as response:
        assert response.status == 500
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "an HTTP request failed: LookupError")
    ]
    assert "secret" not in caplog.text


# WebSocket


async def test_hostile_messages_are_answered_and_the_next_connect_works(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession
) -> None:
    edge = make_edge()
    async with serve(edge) as edge_server, http.ws_connect(url(edge_server), protocols=[PROTOCOL]) as ws:
        for text in ("", "[", "[" * 100_000, '{"message_type":"response"', '{"a":1,"a":2}', "\x00", '"\\ud800"'):
            await ws.send_str(text)
            reply = await receive(ws)
            assert (reply["message_type"], reply["type"]) == ("response", "error")
            assert reply["description"]["type"].endswith("/message_malformatted.html")
        await ws.send_bytes(b"\xff\x00")
        assert (await receive(ws))["type"] == "error"
        await ws.send_json(CONNECT)
        assert (await receive(ws))["type"] == "ack"
        assert (await receive(ws))["answer"] == edge.behaviour


async def test_a_message_may_have_the_allowed_size_but_not_more(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession
) -> None:
    async with serve(make_edge()) as edge_server:
        async with http.ws_connect(url(edge_server), protocols=[PROTOCOL]) as ws:
            text = json.dumps(CONNECT)
            await ws.send_str(text + " " * (MAX_MESSAGE - len(text)))
            assert (await receive(ws))["type"] == "ack"
        async with http.ws_connect(url(edge_server), protocols=[PROTOCOL]) as ws:
            await ws.send_str(text + " " * (MAX_MESSAGE + 2 - len(text)))
            assert await closing(ws) == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


async def test_compression_is_not_negotiated(serve: Any, make_edge: Any, http: aiohttp.ClientSession) -> None:
    async with serve(make_edge()) as edge_server:
        async with http.ws_connect(url(edge_server), protocols=[PROTOCOL], compress=15) as ws:
            assert ws.compress == 0


@pytest.mark.parametrize(
    "frame",
    [
        b"\xf1\x80\x00\x00\x00\x00",  # reserved bits
        b"\x81\x85\x00\x00\x00\x00\xff\xfe\xff\xfe\xff",  # not UTF-8
        b"\x89\xfe\x00\x80",  # a ping that is too long
        b"\x80\x80\x00\x00\x00\x00",  # a continuation of nothing
        b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",  # 2^64 bytes to come
    ],
)
async def test_hostile_frames_close_one_socket_only(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession, frame: bytes
) -> None:
    async with serve(make_edge()) as edge_server:
        async with raw(edge_server) as (reader, writer):
            writer.write(
                b"GET /3gpp-swap/v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Protocol: 3gpp.SWAP.v1\r\n\r\n"
            )
            assert b"101" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT)
            writer.write(frame)
            await asyncio.wait_for(reader.read(), WAIT)  # until the server has closed it
        async with http.ws_connect(url(edge_server), protocols=[PROTOCOL]) as ws:
            await ws.send_json(CONNECT)
            assert (await receive(ws))["type"] == "ack"


async def test_ipv6(serve: Any, make_edge: Any, http: aiohttp.ClientSession) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    async with serve(make_edge(), "[::1]:0") as edge_server:
        async with http.get(f"http://[::1]:{edge_server.port}/healthz") as response:
            assert response.status == 200


# Start and end


async def test_a_port_in_use_is_the_callers_to_change(serve: Any, make_edge: Any) -> None:
    async with serve(make_edge()) as edge_server:
        other = SignalingServer(f"127.0.0.1:{edge_server.port}", make_edge())
        with pytest.raises(BadArgument, match=f"cannot listen on port {edge_server.port} of 127.0.0.1: .*in use"):
            await other.start()
        await other.close()


async def test_what_is_no_address_is_refused(make_edge: Any) -> None:
    with pytest.raises(BadArgument, match="HOST:PORT"):
        SignalingServer("host:port", make_edge())


async def test_closing_disconnects_everybody_and_leaves_nothing(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession
) -> None:
    waiting = make_edge(None)
    async with serve(waiting) as edge_server:
        sockets = [await http.ws_connect(url(edge_server), protocols=[PROTOCOL]) for _ in range(3)]
        await sockets[0].send_json(CONNECT)
        await asyncio.wait_for(waiting.asked.wait(), WAIT)
        codes = asyncio.gather(*(closing(ws) for ws in sockets))
        await edge_server.close()
        assert await codes == [aiohttp.WSCloseCode.GOING_AWAY] * 3
        assert waiting.cancelled.is_set()
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(url(edge_server, "/healthz"))
        await edge_server.close()


async def test_an_address_that_comes_too_often_has_to_wait(http: aiohttp.ClientSession) -> None:
    edge_server = SignalingServer("127.0.0.1:0", Silent(), token=TOKEN, connect_rate=0.2)
    await edge_server.start()
    try:
        for status in (401, 401, 429, 429):  # before the token is looked at
            async with http.get(url(edge_server), headers={"Authorization": "Bearer wrong"}) as response:
                assert response.status == status
        async with http.get(url(edge_server)) as response:
            assert 1 <= int(response.headers["Retry-After"]) <= 5
            problem = await response.json()
            assert problem["type"] == "urn:splitrtc:problem:too-many-requests"
            assert problem["retry_after"] == int(response.headers["Retry-After"])
        for path in ("/healthz", "/readyz"):  # who looks after the edge is not counted
            async with http.get(url(edge_server, path)) as response:
                assert response.status == 200
    finally:
        await edge_server.close()


class Silent:
    async def connect(self, request: ConnectRequest) -> str:
        raise AssertionError("nobody gets that far")


async def test_who_comes_while_it_closes_is_refused_at_once(serve: Any, make_edge: Any) -> None:
    upgrade = (
        b"GET /3gpp-swap/v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Protocol: 3gpp.SWAP.v1\r\n\r\n"
    )
    async with serve(make_edge()) as edge_server:
        # Each has connected, and is somewhere between that and its first message.
        opened = [await asyncio.open_connection("127.0.0.1", edge_server.port) for _ in range(12)]
        closing_down: asyncio.Task[None] | None = None
        try:
            for turns, (_, writer) in enumerate(opened):
                writer.write(upgrade)
                if turns == 6:
                    closing_down = asyncio.create_task(edge_server.close())
                await asyncio.sleep(0)
            assert closing_down is not None
            async with asyncio.timeout(2 * CLOSE_TIMEOUT):  # a socket has CLOSE_TIMEOUT to confirm its end, no more
                await closing_down
            async with asyncio.timeout(WAIT):
                answers = await asyncio.gather(*(reader.read() for reader, _ in opened), return_exceptions=True)
            told = [answer[:12] for answer in answers if isinstance(answer, bytes) and answer]
            assert set(told) <= {b"HTTP/1.1 101", b"HTTP/1.1 503"}
            assert told
        finally:
            for _, writer in opened:
                writer.close()
