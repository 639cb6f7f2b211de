from __future__ import annotations

import asyncio
import threading

import pytest

from rtc import Peer, RelayThread, parse_link
from splitrtc_errors import BadArgument, ProtocolError

LOOPBACK = "127.0.0.1"
WAIT = 20.0


def link_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "link"]


async def test_peers_connect_through_it_while_this_loop_is_theirs() -> None:
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with (
        RelayThread(parse_link("rtt=20"), LOOPBACK) as relay,
        Peer(bind=LOOPBACK) as ue,
        Peer(bind=LOOPBACK) as edge,
    ):
        edge.on_control = told.set_result
        offer = await relay.rewrite(await ue.create_offer(), "ue")
        await ue.accept_answer(await relay.rewrite(await edge.create_answer(offer), "edge"))
        await asyncio.gather(ue.opened(WAIT), edge.opened(WAIT))
        ue.send_control("over the link")
        async with asyncio.timeout(WAIT):
            assert await told == "over the link"
        figures = relay.to_json()
        assert figures["started"] <= asyncio.get_running_loop().time()
        for way in ("up", "down"):
            assert figures[way]["delivered_bytes"] > 1000
        assert figures["foreign"] == 0
    assert link_threads() == []


async def test_an_address_that_is_not_this_machines() -> None:
    with pytest.raises(BadArgument, match="cannot bind the relay"):
        async with RelayThread(parse_link("rtt=0"), "192.0.2.1"):
            pass
    for thread in link_threads():  # it failed there, and is about to end
        thread.join(WAIT)
        assert not thread.is_alive()


async def test_a_description_that_cannot_be_rewritten() -> None:
    async with RelayThread(parse_link("rtt=0")) as relay:
        with pytest.raises(ProtocolError):
            await relay.rewrite("v=0\r\n", "ue")


async def test_entering_may_be_cancelled() -> None:
    relay = RelayThread(parse_link("rtt=0"))
    entering = asyncio.create_task(relay.__aenter__())
    await asyncio.sleep(0)  # it waits for the thread now
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    for thread in link_threads():
        thread.join(WAIT)
        assert not thread.is_alive()
