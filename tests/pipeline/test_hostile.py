"""UEs at one edge, of which one is hostile: the others are answered every frame."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import aiohttp
import numpy as np
import pytest

from models import Zoo
from pipeline import limits
from pipeline.edge import Edge
from pipeline.offers import points
from pipeline.settings import EdgeSettings
from rtc import Peer, Status, units_of_frame
from rtc.peer import MAX_RESULT_BACKLOG
from rtc.results import MAX_RESULT
from signaling import ParameterSetRelease, SignalingClient, attributes_of
from splitrtc_errors import EdgeFull, SplitRtcError

WAIT = 20.0
FEW, MANY = 2, 9
"""Neighbours of the hostile one."""
FRAMES = 4

Connect = Callable[..., AbstractAsyncContextManager[Any]]
Attack = Callable[[Any, "Target"], Awaitable[None]]


class Target:
    """What an attacker knows of the edge, and what it sends of pictures."""

    def __init__(self, edge: Edge, picture: np.ndarray) -> None:
        self.edge = edge
        self.picture = picture
        self.rng = random.Random(5)

    @property
    def http(self) -> str:
        return self.edge.url.replace("ws", "http", 1)


async def malformed(ue: Any, target: Target) -> None:
    """Every channel gets what no parser likes, in all sizes."""
    units = ue.units(target.picture)
    for channel in ue.peer._channels:
        for _ in range(150):
            damaged = bytearray(target.rng.choice(units))
            damaged[target.rng.randrange(24)] = target.rng.randrange(256)
            channel.send(bytes(damaged))
            channel.send(target.rng.randbytes(target.rng.randrange(1, 1200)))
        channel.send(b"\xff" * 60_000)
        channel.send("{" * 2_000)
        channel.send('{"type":"aips","id":' + "9" * 5_000 + "}")
        channel.send('{"type":"report","figures":{"x":NaN}}')


async def replayed(ue: Any, target: Target) -> None:
    """Units twice, backwards, of frames long gone, and of ids far ahead."""
    frames = [ue.units(target.picture) for _ in range(4)]
    for units in frames * 3:
        ue.send(reversed(units))
    slices = [unit[20:] for unit in frames[0]]
    for frame_id in (2**31, 2**32 - 1, 1, 2**31 - 1):
        ue.send(units_of_frame(1, frame_id, 0, slices))


async def contradictory(ue: Any, target: Target) -> None:
    """Slices of one frame that tell different stories, and frames that never end."""
    payload = b"x" * 1000
    for frame_id in range(1, 40):
        for count in (2, 4096, 7):
            ue.send(units_of_frame(1, frame_id, count, [payload] * count)[:3])
        ue.send(units_of_frame(77, frame_id, 0, [payload]))


async def garbage_that_decodes(ue: Any, target: Target) -> None:
    """Slices whose codes are anything: the tail gets to see them."""
    for unit in (ue.units(target.picture) for _ in range(8)):
        ue.send([data[:27] + target.rng.randbytes(len(data) - 27) for data in unit])


async def infinite(ue: Any, target: Target) -> None:
    """Raw tensors of NaN, of infinity, and of the largest numbers there are."""
    (spec,) = ue.parameters().tensors
    for value in (float("nan"), float("inf"), float("-inf"), 3.4e38, 1e-45):
        body = struct.pack("<f", value) * 250
        slices = [
            struct.pack(">BIH", 0, first, min(250, spec.elements - first)) + body[: 4 * min(250, spec.elements - first)]
            for first in range(0, spec.elements, 250)
        ]
        frame_id, ue._next_id = ue._next_id, ue._next_id + 1
        ue.send(units_of_frame(1, frame_id, 0, slices))
        await ue.result()


async def flooding(ue: Any, target: Target) -> None:
    """More units than anybody has a use for, until the edge has had enough."""
    unit = ue.units(target.picture)[0]
    channel = ue.peer._channels[1]
    while not ue.ended.done():
        if channel.readyState == "open" and channel.bufferedAmount < 200_000:  # more would only slow the attacker down
            channel.send(unit)
        else:
            await asyncio.sleep(0)


async def talking(ue: Any, target: Target) -> None:
    """Control messages without end: sets announced and released, and again."""
    channel = ue.peer._channels[0]
    while not ue.ended.done() and channel.readyState == "open":
        ue.say(ue.parameters(2))
        ue.say(ParameterSetRelease(2))
        await asyncio.sleep(0)


async def opening_channels(ue: Any, target: Target) -> None:
    """Channels that nobody agreed on."""
    for number in range(30):
        ue.peer._connection.createDataChannel(f"more {number}")
    await ue.announce(ue.parameters(3))


async def never_acknowledging(ue: Any, target: Target) -> None:
    """It wants results, and never tells the transport that it got one: what is to be sent to it piles up."""

    async def silent() -> None:
        return

    ue.peer._connection.sctp._send_sack = silent
    for frame_id in range(1, 1500):
        ue.send(units_of_frame(1, frame_id, 0, [b"no slice"]))
        if frame_id % 50 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(WAIT):
        while not target.edge.outcomes["results_dropped"]:  # noqa: ASYNC110 - a counter tells nobody
            await asyncio.sleep(0.01)
    backlogs = [session._peer._channels[2].bufferedAmount for session in target.edge._sessions.values()]
    assert max(backlogs) < MAX_RESULT_BACKLOG + MAX_RESULT


async def leaving(ue: Any, target: Target) -> None:
    """Offers, and then nothing: the socket stays, or goes at once."""
    for stays in (True, False):
        async with Peer(bind="127.0.0.1") as peer, SignalingClient(target.edge.url) as client:
            offer = await peer.create_offer(attributes_of([ue.point.offer(30.0)]))
            if stays:
                await client.connect(offer)
            else:
                connecting = asyncio.create_task(client.connect(offer))
                await asyncio.sleep(0)
                connecting.cancel()


async def signalling_nonsense(ue: Any, target: Target) -> None:
    """The WebSocket gets what is no SWAP, too long, too deep, too often; and SDP that is none."""
    url = f"{target.http}/3gpp-swap/v1"
    texts = ["", "{}", "[" * 5_000, "9" * 300_000, '{"version":1,"source":"x"}', "\0" * 1000, '{"version":NaN}']
    async with aiohttp.ClientSession() as http:
        for text in texts:
            async with http.ws_connect(url, protocols=["3gpp.SWAP.v1"], max_msg_size=0) as socket:
                with contextlib.suppress(ConnectionError):  # the edge has had enough
                    for _ in range(40):
                        await socket.send_str(text)
                    await socket.send_bytes(b"\xff" * 1000)
        for raw in (b"GET /3gpp-swap/v1 HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5_000, b"\0" * 100, b"\xff" * 70_000):
            _, port = target.edge.url.rsplit(":", 1)
            _, writer = await asyncio.open_connection("127.0.0.1", int(port))
            writer.write(raw)
            writer.close()
    for offer in ("v=0\r\n" * 20_000, "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n" * 100, "\u2028" * 1000):
        async with SignalingClient(target.edge.url) as client:
            with pytest.raises(SplitRtcError):
                await client.connect(offer)


ATTACKS: list[Attack] = [
    malformed,
    replayed,
    contradictory,
    garbage_that_decodes,
    infinite,
    flooding,
    talking,
    opening_channels,
    never_acknowledging,
    leaving,
    signalling_nonsense,
]


@pytest.mark.parametrize(
    ("attack", "neighbours"),
    [
        *((attack, FEW) for attack in ATTACKS if attack is not flooding),
        (flooding, MANY),
        *(pytest.param(attack, MANY, marks=pytest.mark.soak) for attack in ATTACKS if attack is not flooding),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_one_hostile_ue_harms_none_of_the_others(
    attack: Attack,
    neighbours: int,
    connect_stub_ue: Connect,
    pictures: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if attack in (flooding, talking):  # so that it exceeds them within a second
        for name, value in {"GENEROSITY": 0.5, "BURST": 0.5, "PATIENCE": 0.5, "CONTROL_RATE": 50.0}.items():
            monkeypatch.setattr(limits, name, value)

    async def behave(url: str, ready: asyncio.Barrier) -> list[Status]:
        """Frame after frame, each sent when the one before was answered: so none has to give way to a newer one."""
        async with connect_stub_ue(url) as ue:
            await ue.announce(ue.parameters())
            await ready.wait()
            statuses = []
            for number in range(FRAMES):
                ue.send(ue.units(pictures[number % len(pictures)]))
                statuses.append((await ue.result()).status)
            return statuses

    async with asyncio.timeout(3 * WAIT), Edge(EdgeSettings("127.0.0.1:0")) as edge, AsyncExitStack() as stack:
        point = points(Zoo(), profile="raw" if attack is infinite else "q4-zstd")[0]
        ue = await stack.enter_async_context(connect_stub_ue(edge.url, point))
        await ue.announce(ue.parameters())
        ready = asyncio.Barrier(neighbours + 1)
        behaving = [asyncio.create_task(behave(edge.url, ready)) for _ in range(neighbours)]
        await ready.wait()
        await attack(ue, Target(edge, pictures[0]))
        for statuses in await asyncio.gather(*behaving):
            assert all(status.has_output for status in statuses)
            # A flood leaves so little of this machine's time that what comes in pieces may be taken for incomplete.
            assert attack is flooding or statuses == [Status.OK] * FRAMES
        # The hostile one's own session ends only where it sent too much, and a new one finds nothing changed.
        assert ue.ended.done() == (attack in (flooding, talking))
        if not ue.ended.done() and attack is not never_acknowledging:
            assert (await ue.announce(ue.parameters(9))) is not None
        assert edge.outcomes["messages_failed_callbacks"] == 0
        async with connect_stub_ue(edge.url) as fresh:
            await fresh.announce(fresh.parameters())
            fresh.send(fresh.units(pictures[0]))
            assert (await fresh.result()).status is Status.OK


async def test_who_connects_again_and_again_has_to_wait(connect_stub_ue: Connect, pictures: list[np.ndarray]) -> None:
    async with (
        Edge(EdgeSettings("127.0.0.1:0", connect_rate=0.5)) as edge,
        connect_stub_ue(edge.url) as ue,
        aiohttp.ClientSession() as http,
    ):
        url = f"{edge.url.replace('ws', 'http', 1)}/3gpp-swap/v1"
        answers = []
        for _ in range(10):
            async with http.get(url) as response:
                answers.append(response.status)
        assert answers == [400] * 4 + [429] * 6
        async with http.get(url) as response:
            assert 1 <= int(response.headers["Retry-After"]) <= 2
            assert (await response.json())["type"] == "urn:splitrtc:problem:too-many-requests"
        with pytest.raises(EdgeFull, match="Too many connections") as refused:
            async with SignalingClient(edge.url):
                pass
        assert refused.value.retry_after is not None
        async with http.get(url.replace("/3gpp-swap/v1", "/readyz")) as response:
            assert response.status == 200  # who looks after the service is not counted
        await ue.announce(ue.parameters())
        ue.send(ue.units(pictures[0]))
        assert (await ue.result()).status is Status.OK
