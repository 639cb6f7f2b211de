"""What a connection needs of aiortc and aioice beyond their public interfaces, in one place.

Everything here acts on one connection; nothing is changed for others in the same process.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aioice import Candidate, Connection
from aiortc import RTCConfiguration, RTCDataChannel, RTCIceServer, RTCPeerConnection
from aiortc.rtcicetransport import parse_stun_turn_uri

from splitrtc_errors import BadArgument, ProtocolError

from .sctp import SctpTransport
from .sctp_counters import SctpCounters
from .units import MAX_UNIT

__all__ = [
    "MAX_CANDIDATES",
    "IceServer",
    "check_description",
    "checked_address",
    "connection_tasks",
    "count_candidates",
    "gather_only_on",
    "new_connection",
    "sctp_counters",
]

MAX_CANDIDATES = 64
"""ICE candidates accepted in a description: checks are sent to each, so they must not become a list of victims."""

_CANDIDATE_LINE = re.compile(r"^a=candidate:", re.MULTILINE)
_MEDIA_LINE = re.compile(r"^m=", re.MULTILINE)
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

    def _RTCPeerConnection__createSctpTransport(self) -> None:  # noqa: N802
        super()._RTCPeerConnection__createSctpTransport()  # type: ignore[misc]
        assert self.sctp is not None
        replacement = SctpTransport(self.sctp.transport)
        replacement._bundled = self.sctp._bundled

        def announce(channel: RTCDataChannel) -> None:
            self.emit("datachannel", channel)

        replacement.on("datachannel", announce)
        self._RTCPeerConnection__sctp = replacement


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
    return _Connection(RTCConfiguration(iceServers=servers))


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


def sctp_counters(connection: RTCPeerConnection) -> SctpCounters:
    """What the transport of a connection from `new_connection`, whose channels exist already, has dropped."""
    assert isinstance(connection.sctp, SctpTransport), "the channels come first"
    return connection.sctp.counters


def count_candidates(sdp: str) -> int:
    """How many ICE candidates a description has."""
    return len(_CANDIDATE_LINE.findall(sdp))


def check_description(sdp: str) -> None:
    """Refuse a peer's description that would make aiortc do more than a data-channel session needs.

    Raises:
        ProtocolError: it has other media sections, too many candidates, or a limit below our largest message.
    """
    if (sections := len(_MEDIA_LINE.findall(sdp))) != 1:
        raise ProtocolError(f"the description has {sections} media sections, expected the data channels' alone")
    if (candidates := count_candidates(sdp)) > MAX_CANDIDATES:
        raise ProtocolError(f"the description has {candidates} candidates, expected at most {MAX_CANDIDATES}")
    limit = _MAX_MESSAGE_LINE.search(sdp)
    if limit is not None and 0 < int(limit[1]) < MAX_UNIT:
        raise ProtocolError(f"the description limits messages to {limit[1]} bytes, expected at least {MAX_UNIT}")


def _agent(connection: RTCPeerConnection) -> Connection:
    assert connection.sctp is not None, "the channels come first"
    return connection.sctp.transport.transport._connection
