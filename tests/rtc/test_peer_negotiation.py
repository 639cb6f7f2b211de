"""Peers: offers, answers, and what is no good as either."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from rtc.channels import ChannelIds, channel_ids
from rtc.peer import IceServer, Peer
from rtc.sdp import read_channel_attributes
from rtc.transport import gather_only_on
from splitrtc_errors import BadArgument, NegotiationTimeout, ProtocolError, Unreachable

LOOPBACK = "127.0.0.1"
SECONDS = 20.0

Pair = tuple[Peer, Peer]
Connect = Callable[[Peer, Peer], Awaitable[None]]

pytestmark = pytest.mark.usefixtures("nothing_is_left")


async def test_offer_and_answer_describe_the_channels_and_carry_the_attributes() -> None:
    async with Peer(bind=LOOPBACK) as ue, Peer(bind=LOOPBACK) as edge:
        offer = await ue.create_offer([("ai-split", "1 model=a"), ("ai-split", "2 model=b")])
        answer = await edge.create_answer(offer, [("ai-split", "1 model=b")])
        for text, values in ((offer, ["1 model=a", "2 model=b"]), (answer, ["1 model=b"])):
            maps, attributes = read_channel_attributes(text)
            assert channel_ids(maps) == ChannelIds(0, 2, 4)
            assert [(each.stream_id, each.name, each.value) for each in attributes] == [
                (2, "ai-split", value) for value in values
            ]


async def test_offer_names_only_the_bound_address() -> None:
    async with Peer(bind=LOOPBACK) as ue:
        offer = await ue.create_offer()
        candidates = re.findall(r"a=candidate:\S+ \S+ \S+ \S+ (\S+)", offer)
        assert candidates == [LOOPBACK]
        assert "a=end-of-candidates" in offer


async def test_channels_take_the_ids_of_the_offer() -> None:
    async with Peer(bind=LOOPBACK) as ue, Peer(bind=LOOPBACK) as edge:
        offer = await ue.create_offer()
        for old, new in ((0, 10), (2, 7), (4, 1_023)):
            offer = offer.replace(f"a=dcmap:{old} ", f"a=dcmap:{new} ")
        answer = await edge.create_answer(offer)
        assert channel_ids(read_channel_attributes(answer)[0]) == ChannelIds(10, 7, 1_023)
        with pytest.raises(ProtocolError, match="other stream ids"):
            await ue.accept_answer(answer)


async def test_plain_peer_can_answer_the_offer() -> None:
    plain = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connected = asyncio.Event()

    def changed() -> None:
        if plain.connectionState == "connected":
            connected.set()

    plain.on("connectionstatechange", changed)
    async with Peer(bind=LOOPBACK) as ue:
        await plain.setRemoteDescription(RTCSessionDescription(await ue.create_offer([("ai-split", "1 x=1")]), "offer"))
        gather_only_on(plain, LOOPBACK)
        await plain.setLocalDescription(await plain.createAnswer())
        await ue.accept_answer(plain.localDescription.sdp)
        await asyncio.wait_for(connected.wait(), SECONDS)
        await ue.opened(SECONDS)
        await plain.close()
        await asyncio.wait_for(ue.closed.wait(), SECONDS)


async def test_ipv6_loopback(connect: Connect) -> None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on this machine")
    async with Peer(bind="::1") as ue, Peer(bind="::1") as edge:
        got: asyncio.Queue[str] = asyncio.Queue()
        edge.on_control = got.put_nowait
        await connect(ue, edge)
        ue.send_control("hello")
        assert await asyncio.wait_for(got.get(), SECONDS) == "hello"


async def test_address_of_another_machine_cannot_be_bound() -> None:
    async with Peer(bind="192.0.2.1") as ue:
        with pytest.raises(BadArgument, match=r"192\.0\.2\.1.*not an address of this machine"):
            await ue.create_offer()


async def test_machine_without_any_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: [])
    async with Peer() as ue:
        with pytest.raises(Unreachable, match="no network address"):
            await ue.create_offer()


async def test_bad_arguments_are_refused_before_anything_is_opened() -> None:
    with pytest.raises(BadArgument, match="bind"):
        Peer(bind="localhost")
    with pytest.raises(BadArgument, match="ICE server"):
        Peer([IceServer("stun.example.org")])
    async with Peer(bind=LOOPBACK) as ue:
        with pytest.raises(BadArgument, match="attribute name"):
            await ue.create_offer([("not a token", "x")])


async def test_peer_negotiates_once() -> None:
    async with Peer(bind=LOOPBACK) as ue:
        with pytest.raises(RuntimeError, match="do not exist"):
            _ = ue.sender
        await ue.create_offer()
        with pytest.raises(RuntimeError, match="once"):
            await ue.create_offer()


def without(pattern: str) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, "", text)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "hello",
        without(r"a=ice-ufrag:.*\r\n"),
        without(r"a=setup:.*\r\n"),
        lambda text: re.sub(r"a=candidate:.*", "a=candidate:1 1", text),
        lambda text: text + "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n",
        lambda text: re.sub(r"(a=candidate:.*\r\n)", r"\1" * 65, text),
        lambda text: re.sub(r"a=max-message-size:.*", "a=max-message-size:1000", text),
        lambda text: text.replace("splitrtc.result.v1", "something.else"),
    ],
)
async def test_spoilt_descriptions_are_protocol_errors(spoil: Callable[[str], str]) -> None:
    async with Peer(bind=LOOPBACK) as ue, Peer(bind=LOOPBACK) as edge, Peer(bind=LOOPBACK) as other:
        offer = await ue.create_offer()
        answer = await edge.create_answer(offer)
        assert spoil(answer) != answer
        with pytest.raises(ProtocolError):
            await ue.accept_answer(spoil(answer))
        with pytest.raises(ProtocolError):
            await other.create_answer(spoil(offer))


async def test_offer_without_the_channels_is_refused() -> None:
    async with Peer(bind=LOOPBACK) as ue, Peer(bind=LOOPBACK) as edge:
        offer = without(r"a=dcmap:.*\r\n")(await ue.create_offer())
        with pytest.raises(ProtocolError, match="no channel"):
            await edge.create_answer(offer)


async def test_nobody_answers() -> None:
    async with Peer(bind=LOOPBACK) as ue:
        await ue.create_offer()
        with pytest.raises(NegotiationTimeout, match="UDP"):
            await ue.opened(0.01)


async def test_no_path_to_the_peer() -> None:
    async with Peer(bind=LOOPBACK) as ue, Peer(bind=LOOPBACK) as edge:
        reasons: asyncio.Queue[str] = asyncio.Queue()
        ue.on_closed = reasons.put_nowait
        answer = await edge.create_answer(await ue.create_offer())
        await ue.accept_answer(without(r"a=candidate:.*\r\n")(answer))
        with pytest.raises(Unreachable, match="ICE"):
            await ue.opened(SECONDS)
        assert "ICE" in str(await asyncio.wait_for(reasons.get(), SECONDS))


async def test_somebody_else_answers_in_the_peers_place() -> None:
    async with Peer(bind=LOOPBACK) as ue, Peer(bind=LOOPBACK) as edge:
        answer = await edge.create_answer(await ue.create_offer())
        forged = re.sub(r"a=fingerprint:(\S+) .*", "a=fingerprint:sha-256 " + ":".join(["00"] * 32), answer)
        await ue.accept_answer(forged)
        with pytest.raises(Unreachable, match="DTLS"):
            await ue.opened(SECONDS)
