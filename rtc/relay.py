"""A UDP relay in user space that puts an emulated link between two peers which connect by ICE.

The relay stands beside the UE. It replaces the addresses in both descriptions by its own, so that each peer knows only
the relay::

    async with Relay(parse_link("rtt=40,loss=1%,rate=5M")) as relay:
        offer = relay.rewrite(await ue.create_offer(), "ue")
        answer = relay.rewrite(await edge.create_answer(offer), "edge")
        await ue.accept_answer(answer)

Both must be replaced: a peer that knows an address of the other goes around the relay, unnoticed but by the counters.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import struct
from collections import deque
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Final, Self, cast

from splitrtc_errors import BadArgument, ProtocolError

from .link import Link, LinkCounters
from .link_settings import LinkSettings
from .relay_streams import Side, Streams

__all__ = ["MAX_WAITING", "Relay", "RelayCounters", "Side"]

MAX_WAITING = 16
"""Datagrams that wait for a peer to show its address. The other's first checks are among them, and to lose one would
delay the connection until it is sent again."""

EARLY = 0.0005
"""Seconds by which the relay is early with what it delivers by a timer.

The event loop waits in whole milliseconds, rounded up. Half of one less makes deliveries right on average, each to
within half a millisecond, where they would all be late.
"""

Address = tuple[Any, ...]
"""Host and port, and what else the system gives for IPv6."""


@dataclass(slots=True)
class RelayCounters:
    """What the relay carried from the UE to the edge (`up`) and back (`down`), and what it did not carry."""

    up: LinkCounters = field(default_factory=LinkCounters)
    down: LinkCounters = field(default_factory=LinkCounters)
    foreign: int = 0
    """Datagrams from elsewhere than the peer."""
    undeliverable: int = 0
    """Datagrams that arrived at the link's end long before the peer there had shown its address."""
    unsent: int = 0
    """Datagrams that a socket did not take, or that would have been too many waiting for it."""


class Relay:
    """A link between a UE and an edge, for one connection at a time: an asynchronous context manager.

    The link's time starts when the context is entered. A peer's address is that from which the first connectivity
    check (RFC 8445) comes that was made with the password in the other's description; nobody else is listened to.
    """

    def __init__(self, settings: LinkSettings, bind: str = "127.0.0.1", *, down: LinkSettings | None = None) -> None:
        """Prepare a relay; nothing is opened yet.

        Args:
            settings: what the link does to packets, each way.
            bind: the address of this machine on which both peers can reach the relay.
            down: settings for the way from the edge to the UE, if they differ. The seed is that of `settings`.

        Raises:
            BadArgument: the address cannot be used.
        """
        try:
            unspecified = ipaddress.ip_address(bind).is_unspecified
        except ValueError:
            raise BadArgument(f"relay address {bind!r}: expected an IPv4 or IPv6 address") from None
        if unspecified:
            raise BadArgument(f"relay address {bind}: expected a single address")
        self._bind = bind
        self._settings = {"ue": settings, "edge": down or settings}
        self._seed = settings.seed
        self._ports: dict[Side, _Port] = {}
        self._streams: Streams
        self._start = 0.0
        self.counters = RelayCounters()

    async def __aenter__(self) -> Self:
        self._start = start = asyncio.get_running_loop().time()
        try:
            ue, edge = await self._open("ue", start), await self._open("edge", start)
        except BaseException:
            await self._close()
            raise
        ue.other, edge.other = edge, ue
        ue.streams = edge.streams = self._streams = Streams(ue.carry, edge.carry)
        self.counters.up, self.counters.down = ue.link.counters, edge.link.counters
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def to_json(self) -> dict[str, Any]:
        """When the link started (seconds of the loop's clock), and the counters, as plain values."""
        return {"started": round(self._start, 6), **asdict(self.counters)}

    def address(self, side: Side) -> Address:
        """The relay's address and port to which this side sends."""
        return self._ports[side].address

    def change(self, settings: LinkSettings, *, down: LinkSettings | None = None) -> None:
        """Let the link do something else to the packets that come from now on. Seed and start stay."""
        self._ports["ue"].link.change(settings)
        self._ports["edge"].link.change(down or settings)

    def rewrite(self, sdp: str, side: Side) -> str:
        """The description that `side` made, with the relay in place of all of its candidates.

        The UE's description, the offer, begins a new connection: the relay forgets the one before.

        Raises:
            ProtocolError: the description lacks what ICE needs.
        """
        credentials = _credentials(sdp)
        ue, edge = self._ports["ue"], self._ports["edge"]
        if side == "ue":
            for port in (ue, edge):
                port.forget()
            edge.credentials = credentials
            return _with_candidate(sdp, edge.address)
        ue.credentials = credentials
        return _with_candidate(sdp, ue.address)

    async def forward(self, host: str, port: int) -> tuple[str, int]:
        """Take TCP connections for this address of the edge, on the same link; returns where the UE makes them.

        Raises BadArgument when the relay's address cannot be listened on.
        """
        return await self._streams.forward(self._bind, host, port)

    async def _open(self, side: Side, start: float) -> _Port:
        link = Link(self._settings[side], f"{self._seed}/{side}", start)
        loop = asyncio.get_running_loop()
        try:
            _, port = await loop.create_datagram_endpoint(
                lambda: _Port(side, link, self.counters), local_addr=(self._bind, 0)
            )
        except OSError as error:
            raise BadArgument(f"cannot bind the relay to {self._bind}: {error.strerror}") from error
        self._ports[side] = port
        return port

    async def _close(self) -> None:
        if len(self._ports) == 2:
            await self._streams.close()
        for port in self._ports.values():
            port.close()
        for port in self._ports.values():
            await port.closed.wait()


class _Port(asyncio.DatagramProtocol):
    """The relay's socket for one peer, and the link on which goes what that peer sends."""

    transport: asyncio.DatagramTransport
    address: Address
    other: _Port
    streams: Streams

    def __init__(self, side: Side, link: Link, counters: RelayCounters) -> None:
        self.side = side
        self.link = link
        self.credentials: tuple[str, bytes] | None = None
        """User name fragment and password of the other peer: a check from this one proves that it knows them."""
        self.peer: Address | None = None
        self.closed = asyncio.Event()
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = 0.0
        self._writable = True
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)

    def forget(self) -> None:
        self.peer = self.credentials = None
        self._waiting.clear()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not a subclass of it in all versions, but with its methods.
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.address = transport.get_extra_info("sockname")[:2]

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    # asyncio keeps whatever a socket does not take yet, without a bound, and only tells when it is much.

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True

    def error_received(self, exc: Exception) -> None:
        self._counters.unsent += 1

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if addr != self.peer:
            if self.peer is not None or self.credentials is None or not is_check(data, *self.credentials):
                self._counters.foreign += 1
                return
            self.peer = addr
            while self._waiting:
                self.send(self._waiting.popleft())
        now = self._loop.time()
        self.link.push(data, now)
        self._deliver(now)

    def carry(self, packet: bytes) -> None:
        """Put a packet of the relay's own on this side's link. It is never handed over from within this call."""
        self.link.push(packet, self._loop.time())
        self._schedule()

    def _wake(self) -> None:
        self._timer = None
        self._deliver(self._loop.time() + EARLY)

    def _deliver(self, now: float) -> None:
        """Hand over what has arrived, and come back for what comes next."""
        for packet in self.link.pop(now):
            if not self.streams.take(packet, self.other.side):
                self.other.send(packet)
        self._schedule()

    def _schedule(self) -> None:
        """Come back when the next packet has arrived."""
        due = self.link.next_event()
        if self._timer is not None:
            if due is not None and self._wakes_at <= due - EARLY:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._wakes_at = due - EARLY
            self._timer = self._loop.call_at(self._wakes_at, self._wake)

    def send(self, packet: bytes) -> None:
        if self.peer is None:
            self._counters.undeliverable += len(self._waiting) == MAX_WAITING
            self._waiting.append(packet)
        elif not self._writable:
            self._counters.unsent += 1
        else:
            self.transport.sendto(packet, self.peer)


# Descriptions (RFC 8839)

_UFRAG = re.compile(r"^a=ice-ufrag:([A-Za-z0-9+/]{4,256})\r?$", re.MULTILINE)
_PASSWORD = re.compile(r"^a=ice-pwd:([A-Za-z0-9+/]{22,256})\r?$", re.MULTILINE)
_MEDIA = re.compile(r"(m=[a-z]+ )[1-9][0-9]*(?= )")


def _credentials(sdp: str) -> tuple[str, bytes]:
    """The user name fragment and the password that checks sent to the maker of a description must be made with."""
    ufrag, password = _UFRAG.search(sdp), _PASSWORD.search(sdp)
    if ufrag is None or password is None:
        raise ProtocolError("the description has no ICE user name fragment and password")
    return ufrag[1], password[1].encode()


def _with_candidate(sdp: str, address: Address) -> str:
    """The description with this address as the only candidate, and as the default, of each media section."""
    host, port = address[:2]
    candidate = [f"a=candidate:relay 1 udp 2130706431 {host} {port} typ host", "a=end-of-candidates"]
    newline = "\r\n" if "\r\n" in sdp else "\n"
    lines: list[str] = []
    in_section = False
    for line in sdp.removesuffix("\n").split("\n"):
        line = line.removesuffix("\r")
        if line.startswith(("a=candidate:", "a=end-of-candidates")):
            continue
        if line.startswith("m="):
            lines += candidate if in_section else []
            in_section = True
            line = _MEDIA.sub(rf"\g<1>{port}", line)
        elif line.startswith("c="):
            line = f"c=IN IP{ipaddress.ip_address(host).version} {host}"
        lines.append(line)
    return newline.join([*lines, *candidate, ""])


# Connectivity checks (RFC 8489, RFC 8445 section 7.2.2)

_HEADER = struct.Struct("!HHI12x")
_ATTRIBUTE = struct.Struct("!HH")
_BINDING_REQUEST: Final = 0x0001
_COOKIE: Final = 0x2112A442
_USERNAME: Final = 0x0006
_MESSAGE_INTEGRITY: Final = 0x0008
_INTEGRITY_SIZE: Final = _ATTRIBUTE.size + 20


def is_check(data: bytes, ufrag: str, password: bytes) -> bool:
    """Whether a datagram is a connectivity check to the peer with this user name fragment and password."""
    if len(data) < _HEADER.size:
        return False
    kind, length, cookie = _HEADER.unpack_from(data)
    if (kind, length, cookie) != (_BINDING_REQUEST, len(data) - _HEADER.size, _COOKIE):
        return False
    for_peer = False
    position = _HEADER.size
    while position + _ATTRIBUTE.size <= len(data):
        attribute, size = _ATTRIBUTE.unpack_from(data, position)
        value = data[position + _ATTRIBUTE.size :][:size]
        if attribute == _USERNAME:
            for_peer = value.startswith(f"{ufrag}:".encode())
        elif attribute == _MESSAGE_INTEGRITY:
            # What is signed has a length as if the message ended with this attribute.
            signed_length = position + _INTEGRITY_SIZE - _HEADER.size
            signed = data[:2] + signed_length.to_bytes(2, "big") + data[4:position]
            return for_peer and hmac.compare_digest(hmac.digest(password, signed, hashlib.sha1), value)
        position += _ATTRIBUTE.size + (size + 3) // 4 * 4
    return False
