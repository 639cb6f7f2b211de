from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rtc.link_settings import LinkSettings, parse_link
from rtc.relay import Relay
from rtc.relay_streams import MAX_STREAMS, Streams
from rtc.relay_thread import RelayThread
from splitrtc_errors import BadArgument

LOOPBACK = "127.0.0.1"
SECONDS = 20.0
PERFECT = LinkSettings()


@asynccontextmanager
async def echo_server() -> AsyncIterator[tuple[int, list[asyncio.StreamWriter]]]:
    """Sends back what it gets, until the client has ended; the connections that it has taken."""
    taken: list[asyncio.StreamWriter] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(echo, LOOPBACK, 0)
    try:
        yield server.sockets[0].getsockname()[1], taken
    finally:
        server.close()
        for writer in taken:
            writer.transport.abort()
        await server.wait_closed()


async def echoed(address: tuple[str, int], data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(-1), SECONDS)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "link", ["rtt=0", "loss=3%,rtt=4", "duplicate=10%,reorder=10%,corrupt=1%,rtt=4", "rate=20M,rtt=10"]
)
async def test_bytes_pass_whole_in_order_and_both_ways(link: str) -> None:
    data = bytes(range(256)) * 1_000
    async with echo_server() as (port, _), Relay(parse_link(link)) as relay:
        address = await relay.forward(LOOPBACK, port)
        assert await echoed(address, data) == data
        assert await asyncio.gather(*(echoed(address, b"%d" % n) for n in range(5))) == [b"%d" % n for n in range(5)]
        assert relay.counters.up.offered_bytes > len(data)
        assert relay.counters.down.offered_bytes > len(data)


async def test_opening_and_each_answer_cost_a_round_trip() -> None:
    async with echo_server() as (port, _), RelayThread(parse_link("rtt=50")) as relay:
        address = await relay.forward(LOOPBACK, port)
        begin = time.monotonic()
        assert await echoed(address, b"one question") == b"one question"
        assert time.monotonic() - begin >= 0.098


async def test_a_client_that_nobody_serves_is_disconnected() -> None:
    with socket.socket() as unused:
        unused.bind((LOOPBACK, 0))
        async with Relay(parse_link("rtt=2")) as relay:
            address = await relay.forward(LOOPBACK, unused.getsockname()[1])
            with pytest.raises(ConnectionError):
                assert await echoed(address, b"anybody?") == b"", "the end of a stream would be an answer"


async def test_a_connection_that_is_cut_on_one_side_is_cut_on_the_other() -> None:
    async with echo_server() as (port, taken), Relay(parse_link("rtt=2")) as relay:
        address = await relay.forward(LOOPBACK, port)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), SECONDS) == b"hello"
        taken[0].transport.abort()
        assert await asyncio.wait_for(_end_of(reader), SECONDS)
        writer.close()

        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), SECONDS) == b"hello"
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(taken[1].wait_closed(), SECONDS)


async def _end_of(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


async def test_a_server_that_does_not_read_holds_its_client_up() -> None:
    released = asyncio.Event()
    got = bytearray()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        while data := await reader.read(65_536):
            got.extend(data)
        writer.close()

    server = await asyncio.start_server(slow, LOOPBACK, 0)
    async with Relay(PERFECT) as relay:
        address = await relay.forward(LOOPBACK, server.sockets[0].getsockname()[1])
        reader, writer = await asyncio.open_connection(*address)
        data = bytes(24_000_000)
        writer.write(data)
        writer.write_eof()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.5)
        assert relay.counters.up.delivered_bytes < len(data) / 2, "sockets and relay hold some megabytes alone"
        released.set()
        assert await asyncio.wait_for(reader.read(), SECONDS) == b""
        assert len(got) == len(data)
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_connections_beyond_the_limit_are_closed() -> None:
    async with echo_server() as (port, taken), Relay(PERFECT) as relay:
        address = await relay.forward(LOOPBACK, port)
        clients = [await asyncio.open_connection(*address) for _ in range(MAX_STREAMS + 1)]
        assert await asyncio.wait_for(_end_of(clients[-1][0]), SECONDS)
        for _, writer in clients[:MAX_STREAMS]:
            writer.write(b"x")
        for reader, _ in clients[:MAX_STREAMS]:
            assert await asyncio.wait_for(reader.readexactly(1), SECONDS) == b"x"
        assert len(taken) == MAX_STREAMS
        for _, writer in clients:
            writer.transport.abort()


async def test_leaving_the_relay_ends_its_connections() -> None:
    async with echo_server() as (port, _):
        async with Relay(PERFECT) as relay:
            address = await relay.forward(LOOPBACK, port)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.readexactly(5), SECONDS) == b"hello"
        assert await asyncio.wait_for(_end_of(reader), SECONDS)
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)


async def test_an_address_that_cannot_be_listened_on_is_one_clear_error() -> None:
    streams = Streams(lambda _: None, lambda _: None)
    with pytest.raises(BadArgument, match=r"cannot bind the relay to 192\.0\.2\.1"):
        await streams.forward("192.0.2.1", LOOPBACK, 1)


async def test_packets_of_others_and_damaged_ones_are_not_taken_in() -> None:
    sent: list[bytes] = []
    streams = Streams(sent.append, sent.append)
    streams.send("ue", 7, 2, 0, b"payload")
    (packet,) = sent
    assert not streams.take(b"\x00" + packet, "edge")
    assert streams.take(packet[:10], "edge"), "it is a stream's, but not whole"
    assert streams.take(packet[:-1] + b"?", "edge")
    assert len(sent) == 1, "nothing of these is answered"
    assert streams.take(packet, "edge")
    assert len(sent) == 2, "a segment of an unknown stream is answered with a reset"
    assert streams.take(sent[1], "ue")
    assert len(sent) == 2
