"""Two SCTP transports over an emulated link in virtual time: a minute of it takes a second or two, whatever else the
machine does, and the same seed gives the same packets.

What is real: both transports, the data channels, the sender, the link's model. What is not: ICE and DTLS, of which only
the bytes that a record adds are left, and time itself: the event loop's clock jumps to the next timer when nothing is
to be done, so computing takes none.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast
from unittest.mock import patch

from aiortc import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport

from rtc.channels import CHANNELS, ChannelIds, channel_maps
from rtc.link import Link

RECORD_OVERHEAD = 37
"""Bytes that DTLS adds to a packet: header, nonce and tag of AES-GCM."""


_T = TypeVar("_T")
_Ue = TypeVar("_Ue", bound=RTCSctpTransport)
_Edge = TypeVar("_Edge", bound=RTCSctpTransport)


class _Selector(selectors.SelectSelector):
    """Nothing ever comes from a socket; waiting for it only lets the clock go on."""

    now = 1_000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everything waits, and nothing will ever happen"
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        self.virtual = _Selector()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.now


def run_virtually(main: Callable[[], Awaitable[_T]]) -> _T:
    """Run a coroutine in virtual time, which then is the time for all."""

    async def call() -> _T:
        return await main()

    loop = VirtualLoop()
    with _time_of(loop), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(call())


@contextmanager
def _time_of(loop: VirtualLoop) -> Iterator[None]:
    with patch.object(time, "monotonic", loop.time), patch.object(time, "time", loop.time):
        yield


class Wire:
    """One direction of one or more connections through one link."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._loop = asyncio.get_running_loop()
        self._ends: list[Dtls] = []
        self._timer: asyncio.TimerHandle | None = None

    def join(self, end: Dtls) -> int:
        """Let packets come out at this end; returns its number."""
        self._ends.append(end)
        return len(self._ends) - 1

    def push(self, number: int, packet: bytes) -> None:
        """Send a packet to the end with this number."""
        self.link.push(bytes([number]) + packet + bytes(RECORD_OVERHEAD - 1), self._loop.time())
        self._deliver()

    def _deliver(self) -> None:
        for packet in self.link.pop(self._loop.time()):
            self._ends[packet[0]].arrived.put_nowait(packet[1 : 1 - RECORD_OVERHEAD])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (due := self.link.next_event()) is not None:
            self._timer = self._loop.call_at(due, self._deliver)


class Dtls:
    """What an SCTP transport needs of DTLS."""

    state = "connected"

    def __init__(self, role: str, out: Wire, into: Wire) -> None:
        self._role = role
        self._out = out
        self._into = into
        self.number = into.join(self)
        self.other: Dtls
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self._receiver: Any = None

    def _register_data_receiver(self, receiver: Any) -> None:
        self._receiver = receiver

    def _unregister_data_receiver(self, receiver: Any) -> None:
        self._receiver = None

    async def _send_data(self, data: bytes) -> None:
        self._out.push(self.other.number, data)

    async def receive(self) -> None:
        """Hand over what arrives, for ever."""
        while True:
            data = await self.arrived.get()
            if self._receiver is not None:
                await self._receiver._handle_data(data)


class Side(Generic[_Ue]):
    """A transport with its three channels: control, intermediate, result."""

    def __init__(self, kind: type[_Ue], dtls: Dtls) -> None:
        self.dtls = dtls
        self.sctp = kind(cast(RTCDtlsTransport, dtls))
        self.control, self.intermediate, self.result = (
            RTCDataChannel(
                self.sctp,
                RTCDataChannelParameters(
                    spec.label, ordered=spec.ordered, maxRetransmits=spec.max_retransmits,
                    protocol=spec.subprotocol, negotiated=True, id=channel_map.stream_id,
                ),
            )
            for spec, channel_map in zip(CHANNELS, channel_maps(ChannelIds()), strict=True)
        )  # fmt: skip


async def connect_virtually(
    ue: type[_Ue], edge: type[_Edge], up: Wire, down: Wire
) -> tuple[Side[_Ue], Side[_Edge], list[asyncio.Task[None]]]:
    """Two sides whose channels are open, and the tasks that receive for them."""
    client, server = Dtls("client", up, down), Dtls("server", down, up)
    client.other, server.other = server, client
    one, other = Side(ue, client), Side(edge, server)
    tasks = [asyncio.ensure_future(dtls.receive()) for dtls in (client, server)]
    capabilities = RTCSctpCapabilities(maxMessageSize=65_536)
    await one.sctp.start(capabilities, 5000)
    await other.sctp.start(capabilities, 5000)
    while one.result.readyState != "open" or other.result.readyState != "open":
        await asyncio.sleep(0.01)
    return one, other, tasks
