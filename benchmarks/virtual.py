"""Two SCTP transports over an emulated link in virtual time.

A minute of it takes some seconds, whatever else the machine does, and the same seed gives the same packets.

What is real: both transports, the data channels, the sender, the link's model. What is not: ICE and DTLS, of which only
the bytes that a record adds are left, and time itself: the event loop's clock jumps to the next timer when nothing is
to be done, so computing takes none.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast
from unittest.mock import patch

from aiortc import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport

from rtc.channels import CHANNELS, ChannelIds, channel_maps
from rtc.link import Link
from rtc.link_settings import parse_link
from rtc.sctp import SctpTransport
from rtc.sender import OutgoingFrame, UnitSender

__all__ = ["FPS", "UNIT", "UNITS", "WIRE", "Seen", "played", "run_virtually"]

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
    while one.result.readyState != "open" or other.result.readyState != "open":  # noqa: ASYNC110 - in virtual time
        await asyncio.sleep(0.01)
    return one, other, tasks


# Frames

FPS = 30
UNIT, UNITS = 1_079, 9
WIRE = UNITS * (UNIT + 28 + 37 + 28) * 8
"""Bits of a frame with the headers of SCTP, DTLS, UDP and IP."""


@dataclass
class Seen:
    """When each frame was offered and its units came, the link's queue now and then; and the bytes of a rival."""

    offered: list[float] = field(default_factory=list)
    arrived: list[list[float]] = field(default_factory=list)
    queue: list[float] = field(default_factory=list)
    rival: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of all units that came."""
        return sum(map(len, self.arrived)) * UNIT

    def came(self, share: float = 1.0) -> dict[int, float]:
        """Of the frames of which so much came, after which time that was all."""
        return {
            number: times[-1] - self.offered[number]
            for number, times in enumerate(self.arrived)
            if len(times) >= share * UNITS
        }

    def in_time(self, limit: float) -> float:
        """Share of all units that came in time."""
        due = zip(self.offered, self.arrived, strict=True)
        return sum(at - offered <= limit for offered, times in due for at in times) / len(self.offered) / UNITS


@asynccontextmanager
async def _sides(
    kind: type[RTCSctpTransport], up: Wire, down: Wire
) -> AsyncIterator[tuple[Side[RTCSctpTransport], Side[RTCSctpTransport]]]:
    ue, edge, tasks = await connect_virtually(kind, kind, up, down)
    try:
        yield ue, edge
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for side in (ue, edge):
            await side.sctp.stop()


async def _play(link: str, seconds: float, kind: type[RTCSctpTransport] = SctpTransport, rival: bool = False) -> Seen:
    loop = asyncio.get_running_loop()
    settings, seen = parse_link(link), Seen()
    up, down = (Wire(Link(settings, f"{settings.seed}/{side}", loop.time())) for side in ("ue", "edge"))
    async with AsyncExitStack() as stack:
        ue, edge = await stack.enter_async_context(_sides(kind, up, down))
        edge.intermediate.on("message", lambda unit: seen.arrived[int.from_bytes(unit[:4])].append(loop.time()))
        offer: Callable[[OutgoingFrame], None]
        if isinstance(ue.sctp, SctpTransport):
            sender = UnitSender(ue.intermediate, loop.time, load=ue.sctp.load)
            offer = sender.offer
            stack.callback(sender.close)
        else:

            def offer(frame: OutgoingFrame) -> None:
                if not ue.intermediate.bufferedAmount:
                    for unit in frame.units:
                        ue.intermediate.send(unit)

        fill: Callable[[], None] = lambda: None  # noqa: E731
        if rival:
            greedy, sink = await stack.enter_async_context(_sides(RTCSctpTransport, up, down))

            def count(message: bytes) -> None:
                seen.rival += len(message)

            def fill() -> None:
                while greedy.intermediate.bufferedAmount < 8_000:
                    greedy.intermediate.send(bytes(1_100))

            sink.intermediate.on("message", count)
        begin = loop.time()
        for number in range(round(seconds * FPS)):
            seen.offered.append(loop.time())
            seen.arrived.append([])
            offer(OutgoingFrame(number, [number.to_bytes(4) + bytes(UNIT - 4)] * UNITS, loop.time() + 0.5))
            for part in range(1, 5):
                seen.queue.append(max(0.0, up.link._free_at - loop.time()))
                fill()
                await asyncio.sleep(begin + (number + part / 4) / FPS - loop.time())
        await asyncio.sleep(1.0)
    return seen


def played(link: str, seconds: float, kind: type[RTCSctpTransport] = SctpTransport, rival: bool = False) -> Seen:
    """Send frames over a link for so many seconds, perhaps beside a plain flow that sends all it can."""
    return run_virtually(lambda: _play(link, seconds, kind, rival))
