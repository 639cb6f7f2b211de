from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rtc.peer import MAX_CONTROL_BACKLOG, MAX_RESULT_BACKLOG, IceServer, Peer
from rtc.results import parse_result
from rtc.units import parse_unit
from splitrtc_errors import ConnectionLost, ProtocolError, Unreachable

LOOPBACK = "127.0.0.1"
SECONDS = 20.0

Pair = tuple[Peer, Peer]
Connect = Callable[[Peer, Peer], Awaitable[None]]

pytestmark = pytest.mark.usefixtures("nothing_is_left")


class Inbox:
    """What a callback got, to be waited for."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[object] = asyncio.Queue()

    def put(self, item: object) -> None:
        self._queue.put_nowait(item)

    async def get(self) -> Any:
        return await asyncio.wait_for(self._queue.get(), SECONDS)

    @property
    def empty(self) -> bool:
        return self._queue.empty()


# Messages


async def test_messages_reach_their_callbacks(pair: Pair) -> None:
    ue, edge = pair
    control, intermediate, result = Inbox(), Inbox(), Inbox()
    edge.on_control = control.put
    edge.on_intermediate = intermediate.put
    ue.on_result = result.put
    ue.send_control('{"type": "report"}')
    ue._channels[1].send(b"unit")
    assert edge.send_result(b"result")
    assert await control.get() == '{"type": "report"}'
    assert await intermediate.get() == b"unit"
    assert await result.get() == b"result"
    edge.send_control("back")


async def test_messages_that_nobody_asked_for_do_no_harm(pair: Pair) -> None:
    ue, edge = pair
    ue.send_control("one")
    got = Inbox()
    edge.on_control = got.put
    ue.send_control("two")
    assert await got.get() in ("one", "two")
    assert edge.counters.failed_callbacks == 0


async def test_wrong_type_of_message_is_counted_and_dropped(pair: Pair) -> None:
    ue, edge = pair
    texts, units = Inbox(), Inbox()
    edge.on_control = texts.put
    edge.on_intermediate = units.put
    control, intermediate, _ = ue._channels
    control.send(b"bytes")
    control.send("text")
    intermediate.send("text")
    intermediate.send(b"bytes")
    assert await texts.get() == "text"
    assert await units.get() == b"bytes"
    assert edge.counters.wrong_type == 2


async def test_failing_callbacks_close_nothing(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    ue, edge = pair

    def refuse(_: object) -> None:
        raise ProtocolError("malformed")

    def stumble(_: object) -> None:
        raise KeyError("a mistake of ours")

    edge.on_intermediate = refuse
    edge.on_control = stumble
    ue._channels[1].send(b"unit")
    ue.send_control("text")
    got = Inbox()
    ue.on_control = got.put
    edge_got = Inbox()
    edge.on_result = edge_got.put
    ue._channels[2].send(b"after the others")
    assert await edge_got.get() == b"after the others"
    assert (edge.counters.malformed, edge.counters.failed_callbacks) == (1, 1)
    assert [record.levelno for record in caplog.records if record.name == "rtc.peer"] == [logging.ERROR]
    edge.send_control("still here")
    assert await got.get() == "still here"


async def test_a_datagram_without_content_does_no_harm(pair: Pair) -> None:
    ue, edge = pair
    got = Inbox()
    edge.on_control = got.put
    candidate = re.search(r"a=candidate:.* 127\.0\.0\.1 ([0-9]+) ", ue._connection.remoteDescription.sdp)
    assert candidate is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anybody:  # asyncio sends no empty ones
        anybody.sendto(b"", (LOOPBACK, int(candidate[1])))
    ue.send_control("after it")
    assert await got.get() == "after it"
    ue.send_control("and after that")
    assert await got.get() == "and after that"


async def test_what_the_transport_drops_is_counted(pair: Pair) -> None:
    ue, edge = pair
    assert edge.transport_counters.malformed == 0
    assert ue._connection.sctp is not None
    await ue._connection.sctp.transport._send_data(b"not SCTP")
    ue.send_control("after it")
    got = Inbox()
    edge.on_control = got.put
    assert await got.get() == "after it"
    assert edge.transport_counters.malformed == 1


async def test_extra_channels_are_closed_and_counted(pair: Pair) -> None:
    ue, edge = pair
    extra = ue._connection.createDataChannel("extra")
    gone = asyncio.Event()
    extra.on("close", gone.set)
    await asyncio.wait_for(gone.wait(), SECONDS)
    assert edge.counters.extra_channels == 1
    assert not edge.closed.is_set()


async def test_control_before_opening_and_after_closing_is_an_error(connect: Connect) -> None:
    async with Peer(bind=LOOPBACK) as ue, Peer(bind=LOOPBACK) as edge:
        await ue.create_offer()
        with pytest.raises(ConnectionLost, match="not open"):
            ue.send_control("too early")
        assert not ue.send_result(b"too early")
        await edge.close()
    with pytest.raises(ConnectionLost, match="closed by this side"):
        ue.send_control("too late")
    assert not ue.send_result(b"too late")
    assert ue.counters.results_dropped == 2


async def test_control_messages_do_not_pile_up_without_end(pair: Pair) -> None:
    ue, _ = pair
    message = "x" * 16_384
    with pytest.raises(ConnectionLost, match="waiting"):
        for _ in range(MAX_CONTROL_BACKLOG // len(message) + 2):
            ue.send_control(message)


async def test_results_that_would_be_late_are_dropped(pair: Pair) -> None:
    ue, edge = pair
    got = Inbox()
    ue.on_result = got.put
    results = [bytes([number]) * 1_024 for number in range(32)]
    kept = [result for result in results if edge.send_result(result)]
    assert len(kept) == MAX_RESULT_BACKLOG // 1_024 + 1
    assert edge.counters.results_dropped == len(results) - len(kept)
    assert [await got.get() for _ in kept] == kept


# Life


async def test_both_sides_show_that_they_live(pair: Pair) -> None:
    ue, edge = pair
    units, results = Inbox(), Inbox()
    edge.on_intermediate = units.put
    ue.on_result = results.put
    unit, result = await units.get(), await results.get()
    assert parse_unit(unit).heartbeat
    assert abs(parse_unit(unit).capture_us / 1e6 - time.monotonic()) < SECONDS
    assert parse_result(result).heartbeat
    assert ue.counters.heartbeats_sent >= 1


async def test_heartbeats_keep_an_idle_connection(connect: Connect) -> None:
    async with Peer(bind=LOOPBACK, timeout=0.75) as ue, Peer(bind=LOOPBACK, timeout=0.75) as edge:
        await connect(ue, edge)
        results = Inbox()
        ue.on_result = results.put
        for _ in range(3):
            await results.get()
        assert not ue.closed.is_set()
        assert not edge.closed.is_set()
        assert ue.counters.heartbeats_sent <= 4


async def test_silent_peer_is_lost(connect: Connect) -> None:
    async with Peer(bind=LOOPBACK, timeout=0.125) as ue, Peer(bind=LOOPBACK) as edge:
        reasons = Inbox()
        ue.on_closed = reasons.put
        await connect(ue, edge)
        assert await reasons.get() == "nothing heard from the peer for 0.125 s"
        assert ue.closed.is_set()
        assert ue.close_reason == "nothing heard from the peer for 0.125 s"
        with pytest.raises(Unreachable, match="nothing heard"):
            await ue.opened(SECONDS)


@pytest.mark.parametrize("jump", [3_600.0, -3_600.0])
async def test_a_jump_of_the_clock_is_not_the_peers_silence(connect: Connect, jump: float) -> None:
    """Forwards, as after a standstill of this side; or backwards."""
    offset = [10_000.0]
    async with Peer(bind=LOOPBACK, clock=lambda: time.monotonic() + offset[0]) as ue, Peer(bind=LOOPBACK) as edge:
        await connect(ue, edge)
        units = Inbox()
        edge.on_intermediate = units.put
        offset[0] += jump
        # The heartbeat comes from the same look at the clock that would have found the peer lost. And the next ones.
        for _ in range(2):
            seconds = parse_unit(await units.get()).capture_us / 1e6
            assert seconds == pytest.approx(time.monotonic() + offset[0], abs=SECONDS)
        assert not ue.closed.is_set()
        # Real silence is still noticed.
        await edge.close()
        await asyncio.wait_for(ue.closed.wait(), SECONDS)


async def test_no_heartbeat_behind_messages_that_wait(pair: Pair) -> None:
    ue, edge = pair
    got = Inbox()
    edge.on_intermediate = got.put
    ue._channels[1].send(b"waiting")
    ue._send_heartbeat(0.0)
    ue._channels[1].send(b"next")
    assert [await got.get(), await got.get()] == [b"waiting", b"next"]
    assert ue.counters.heartbeats_sent == 0


# The end


async def test_closing_tells_the_other_side_and_nobody_here(pair: Pair) -> None:
    ue, edge = pair
    here, there = Inbox(), Inbox()
    ue.on_closed = here.put
    edge.on_closed = there.put
    await ue.close()
    assert await there.get() == "the peer closed the connection"
    await edge.close()
    assert ue.closed.is_set()
    assert ue.close_reason == "closed by this side"
    assert ue._timer is not None
    assert ue._timer.cancelled()
    assert here.empty
    assert there.empty


async def test_closing_before_anything_happened() -> None:
    peer = Peer()
    await peer.close()
    await peer.close()
    with pytest.raises(Unreachable, match="closed by this side"):
        await peer.opened(1.0)
    with pytest.raises(ConnectionLost, match="closed by this side"):
        await peer.create_offer()


async def test_closing_while_connecting() -> None:
    ue, edge = Peer(bind=LOOPBACK), Peer(bind=LOOPBACK)
    await ue.accept_answer(await edge.create_answer(await ue.create_offer()))
    waiting = asyncio.create_task(ue.opened(SECONDS))
    await asyncio.gather(ue.close(), edge.close(), ue.close())
    with pytest.raises(Unreachable):
        await waiting


@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_closing_at_any_moment_of_the_set_up(turns: int) -> None:
    ue, edge = Peer(bind=LOOPBACK), Peer(bind=LOOPBACK)
    await ue.accept_answer(await edge.create_answer(await ue.create_offer()))
    for _ in range(turns):
        await asyncio.sleep(0.001)
    await ue.close()
    await edge.close()


async def test_cancelled_close_is_carried_out_all_the_same(pair: Pair) -> None:
    ue, edge = pair
    closing = asyncio.create_task(ue.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await ue.close()
    await asyncio.wait_for(edge.closed.wait(), SECONDS)


async def test_closing_while_gathering_ends_the_offer() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent_server:
        silent_server.bind((LOOPBACK, 0))
        silent_server.setblocking(False)
        port = silent_server.getsockname()[1]
        ue = Peer([IceServer(f"stun:{LOOPBACK}:{port}")], bind=LOOPBACK)
        offering = asyncio.create_task(ue.create_offer())
        await asyncio.get_running_loop().sock_recv(silent_server, 2_048)
        await ue.close()
        with pytest.raises(ConnectionLost, match="closed by this side"):
            await offering


async def test_cancelling_the_offer_while_gathering_leaves_nothing() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent_server:
        silent_server.bind((LOOPBACK, 0))
        silent_server.setblocking(False)
        port = silent_server.getsockname()[1]
        async with Peer([IceServer(f"stun:{LOOPBACK}:{port}")], bind=LOOPBACK) as ue:
            offering = asyncio.create_task(ue.create_offer())
            await asyncio.get_running_loop().sock_recv(silent_server, 2_048)
            offering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await offering


async def test_answering_a_closed_peer_is_a_lost_connection() -> None:
    async with Peer(bind=LOOPBACK) as ue, Peer(bind=LOOPBACK) as edge:
        answer = await edge.create_answer(await ue.create_offer())
        await ue.close()
        with pytest.raises(ConnectionLost, match="closed by this side"):
            await ue.accept_answer(answer)
