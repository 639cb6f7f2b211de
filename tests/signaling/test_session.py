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

from signaling import EDGE_FULL, make_problem, rejection, session
from splitrtc_errors import CodecError, NoCommonOperatingPoint, ProtocolError

WAIT = 5.0
PROTOCOL = "3gpp.SWAP.v1"
ME = "client-of-tests"
OFFER = "v=0 candidate:1 1 udp 1 192.0.2.55 4444 typ host"


class Wire:
    """A client that writes its JSON by hand, in either dialect."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, source: str) -> None:
        self.ws = ws
        self.source = source
        self.sent = 0

    async def send(self, message_type: str, **fields: Any) -> None:
        self.sent += 1
        common = {"version": 1, self.source: ME, "message_id": self.sent, "message_type": message_type}
        await self.ws.send_json(common | fields)

    async def receive(self) -> dict[str, Any]:
        fields: dict[str, Any] = await self.ws.receive_json(timeout=WAIT)
        return fields

    async def connect(self) -> None:
        criteria = "matching_criteria" if self.source == "source" else "criteria"
        await self.send("connect", offer=OFFER, **{criteria: [{"type": "service", "value": "split"}]})

    async def establish(self) -> str:
        """Connect; returns the edge's source."""
        await self.connect()
        ack, accept = await self.receive(), await self.receive()
        assert (ack["message_type"], accept["message_type"]) == ("response", "accept")
        return str(accept[self.source])

    async def closed(self) -> int | None:
        message = await self.ws.receive(timeout=WAIT)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        return self.ws.close_code


@contextlib.asynccontextmanager
async def wired(port: int, source: str = "source", **options: Any) -> AsyncIterator[Wire]:
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"http://127.0.0.1:{port}/3gpp-swap/v1", protocols=[PROTOCOL], **options) as ws,
    ):
        yield Wire(ws, source)


async def test_the_standard_dialect_from_end_to_end(serve: Any, make_edge: Any) -> None:
    edge = make_edge()
    async with serve(edge) as server, wired(server.port) as wire:
        await wire.connect()
        ack = await wire.receive()
        assert (ack["type"], ack["request"], ack["target"]) == ("ack", 1, ME)
        accept = await wire.receive()
        assert (accept["message_type"], accept["answer"], accept["target"]) == ("accept", edge.behaviour, ME)
        await wire.send("response", type="ack", target=accept["source"], request=accept["message_id"])
        await wire.send("close", target=accept["source"])
        assert (await wire.receive())["request"] == 3
        final = await wire.receive()
        assert final["message_type"] == "accept"
        assert "answer" not in final
        assert await wire.closed() == aiohttp.WSCloseCode.OK
        assert await asyncio.wait_for(edge.closed.get(), WAIT) == "the client closed the session"
    (request,) = edge.requests
    assert (request.offer, request.remote) == (OFFER, "127.0.0.1")
    assert [(criterion.type, criterion.value) for criterion in request.criteria] == [("service", "split")]


async def test_the_second_dialect_from_end_to_end(serve: Any, make_edge: Any) -> None:
    edge = make_edge()
    async with serve(edge) as server, wired(server.port, "source_id") as wire:
        await wire.send("register", criteria=[])
        assert (await wire.receive())["status"] == 200
        await wire.connect()
        ack = await wire.receive()
        assert (ack["response_to"], ack["status"], ack["reason"]) == (2, 200, "OK")
        accept = await wire.receive()
        assert (accept["answer"], accept["target"]) == (edge.behaviour, ME)
        await wire.send("close", target=accept["source_id"])
        assert (await wire.receive())["response_to"] == 3
        assert await wire.closed() == aiohttp.WSCloseCode.OK
        await asyncio.wait_for(edge.closed.get(), WAIT)


@pytest.mark.parametrize(
    ("error", "type_"),
    [
        (rejection(make_problem(EDGE_FULL, retry_after=5)), "urn:splitrtc:problem:edge-full"),
        (NoCommonOperatingPoint("none"), "urn:splitrtc:problem:no-common-operating-point"),
        (ProtocolError("no data channel"), "http://forge.3gpp.org/sa4/swap/message_malformatted.html"),
        (CodecError(OFFER), "urn:splitrtc:problem:edge-failure"),
        (ValueError(OFFER), "urn:splitrtc:problem:edge-failure"),
    ],
)
async def test_a_failed_connect_is_rejected_with_a_problem(
    serve: Any, make_edge: Any, caplog: pytest.LogCaptureFixture, error: Exception, type_: str
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve(make_edge(error)) as server:
        async with wired(server.port) as wire:
            await wire.connect()
            assert (await wire.receive())["type"] == "ack"
            reject = await wire.receive()
            assert (reject["message_type"], reject["request"], reject["error_id"]) == ("reject", 1, type_)
            assert reject["description"]["type"] == type_
            assert OFFER not in json.dumps(reject)
        async with wired(server.port, "source_id") as wire:
            await wire.connect()
            assert (await wire.receive())["status"] == 200
            reject = await wire.receive()
            assert json.loads(reject["reason"])["type"] == type_
    assert OFFER not in caplog.text
    assert "192.0.2.55" not in caplog.text
    assert "127.0.0.1" not in caplog.text


async def test_a_failure_is_logged_with_its_kind_and_place(
    serve: Any, make_edge: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(make_edge(ValueError(OFFER))) as server, wired(server.port) as wire:
        await wire.connect()
        await wire.receive()
        await wire.receive()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("a connect failed: ValueError in connect, line ")


async def test_a_rejected_client_that_stays_is_disconnected(
    serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLOSE_TIMEOUT", 0.05)
    async with serve(make_edge(NoCommonOperatingPoint("none"))) as server, wired(server.port) as wire:
        await wire.connect()
        await wire.receive()
        assert (await wire.receive())["message_type"] == "reject"
        assert await wire.closed() == aiohttp.WSCloseCode.OK


async def test_a_handler_that_takes_too_long_is_cancelled(
    serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CONNECT_TIMEOUT", 0.05)
    edge = make_edge(None)
    async with serve(edge) as server, wired(server.port) as wire:
        await wire.connect()
        await wire.receive()
        assert (await wire.receive())["error_id"] == "urn:splitrtc:problem:edge-failure"
        assert edge.cancelled.is_set()


async def test_a_silent_socket_is_closed_though_it_pings(
    serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FIRST_MESSAGE_TIMEOUT", 0.1)
    async with serve(make_edge()) as server, wired(server.port, autoping=False) as wire:
        async with asyncio.timeout(WAIT):
            kind = aiohttp.WSMsgType.PONG
            while kind is aiohttp.WSMsgType.PONG:
                await wire.ws.ping()
                kind = (await wire.ws.receive()).type
        assert kind is aiohttp.WSMsgType.CLOSE


async def test_a_socket_that_only_registers_is_closed(
    serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FIRST_MESSAGE_TIMEOUT", 0.1)
    async with serve(make_edge()) as server, wired(server.port) as wire:
        await wire.send("register")
        await wire.receive()
        assert await wire.closed() == aiohttp.WSCloseCode.OK


async def test_a_session_has_no_time_limit(serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FIRST_MESSAGE_TIMEOUT", 0.05)
    async with serve(make_edge()) as server, wired(server.port) as wire:
        await wire.establish()
        with pytest.raises(TimeoutError):
            await wire.ws.receive(timeout=0.2)


async def test_a_socket_carries_one_connect(serve: Any, make_edge: Any) -> None:
    edge = make_edge()
    async with serve(edge) as server, wired(server.port) as wire:
        await wire.establish()
        await wire.connect()
        assert (await wire.receive())["type"] == "error"
    assert len(edge.requests) == 1


async def test_nonsense_is_answered_a_few_times_then_disconnected(
    serve: Any, make_edge: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(make_edge()) as server, wired(server.port) as wire:
        for _ in range(16):
            await wire.ws.send_str("nonsense")
            assert (await wire.receive())["type"] == "error"
        assert await wire.closed() == aiohttp.WSCloseCode.OK
    assert "too many bad ones" in caplog.text
    assert "nonsense" not in caplog.text


async def test_a_client_that_goes_away_cancels_its_connect(serve: Any, make_edge: Any) -> None:
    edge = make_edge(None)
    async with serve(edge) as server:
        async with wired(server.port) as wire:
            await wire.connect()
            await asyncio.wait_for(edge.asked.wait(), WAIT)
        await asyncio.wait_for(edge.cancelled.wait(), WAIT)
    assert edge.closed.empty()


async def test_a_client_that_closes_cancels_its_connect(serve: Any, make_edge: Any) -> None:
    edge = make_edge(None)
    async with serve(edge) as server, wired(server.port) as wire:
        await wire.connect()
        edge_source = (await wire.receive())["source"]
        await wire.send("close", target=edge_source)
        await asyncio.wait_for(edge.cancelled.wait(), WAIT)


async def test_losing_the_socket_does_not_end_the_session(serve: Any, make_edge: Any) -> None:
    edge = make_edge()
    async with serve(edge) as server:
        async with wired(server.port) as wire:
            await wire.establish()
        await server.close()  # everything about the socket is over now
        assert edge.closed.empty()
        await edge.session.close()  # and there is nobody to tell


async def test_the_edge_closes_a_session(serve: Any, make_edge: Any) -> None:
    edge = make_edge()
    async with serve(edge) as server, wired(server.port) as wire:
        edge_source = await wire.establish()
        await edge.session.close()
        close = await wire.receive()
        assert (close["message_type"], close["target"]) == ("close", ME)
        await edge.session.close()
        await wire.send("accept", target=edge_source)
        assert (await wire.receive())["type"] == "ack"
        assert await wire.closed() == aiohttp.WSCloseCode.OK
    assert edge.closed.empty()


async def test_a_close_that_is_not_confirmed_ends_the_socket(
    serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLOSE_TIMEOUT", 0.05)
    edge = make_edge()
    async with serve(edge) as server, wired(server.port) as wire:
        await wire.establish()
        await edge.session.close()
        assert (await wire.receive())["message_type"] == "close"
        assert await wire.closed() == aiohttp.WSCloseCode.OK


async def test_a_client_that_does_not_read_is_dropped_and_the_edge_is_told(
    serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "SEND_TIMEOUT", 0.1)
    monkeypatch.setattr(session, "CLOSE_TIMEOUT", 0.1)
    edge = make_edge("a" * 200_000)
    async with serve(edge) as server:
        # Buffers of the listening socket pass on to the connections.
        server._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", server.port))
            text = json.dumps(
                {"version": 1, "source": ME, "message_id": 1, "message_type": "connect", "offer": OFFER}
            ).encode()
            await loop.sock_sendall(
                client,
                b"GET /3gpp-swap/v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Protocol: 3gpp.SWAP.v1\r\n\r\n"
                + b"\x81\xfe"
                + len(text).to_bytes(2, "big")
                + b"\x00\x00\x00\x00"
                + text,
            )
            reason = await asyncio.wait_for(edge.closed.get(), WAIT)
            assert reason == "the client was lost before the answer was delivered"
