"""The SCTP transport between two real peers: what a hostile one does with raw chunks, and what a slow link does."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from random import Random

import pytest
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from google_crc32c import value as crc32c

from rtc.channels import CHANNELS, ChannelIds, channel_maps
from rtc.link_settings import parse_link
from rtc.peer import Peer
from rtc.relay import Relay
from rtc.sctp import MAX_AHEAD, MAX_GAPS, MAX_PEER_CHANNELS, SctpTransport
from rtc.sctp_streams import MAX_FRAGMENTS, MAX_HELD_BYTES, MAX_HELD_CHUNKS, MAX_MESSAGE
from rtc.sender import OutgoingFrame
from rtc.transport import gather_only_on

LOOPBACK = "127.0.0.1"
SECONDS = 20.0
DCEP, TEXT, BINARY = 50, 51, 53
MAX_UNDER_WAY = 64
"""Packets that an attacker has under way: with many more, the system would drop some when it is busy."""
FIRST, LAST, UNORDERED, WHOLE = 2, 1, 4, 3
CONTROL, INTERMEDIATE, RESULT = 0, 2, 4

Pair = tuple[Peer, Peer]


def chunk(kind: int, body: bytes, flags: int = 0) -> bytes:
    size = len(body) + 4
    return struct.pack("!BBH", kind, flags, size) + body + bytes(-size % 4)


def parameter(kind: int, value: bytes, length: int | None = None) -> bytes:
    size = len(value) + 4
    return struct.pack("!HH", kind, size if length is None else length) + value + bytes(-size % 4)


def transport_of(peer: Peer) -> SctpTransport:
    sctp = peer._connection.sctp
    assert isinstance(sctp, SctpTransport)
    return sctp


class Attacker:
    """Sends raw chunks inside the DTLS connection of a UE; what it sends as DATA uses up the UE's own numbers."""

    def __init__(self, ue: Peer, edge: Peer) -> None:
        self._ue, self._edge = ue, edge
        self.sctp = transport_of(ue)
        self.victim = transport_of(edge)
        self.counters = self.victim.counters
        self._texts: asyncio.Queue[str] = asyncio.Queue()
        self._back: asyncio.Queue[bytes] = asyncio.Queue()
        edge.on_control = self._texts.put_nowait
        ue.on_result = self._back.put_nowait
        self._sent = self._handled = 0
        self._handle = self.victim._handle_data
        self.victim._handle_data = self._count  # type: ignore[method-assign]

    async def _count(self, data: bytes) -> None:
        self._handled += 1
        await self._handle(data)

    async def send(self, *chunks: bytes, tag: int | None = None) -> None:
        header = struct.pack("!HHL", 5000, 5000, self.sctp._remote_verification_tag if tag is None else tag)
        data = b"".join(chunks)
        await self.send_packet(header + struct.pack("<L", crc32c(header + bytes(4) + data)) + data)

    async def send_packet(self, packet: bytes) -> None:
        await self.sctp.transport._send_data(packet)
        self._sent += 1
        await asyncio.sleep(0)
        if self._sent % MAX_UNDER_WAY == 0 and self.victim.state == "connected":
            await until(lambda: self._handled >= self._sent - MAX_UNDER_WAY // 2)

    def tsn(self, ahead: int = 0) -> int:
        """A number not used yet: the next one, which then counts as used, or one further ahead."""
        tsn = self.sctp._local_tsn
        if not ahead:
            self.sctp._local_tsn = (tsn + 1) % 2**32
        return (tsn + ahead) % 2**32

    async def data(
        self, stream: int, protocol: int, data: bytes, flags: int = WHOLE | UNORDERED, *, seq: int = 0, ahead: int = 0
    ) -> None:
        await self.send(chunk(0, struct.pack("!LHHL", self.tsn(ahead), stream, seq, protocol) + data, flags))

    async def survived(self) -> None:
        """Messages still pass, both ways, and nothing was raised on the way."""
        await until(lambda: self._edge.send_result(b"\x80alive"))
        self._ue.send_control("alive")
        async with asyncio.timeout(SECONDS):
            while await self._texts.get() != "alive":
                pass
            while await self._back.get() != b"\x80alive":
                pass
        assert self.counters.failures == self.sctp.counters.failures == 0


@pytest.fixture
async def attacker(pair: Pair) -> Attacker:
    return Attacker(*pair)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


# Hostile: channels


def opening(label: bytes = b"x", protocol: bytes = b"") -> bytes:
    return struct.pack("!BBHLHH", 3, 0, 0, 0, len(label), len(protocol)) + label + protocol


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (CONTROL, opening()),
        (6, opening(b"\xff\xfe")),
        (6, opening()[:8]),
        (6, opening() + b"rest"),
        (CONTROL, b"\x02"),
        (6, b"\x02"),
        (6, b"\x00"),
    ],
    ids=["open on negotiated", "name not UTF-8", "short", "long", "ack on negotiated", "ack on unknown", "unknown"],
)
async def test_senseless_requests_about_channels(attacker: Attacker, stream: int, message: bytes) -> None:
    for _ in range(3):
        await attacker.data(stream, DCEP, message)
    await attacker.survived()
    assert attacker.counters.bad_open == 3
    assert set(attacker.victim._inbound_streams) <= {CONTROL, INTERMEDIATE, RESULT}
    assert len(attacker.victim._data_channels) == 3


async def test_channels_that_the_peer_opens_are_few(attacker: Attacker) -> None:
    # Its transport is not told, so it never answers that they are closed.
    for number in range(400):
        await attacker.data(6 + 2 * number, DCEP, opening())
    await attacker.survived()
    assert len(attacker.victim._data_channels) == 3 + MAX_PEER_CHANNELS
    assert len(attacker.victim._inbound_streams) <= 3 + MAX_PEER_CHANNELS
    assert attacker.counters.channels_refused + attacker.counters.unknown_stream == 400 - MAX_PEER_CHANNELS


async def test_a_peer_that_never_answers_to_a_closing_loses_that_channel_alone(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = attacker.victim

    async def ignore(parameter: object) -> None:
        pass

    monkeypatch.setattr(attacker.sctp, "_receive_reconfig_param", ignore)
    await attacker.data(6, DCEP, opening())
    await until(lambda: victim._reconfig_request is not None)
    victim._reconfig_failures = 9
    for _ in range(2):
        victim._reconfig_timer_cancel()
        victim._reconfig_timer_expired()
    assert 6 not in victim._data_channels
    assert victim._reconfig_request is None
    await attacker.survived()


# Hostile: messages


async def test_text_that_is_not_utf8(attacker: Attacker) -> None:
    await attacker.data(CONTROL, TEXT, b"\xff\xff")
    await attacker.data(INTERMEDIATE, TEXT, b"\xc3")
    await attacker.survived()
    assert attacker.counters.invalid_text == 2


async def test_unknown_streams_and_protocols(attacker: Attacker) -> None:
    for stream in range(1_000, 4_000):
        await attacker.data(stream, BINARY, b"x", UNORDERED | (FIRST if stream % 2 else WHOLE))
    await attacker.data(INTERMEDIATE, 99, b"x")
    await attacker.survived()
    assert attacker.counters.unknown_stream == 3_000
    assert attacker.counters.unknown_protocol == 1
    assert set(attacker.victim._inbound_streams) <= {CONTROL, INTERMEDIATE, RESULT}


async def test_a_stream_of_a_request_that_is_not_finished(attacker: Attacker) -> None:
    for stream in range(6, 200):
        await attacker.data(stream, DCEP, opening()[:5], FIRST)
    await attacker.survived()
    assert len(attacker.victim._inbound_streams) <= 3 + MAX_PEER_CHANNELS


@pytest.mark.parametrize("size", [1, 1_100])
async def test_fragments_without_end_fill_a_bounded_memory_and_silence_nobody(attacker: Attacker, size: int) -> None:
    counters, victim = attacker.counters, attacker.victim
    units: list[bytes] = []
    attacker._edge.on_intermediate = units.append
    start = attacker.sctp._local_tsn
    async with asyncio.timeout(SECONDS):
        while not counters.no_room:  # again, because the system drops some when it is busy
            for number in range(20, MAX_AHEAD - 4, 2):
                ahead = (start + number - attacker.sctp._local_tsn) % 2**32
                await attacker.data(INTERMEDIATE, BINARY, bytes(size), UNORDERED | FIRST, ahead=ahead)
    assert victim._budget.chunks <= MAX_HELD_CHUNKS
    assert victim._budget.bytes <= MAX_HELD_BYTES
    assert 0 <= victim._advertised_rwnd == MAX_HELD_BYTES - victim._budget.bytes
    # Whole messages pass all the same.
    await attacker.data(INTERMEDIATE, BINARY, b"whole")
    await until(lambda: b"whole" in units)


async def test_too_long_a_message(attacker: Attacker) -> None:
    for part in range(MAX_MESSAGE // 1_000 + 3):
        await attacker.data(INTERMEDIATE, BINARY, bytes(1_000), UNORDERED | (0 if part else FIRST))
    await attacker.survived()
    assert attacker.counters.oversized == 1


async def test_a_message_of_very_many_pieces(attacker: Attacker) -> None:
    for part in range(MAX_FRAGMENTS + 1):
        await attacker.data(INTERMEDIATE, BINARY, b"x", UNORDERED | (0 if part else FIRST))
    await attacker.survived()
    assert attacker.counters.oversized == 1


async def test_two_messages_for_one_turn_and_one_long_before_its_turn(attacker: Attacker) -> None:
    for seq in (9, 9, 40_000, 3):
        await attacker.data(RESULT, BINARY, b"early", WHOLE, seq=seq)
    await attacker.survived()
    assert attacker.victim._budget.chunks <= 3


# Hostile: chunks


async def test_numbers_far_ahead_are_not_taken(attacker: Attacker) -> None:
    for ahead in (MAX_AHEAD + 1, 2**30, 2**31 - 1):
        await attacker.data(INTERMEDIATE, BINARY, b"x", ahead=ahead)
    await attacker.survived()
    assert attacker.counters.far_ahead == 3
    assert not attacker.victim._sack_misordered


async def test_many_gaps_and_duplicates_fit_in_one_acknowledgement(attacker: Attacker) -> None:
    for gap in range(3 * MAX_GAPS):
        await attacker.data(INTERMEDIATE, BINARY, b"x", ahead=1 + 2 * gap)
    for _ in range(200):
        await attacker.data(INTERMEDIATE, BINARY, b"x", ahead=1)
    # The numbers in between come at last; then all is as before.
    for _ in range(6 * MAX_GAPS + 2):
        await attacker.data(INTERMEDIATE, BINARY, b"x")
    await attacker.survived()
    assert not attacker.victim._sack_misordered


async def test_acknowledgements_of_what_was_never_sent(attacker: Attacker) -> None:
    received = attacker.sctp._last_received_tsn
    assert received is not None
    for cumulative, gaps in (
        ((received + 1_000) % 2**32, []),
        (received, [(1, 60_000)]),
        (received, [(5, 2)]),
        (received, [(1, 65_535)] * 250),
    ):
        body = struct.pack("!LLHH", cumulative, 1 << 20, len(gaps), 0)
        await attacker.send(chunk(3, body + b"".join(struct.pack("!HH", *gap) for gap in gaps)))
    await attacker.survived()
    assert attacker.counters.bad_acknowledgements == 4


async def test_a_start_in_the_midst_changes_nothing(attacker: Attacker) -> None:
    received = attacker.victim._last_received_tsn
    await attacker.send(chunk(1, struct.pack("!LLHHL", 1, 1, 1, 1, 12_345)), tag=0)
    await attacker.send(chunk(2, struct.pack("!LLHHL", 1, 1, 1, 1, 12_345) + parameter(7, b"cookie")))
    await attacker.send(chunk(10, bytes(24)))
    await attacker.send(chunk(11, b""))
    await attacker.survived()
    assert attacker.counters.foreign == 1
    assert received is not None


async def test_packets_of_others_and_malformed_ones(attacker: Attacker) -> None:
    await attacker.send(chunk(4, b""), tag=1)
    await attacker.send(chunk(4, parameter(1, b"", length=0)))
    await attacker.send(chunk(0, b""))
    await attacker.send(b"\x00\x00\x00\x01")
    await attacker.send_packet(b"short")
    await attacker.send_packet(bytes(16) + b"bad checksum")
    await attacker.survived()
    assert (attacker.counters.foreign, attacker.counters.malformed) == (1, 5)


async def test_resets_of_streams_that_do_not_exist(attacker: Attacker) -> None:
    last = (attacker.sctp._local_tsn - 1) % 2**32
    for number in range(5):
        request = struct.pack("!LLLHHH", 100 + number, 0, last, 9, 9, 60_000)
        await attacker.send(chunk(130, parameter(13, request) + parameter(17, struct.pack("!LHH", 200, 65_535, 0))))
        await attacker.send(chunk(130, parameter(16, struct.pack("!LL", 1, 6))))
    await attacker.survived()


async def test_forwarding_of_streams_that_do_not_exist(attacker: Attacker) -> None:
    streams = b"".join(struct.pack("!HH", 500 + number, 9) for number in range(200))
    await attacker.send(chunk(192, struct.pack("!L", attacker.tsn()) + streams))
    await attacker.survived()
    assert set(attacker.victim._inbound_streams) <= {CONTROL, INTERMEDIATE, RESULT}


async def test_a_failure_of_ours_costs_one_chunk(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(chunk: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(attacker.victim, "_stream_for", fail)
    await attacker.data(INTERMEDIATE, BINARY, b"x")
    await until(lambda: attacker.counters.failures == 1)
    monkeypatch.undo()
    assert attacker.victim.state == "connected"
    assert "SCTP chunk" in caplog.text


async def test_nothing_is_taken_after_the_end(attacker: Attacker) -> None:
    await attacker.send(chunk(6, b""))
    await until(lambda: attacker.victim.state == "closed")
    before = attacker.counters.foreign
    await attacker.data(INTERMEDIATE, BINARY, b"x")
    await until(lambda: attacker.counters.foreign == before + 1)


# Hostile: anything


def templates(attacker: Attacker, random: Random) -> Iterator[bytes]:
    """Chunks that are right, or nearly."""
    own, other = attacker.sctp._local_tsn, attacker.sctp._last_received_tsn or 0
    tsn = (own + random.randrange(-3, 40)) % 2**32
    data = struct.pack(
        "!LHHL", tsn, random.choice([0, 2, 4, 6, 7]), random.randrange(4), random.choice([50, 51, 53, 56, 57, 9])
    )
    yield chunk(0, data + random.choice([opening(), b"\x02", b"text", b"\xff", bytes(900)]), random.randrange(16))
    gaps = [(random.randrange(9), random.randrange(9)) for _ in range(random.randrange(4))]
    sack = struct.pack("!LLHH", (other + random.randrange(-2, 9)) % 2**32, random.getrandbits(32), len(gaps), 0)
    yield chunk(3, sack + b"".join(struct.pack("!HH", *gap) for gap in gaps))
    yield chunk(192, struct.pack("!LHH", tsn, random.choice([0, 2, 4, 9]), random.randrange(9)))
    yield chunk(4, parameter(1, bytes(random.randrange(60))))
    yield chunk(1, struct.pack("!LLHHL", random.getrandbits(32), 1, 1, 1, 1) + parameter(0x8008, b"\xc0\x82"))
    yield chunk(2, struct.pack("!LLHHL", random.getrandbits(32), 1, 1, 1, 1) + parameter(7, b"cookie"))
    reset = struct.pack("!LLLH", random.getrandbits(32), 0, tsn, random.choice([6, 7, 8, 60_000]))
    yield chunk(130, parameter(13, reset))
    yield chunk(130, parameter(16, struct.pack("!LL", random.getrandbits(32), random.randrange(8))))
    yield chunk(130, parameter(17, bytes(8)))
    yield chunk(9, parameter(3, bytes(8)))
    yield chunk(10, bytes(24))


async def fuzz(attacker: Attacker, packets: int, seed: int) -> None:
    random = Random(seed)
    victim = attacker.victim
    for number in range(packets):
        chunks = random.choices(list(templates(attacker, random)), k=random.choice([1, 1, 1, 2, 5]))
        data = bytearray(b"".join(chunks))
        for _ in range(random.choice([0, 1, 1, 2, 8])):
            data[random.randrange(len(data))] = random.choice([0, 1, 255, random.randrange(256)])
        # To abort or to shut down is a peer's right, and would end the test.
        if not any(kind in (6, 7, 14) for kind in kinds(bytes(data))):
            await attacker.send(bytes(data), tag=0 if random.random() < 0.02 else None)
        if number % 50 == 0:
            attacker._edge.send_result(bytes([128]) * 500)
            await asyncio.sleep(0.001)
        assert victim._budget.chunks <= MAX_HELD_CHUNKS
        assert 0 <= victim._budget.bytes <= MAX_HELD_BYTES
        assert len(victim._sack_misordered) <= MAX_AHEAD
        assert len(victim._inbound_streams) <= 3 + MAX_PEER_CHANNELS
        assert len(victim._data_channels) <= 3 + MAX_PEER_CHANNELS
    await asyncio.sleep(0.01)
    assert victim.counters.failures == 0
    assert victim.transport.state == "connected"
    assert victim.state == "connected"
    assert victim.counters.malformed > packets // 50


def kinds(data: bytes) -> Iterator[int]:
    position = 0
    while position + 4 <= len(data):
        kind, _, length = struct.unpack_from("!BBH", data, position)
        yield kind
        position += max(4, length + -length % 4)


@pytest.mark.parametrize("seed", range(3))
async def test_any_chunks_are_survived(attacker: Attacker, seed: int) -> None:
    await fuzz(attacker, 1_500, seed)


@pytest.mark.fuzz
async def test_very_many_chunks_are_survived(attacker: Attacker) -> None:
    await fuzz(attacker, 200_000, int(time.time()))


# A peer that is plain aiortc


@asynccontextmanager
async def plain_connection() -> AsyncIterator[tuple[RTCPeerConnection, list[RTCDataChannel]]]:
    plain = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    channels = [
        plain.createDataChannel(
            spec.label, ordered=spec.ordered, maxRetransmits=spec.max_retransmits, protocol=spec.subprotocol,
            negotiated=True, id=channel_map.stream_id,
        )
        for spec, channel_map in zip(CHANNELS, channel_maps(ChannelIds()), strict=True)
    ]  # fmt: skip
    gather_only_on(plain, LOOPBACK)
    try:
        yield plain, channels
    finally:
        await plain.close()


async def exchange(peer: Peer, channels: list[RTCDataChannel]) -> None:
    """Text of several chunks and many units, both ways."""
    control, intermediate, result = channels
    texts: asyncio.Queue[str] = asyncio.Queue()
    units: asyncio.Queue[bytes] = asyncio.Queue()
    results: asyncio.Queue[bytes] = asyncio.Queue()
    control.on("message", control.send)
    intermediate.on("message", units.put_nowait)
    peer.on_control = texts.put_nowait
    peer.on_result = results.put_nowait
    peer.send_control("x" * 50_000)
    assert await asyncio.wait_for(texts.get(), SECONDS) == "x" * 50_000
    frame = [b"\x01" + bytes([number]) * 1_100 for number in range(100)]
    peer.sender.offer(OutgoingFrame(1, frame, time.monotonic() + SECONDS))
    assert [await asyncio.wait_for(units.get(), SECONDS) for _ in frame] == frame
    for number in range(100):
        result.send(b"\x80" + bytes([number]))
    assert [await asyncio.wait_for(results.get(), SECONDS) for _ in range(100)] == [
        b"\x80" + bytes([number]) for number in range(100)
    ]


async def test_a_plain_peer_answers() -> None:
    async with Peer(bind=LOOPBACK, timeout=SECONDS) as ue, plain_connection() as (plain, channels):
        await plain.setRemoteDescription(RTCSessionDescription(await ue.create_offer(), "offer"))
        await plain.setLocalDescription(await plain.createAnswer())
        await ue.accept_answer(plain.localDescription.sdp)
        await ue.opened(SECONDS)
        await exchange(ue, channels)


async def test_a_plain_peer_offers() -> None:
    from rtc.sdp import add_channel_attributes

    async with Peer(bind=LOOPBACK, timeout=SECONDS) as edge, plain_connection() as (plain, channels):
        await plain.setLocalDescription(await plain.createOffer())
        offer = add_channel_attributes(plain.localDescription.sdp, channel_maps(ChannelIds()), [])
        await plain.setRemoteDescription(RTCSessionDescription(await edge.create_answer(offer), "answer"))
        await edge.opened(SECONDS)
        await exchange(edge, channels)


# Acknowledgements, lost tails, congestion


async def connect(relay: Relay, ue: Peer, edge: Peer) -> None:
    offer = relay.rewrite(await ue.create_offer(), "ue")
    await ue.accept_answer(relay.rewrite(await edge.create_answer(offer), "edge"))
    await asyncio.gather(ue.opened(SECONDS), edge.opened(SECONDS))


def frame(number: int, units: int = 8, seconds: float = 0.1) -> OutgoingFrame:
    unit = b"\x01" + number.to_bytes(4, "big") + bytes(1_095)
    return OutgoingFrame(number, [unit] * units, time.monotonic() + seconds)


async def test_a_burst_is_acknowledged_with_few_packets(pair: Pair) -> None:
    ue, edge = pair
    units: list[bytes] = []
    edge.on_intermediate = units.append
    for number in range(10):
        ue.sender.offer(frame(number, 8))
        await until(lambda want=8 * (number + 1): len(units) == want)  # type: ignore[misc]
    before = transport_of(edge).counters.acknowledgements
    for number in range(10, 30):
        ue.sender.offer(frame(number, 8))
        await until(lambda want=8 * (number + 1): len(units) == want)  # type: ignore[misc]
    await until(lambda: transport_of(ue)._flight_size == 0)
    assert 20 <= transport_of(edge).counters.acknowledgements - before <= 80


async def test_a_lone_packet_is_acknowledged_by_the_timer(attacker: Attacker) -> None:
    for _ in range(70):
        await attacker.data(INTERMEDIATE, BINARY, b"x")
    await until(lambda: attacker.victim._ack_timer is None and not attacker.victim._sack_needed)
    before = attacker.counters.acknowledgements
    await attacker.data(INTERMEDIATE, BINARY, b"x")
    await until(lambda: attacker.counters.acknowledgements == before + 1)


async def test_a_lost_tail_frees_the_window_at_once() -> None:
    async with (
        Relay(parse_link("rtt=40")) as relay,
        Peer(bind=LOOPBACK, timeout=SECONDS) as ue,
        Peer(bind=LOOPBACK, timeout=SECONDS) as edge,
    ):
        await connect(relay, ue, edge)
        units: list[bytes] = []
        edge.on_intermediate = units.append
        sctp = transport_of(ue)
        for number in range(20):
            ue.sender.offer(frame(number))
            await until(lambda want=8 * (number + 1): len(units) == want)  # type: ignore[misc]
        await until(lambda: sctp._flight_size == 0)
        relay.change(parse_link("loss=100%"), down=parse_link("rtt=40"))
        ue.sender.offer(frame(20))
        begin = time.monotonic()
        await until(lambda: sctp._flight_size > 0)
        await until(lambda: sctp._flight_size == 0)
        assert time.monotonic() - begin < 0.25
        assert sctp.counters.abandoned == 8
        # Reliable messages come through after the outage, and so does the next frame.
        texts: asyncio.Queue[str] = asyncio.Queue()
        edge.on_control = texts.put_nowait
        ue.send_control("reliable")
        await until(lambda: sctp._t3_handle is not None)
        relay.change(parse_link("rtt=40"))
        assert await asyncio.wait_for(texts.get(), SECONDS) == "reliable"
        ue.sender.offer(frame(21, seconds=SECONDS))
        await until(lambda: len(units) == 8 * 21)
