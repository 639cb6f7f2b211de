"""What a connection needs of aiortc and aioice beyond their public interfaces, in one place.

Everything here acts on one connection; nothing is changed for others in the same process.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from aioice import Candidate, Connection
from aioice.ice import StunProtocol
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCRtpTransceiver,
)
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import parse_stun_turn_uri

from splitrtc_errors import BadArgument, ProtocolError

from .pictures import Totals
from .sctp import SctpTransport
from .units import MAX_UNIT
from .video import PictureTrack

__all__ = [
    "MAX_CANDIDATES",
    "MAX_STREAMS",
    "IceServer",
    "RtpPayload",
    "add_video",
    "admit_streams",
    "check_description",
    "checked_address",
    "connection_tasks",
    "count_candidates",
    "gather_only_on",
    "has_video",
    "new_connection",
    "sctp_of",
    "sent_so_far",
]

MAX_CANDIDATES = 64
"""ICE candidates accepted in a description: checks are sent to each, so they must not become a list of victims."""

MAX_STREAMS = 8
"""RTP streams (SSRC) that a peer may have: the video, what is sent of it again, and some for reports."""

_APPLICATION_DATA = b"\x17"
"""First byte of a DTLS record with what is to be carried (RFC 6347, section 4.1)."""
_DTLS = range(20, 64)
"""First byte of any DTLS record."""
_RTP = range(128, 192)
"""First byte of any RTP or RTCP packet."""
_RTCP = range(192, 224)
"""Second byte of an RTCP packet (RFC 5761, section 4)."""

_CANDIDATE_LINE = re.compile(r"^a=candidate:", re.MULTILINE)
_MEDIA_LINE = re.compile(r"^m=([a-z]*)", re.MULTILINE)
_STREAM_LINE = re.compile(r"^a=ssrc:([0-9]{1,10}) ", re.MULTILINE)
_MAX_MESSAGE_LINE = re.compile(r"^a=max-message-size:([0-9]{1,20})\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server: `stun:host:port`, `turn:host:port?transport=udp` (RFC 7064, RFC 7065)."""

    url: str
    username: str | None = None
    credential: str | None = field(default=None, repr=False)


class _Connection(RTCPeerConnection):
    """A connection with our SCTP transport.

    aiortc makes its own in a private method and has no option for it. Nothing has been done with that one when the
    method returns, so ours takes its place.
    """

    streams: frozenset[int] = frozenset()
    """SSRCs of the peer's RTP packets; others are dropped."""

    def _RTCPeerConnection__createSctpTransport(self) -> None:  # noqa: N802
        super()._RTCPeerConnection__createSctpTransport()  # type: ignore[misc]
        assert self.sctp is not None
        replacement = SctpTransport(self.sctp.transport)
        replacement._bundled = self.sctp._bundled

        def announce(channel: RTCDataChannel) -> None:
            self.emit("datachannel", channel)

        replacement.on("datachannel", announce)
        self._RTCPeerConnection__sctp = replacement
        _spare_reads(self, replacement.transport)
        agent = _agent(self)
        gather = agent.get_component_candidates

        async def gather_and_spare(component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:
            candidates = await gather(component, addresses, timeout)
            for protocol in agent._protocols:
                _spare_parsing(protocol)
            return candidates

        agent.get_component_candidates = gather_and_spare  # type: ignore[method-assign]


def _spare_reads(connection: _Connection, dtls: RTCDtlsTransport) -> None:
    """Spare what need not be done with a datagram.

    After each datagram aiortc asks OpenSSL whether that wants to send something, which costs as much as decoding.

    An application data record (a handshake is over then, and nothing of DTLS 1.3 looks like one) never makes it want
    to. Nothing else can run between the arrival of a datagram and that question, so a flag is enough.

    For each SSRC that comes, libsrtp and aiortc keep something for ever. So only those pass that were announced.
    """
    ice, write, receive = dtls.transport, dtls._write_ssl, dtls.transport._recv
    is_data = False

    async def receive_and_look() -> bytes:
        nonlocal is_data
        while True:
            data = await receive()
            is_data = data[:1] == _APPLICATION_DATA
            if data and (data[0] not in _RTP or _stream_of(data) in connection.streams):
                return data

    async def write_unless_data() -> None:
        nonlocal is_data
        if is_data:
            is_data = False
        else:
            await write()

    ice._recv = receive_and_look
    dtls._write_ssl = write_unless_data  # type: ignore[method-assign]


def _stream_of(packet: bytes) -> int | None:
    """The SSRC of the sender of an RTP or RTCP packet, which is not encrypted; None when there is none."""
    start = 4 if packet[1:2] and packet[1] in _RTCP else 8
    return int.from_bytes(packet[start : start + 4], "big") if len(packet) >= start + 4 else None


def admit_streams(connection: RTCPeerConnection, sdp: str) -> None:
    """Let the RTP streams pass that the peer's description announces (RFC 5576). Raises `ProtocolError` for many."""
    streams = frozenset(map(int, _STREAM_LINE.findall(sdp)))
    if len(streams) > MAX_STREAMS:
        raise ProtocolError(f"the description has {len(streams)} RTP streams, expected at most {MAX_STREAMS}")
    assert isinstance(connection, _Connection)
    connection.streams = streams


def _spare_parsing(protocol: StunProtocol) -> None:
    """Aioice tries to read each datagram as STUN first; the first byte tells what it is (RFC 7983)."""
    parse = protocol.datagram_received

    def deliver_or_parse(data: bytes | str, addr: tuple[Any, ...]) -> None:
        if isinstance(data, bytes) and data and (data[0] in _DTLS or data[0] in _RTP):
            protocol.receiver.data_received(data, protocol.local_candidate.component)
        else:
            parse(data, addr)

    protocol.datagram_received = deliver_or_parse  # type: ignore[method-assign]


def new_connection(ice_servers: Iterable[IceServer]) -> RTCPeerConnection:
    """A connection with these servers and no others. Raises `BadArgument` for a malformed URL."""
    servers = []
    for server in ice_servers:
        try:
            parse_stun_turn_uri(server.url)
        except ValueError as error:
            raise BadArgument(f"ICE server {server.url!r}: expected stun:host:port or turn:host:port") from error
        servers.append(RTCIceServer(server.url, server.username, server.credential))
    # Without a list, even an empty one, aiortc asks a public STUN server.
    return _Connection(RTCConfiguration(iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))


def checked_address(bind: str | None) -> str | None:
    """The address, if it is one that candidates can be gathered on. Raises `BadArgument`."""
    if bind is not None:
        try:
            unspecified = ipaddress.ip_address(bind).is_unspecified
        except ValueError:
            raise BadArgument(f"bind address {bind!r}: expected an IPv4 or IPv6 address") from None
        if unspecified:
            raise BadArgument(f"bind address {bind}: expected a single address; leave it out to use all")
    return bind


def gather_only_on(connection: RTCPeerConnection, address: str) -> None:
    """Make a connection, whose channels exist already, gather candidates on one address.

    aioice takes the addresses of all interfaces except loopback, and has no option for it. Its agent calls a method of
    its own with that list; so replacing the method on the agent, not the class, steers this connection alone.
    """
    agent = _agent(connection)
    gather = agent.get_component_candidates

    async def gather_on_address(component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:
        return await gather(component, [address], timeout)

    agent.get_component_candidates = gather_on_address  # type: ignore[method-assign]


def connection_tasks(connection: RTCPeerConnection) -> set[asyncio.Task[Any]]:
    """The tasks that the libraries run for a connection.

    aiortc and aioice keep no reference to most of the tasks they start, and closing does not wait for them. So they
    are recognised by what they work on.
    """
    owners: list[object] = [connection]
    if (sctp := connection.sctp) is not None:
        agent = _agent(connection)
        owners += [sctp, sctp.transport, sctp.transport.transport, agent, *agent._protocols]
    owners += [*connection.getSenders(), *connection.getReceivers()]
    own = {id(owner) for owner in owners}
    tasks = set()
    for task in asyncio.all_tasks():
        frame = getattr(task.get_coro(), "cr_frame", None)
        if (
            frame is not None
            and frame.f_globals.get("__name__", "").startswith(("aiortc.", "aioice.", "rtc.sctp"))
            and any(id(value) in own for value in frame.f_locals.values())
        ):
            tasks.add(task)
    return tasks


def sctp_of(connection: RTCPeerConnection) -> SctpTransport:
    """The transport of a connection from `new_connection`, whose channels exist already."""
    assert isinstance(connection.sctp, SctpTransport), "the channels come first"
    return connection.sctp


@dataclass(frozen=True, slots=True)
class RtpPayload:
    """A packet of the video stream: `data` is the codec's, without the payload descriptor (RFC 7741)."""

    sequence: int
    timestamp: int
    starts: bool
    ends: bool
    data: bytes


class _Intake:
    """Stands where a receiver has its jitter buffer, and hands every packet on.

    That one delivers a frame only when the next one has begun, waits for a lost packet until 512 others came, and
    feeds a queue without a bound, in front of a decoder that takes pictures of any size. With this in its place no
    frame gets that far; what aiortc does with packets before (statistics, rate, NACK, RTX) and after (PLI) stays.
    """

    def __init__(self, take: Callable[[RtpPayload], bool]) -> None:
        self._take = take

    def add(self, packet: Any) -> tuple[bool, None]:
        """Take an RTP packet of a known payload type; whether the sender is to be asked for a key frame."""
        starts = bool(packet.payload) and packet.payload[0] & 0x17 == 0x10
        return (
            self._take(RtpPayload(packet.sequence_number, packet.timestamp, starts, bool(packet.marker), packet._data)),
            None,
        )


def add_video(
    connection: RTCPeerConnection,
    track: PictureTrack | None,
    direction: Literal["sendonly", "recvonly", "inactive"],
    take: Callable[[RtpPayload], bool],
) -> None:
    """Give a connection, before its channels exist, a video section of VP8, which every WebRTC endpoint has (RFC 7742).

    Args:
        connection: from `new_connection`.
        track: what is sent, if something is.
        direction: what this side is willing to do.
        take: gets each packet of the peer's stream; True to ask it for a key frame.
    """
    transceiver: RTCRtpTransceiver = connection.addTransceiver(track or "video", direction=direction)
    capabilities = RTCRtpReceiver.getCapabilities("video")
    assert capabilities is not None
    wanted = ("video/vp8", "video/rtx")
    transceiver.setCodecPreferences([codec for codec in capabilities.codecs if codec.mimeType.lower() in wanted])
    # The channels share its transport from the start. aiortc would otherwise, on reading the peer's list of what is
    # bundled, stop "their" transport, which is the same.
    transceiver._bundled = True
    transceiver.receiver._RTCRtpReceiver__jitter_buffer = _Intake(take)  # type: ignore[attr-defined]
    if track is not None:
        track.sender = transceiver.sender


def sent_so_far(sender: RTCRtpSender) -> Totals:
    """What a sender has sent, and the timestamp of its last packet.

    aiortc adds a random origin to the timestamps, which it keeps to itself: they are read where its reports take them.
    """
    timestamp = sender._RTCRtpSender__rtp_timestamp  # type: ignore[attr-defined]
    packets = sender._RTCRtpSender__packet_count  # type: ignore[attr-defined]
    return Totals(timestamp, packets, sender._RTCRtpSender__octet_count)  # type: ignore[attr-defined]


def count_candidates(sdp: str) -> int:
    """How many ICE candidates a description has."""
    return len(_CANDIDATE_LINE.findall(sdp))


def has_video(sdp: str) -> bool:
    """Whether a description has a video section, accepted or not."""
    return "video" in _MEDIA_LINE.findall(sdp)


def check_description(sdp: str) -> None:
    """Refuse a peer's description that would make aiortc do more than a session needs.

    Raises:
        ProtocolError: it has other media sections than the data channels' and one of video, too many candidates, or a
            limit below our largest message.
    """
    kinds = sorted(_MEDIA_LINE.findall(sdp))
    if kinds not in (["application"], ["application", "video"]):
        raise ProtocolError(
            f"the description has {len(kinds)} media sections, expected the data channels' and one of video at most"
        )
    if (candidates := count_candidates(sdp)) > MAX_CANDIDATES:
        raise ProtocolError(f"the description has {candidates} candidates, expected at most {MAX_CANDIDATES}")
    limit = _MAX_MESSAGE_LINE.search(sdp)
    if limit is not None and 0 < int(limit[1]) < MAX_UNIT:
        raise ProtocolError(f"the description limits messages to {limit[1]} bytes, expected at least {MAX_UNIT}")


def _agent(connection: RTCPeerConnection) -> Connection:
    assert connection.sctp is not None, "the channels come first"
    return connection.sctp.transport.transport._connection
