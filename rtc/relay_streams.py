"""TCP connections through the relay's emulated link, beside the media: signalling, and files fetched by HTTP.

A client connects to the relay instead of the server; what it writes crosses the link as segments of a stream
(`rtc.link_flow`), and the relay's other end writes it to a connection of its own. So the opening costs a round trip,
rate and queue are shared with the media, and a lost packet delays what follows it, as with TCP.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import zlib
from collections.abc import Callable
from typing import Final, Literal, cast

from splitrtc_errors import BadArgument

from .link_flow import MAX_UNACKNOWLEDGED, FlowReceiver, FlowSender, Kind, Segment

__all__ = ["MAX_STREAMS", "Streams"]

MAX_STREAMS = 64
"""Connections at once; further ones are closed as they come."""

_HEADER: Final = struct.Struct("!7sBIQI")
"""Mark of this relay, kind, stream, offset, checksum: 24 bytes, which is what TCP's header with time stamps has beyond
UDP's, and that one the link counts for every packet."""
_AT_ONCE: Final = struct.pack("@ii", 1, 0)
_ACK: Final = 0
_RESET: Final = 255

Push = Callable[[bytes], None]
Side = Literal["ue", "edge"]


class Streams:
    """The connections that go through one relay."""

    def __init__(self, up: Push, down: Push) -> None:
        """``up`` puts a packet on the link from the UE to the edge, ``down`` one on the way back."""
        self._push: dict[Side, Push] = {"ue": up, "edge": down}
        self._mark = secrets.token_bytes(7)
        self._ends: dict[tuple[Side, int], _End] = {}
        self._numbered = 0
        self._servers: list[asyncio.Server] = []
        self._connecting: set[asyncio.Task[None]] = set()

    async def forward(self, bind: str, host: str, port: int) -> tuple[str, int]:
        """Listen at ``bind``, and carry each connection made there to ``host``, ``port``. Returns where.

        Raises BadArgument when that address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: self._accept(host, port), bind, 0)
        except OSError as error:
            raise BadArgument(f"cannot bind the relay to {bind}: {error.strerror}") from error
        self._servers.append(server)
        return cast("tuple[str, int]", server.sockets[0].getsockname()[:2])

    async def close(self) -> None:
        """Stop listening, and end all connections."""
        for server in self._servers:
            server.close()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for end in list(self._ends.values()):
            end.abort()

    def take(self, packet: bytes, to: Side) -> bool:
        """Take a packet that has crossed the link to this side; False when it is none of a stream."""
        if not packet.startswith(self._mark):
            return False
        if len(packet) >= _HEADER.size:
            _, kind, number, offset, checksum = _HEADER.unpack_from(packet)
            payload = packet[_HEADER.size :]
            if zlib.crc32(packet[7:20] + payload) == checksum:  # else the link has damaged it
                self._dispatch(to, number, kind, offset, payload)
        return True

    def _dispatch(self, to: Side, number: int, kind: int, offset: int, payload: bytes) -> None:
        end = self._ends.get((to, number))
        if end is None:
            if kind not in (_ACK, _RESET):
                self.send(to, number, _RESET, 0)
        elif kind == _ACK:
            end.acknowledged(offset)
        elif kind == _RESET:
            end.abort()
        else:
            end.receive(Segment(offset, Kind(kind), payload))

    def send(self, side: Side, number: int, kind: int, offset: int, payload: bytes = b"") -> None:
        """Put a packet of a stream on the link that begins at this side."""
        head = struct.pack("!BIQ", kind, number, offset)
        self._push[side](self._mark + head + struct.pack("!I", zlib.crc32(head + payload)) + payload)

    def forget(self, side: Side, number: int) -> None:
        """An end is over."""
        self._ends.pop((side, number), None)

    def _accept(self, host: str, port: int) -> asyncio.Protocol:
        self._numbered += 1
        number = self._numbered
        here = _End(self, "ue", number, FlowSender(opens=True))
        there = _End(self, "edge", number, FlowSender(opens=False), lambda: self._connect(there, host, port))
        if len(self._ends) < 2 * MAX_STREAMS:
            self._ends["ue", number], self._ends["edge", number] = here, there
        return here

    def _connect(self, end: _End, host: str, port: int) -> None:
        task = asyncio.get_running_loop().create_task(self._connect_now(end, host, port))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect_now(self, end: _End, host: str, port: int) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: end, host, port)
        except OSError:
            end.reset()

    def admits(self, end: _End) -> bool:
        """Whether an end is one of those that are served."""
        return self._ends.get((end.side, end.number)) is end


class _End(asyncio.Protocol):
    """One end of a connection: a socket, what it sends across the link, and what comes from there."""

    def __init__(
        self, streams: Streams, side: Side, number: int, sender: FlowSender, connect: Callable[[], None] | None = None
    ) -> None:
        """``connect`` is called once, when the other end's opening has arrived."""
        self.side = side
        self.number = number
        self._streams = streams
        self._sender = sender
        self._receiver = FlowReceiver()
        self._connect = connect
        self._opening: Segment | None = None
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._received_all = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=MAX_UNACKNOWLEDGED)
        if not self._streams.admits(self):
            self._transport.abort()
            return
        if self._opening is not None:
            self._take(self._opening)
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._streams.admits(self):
            if not (self._received_all and self._sender.done):
                self._streams.send(self.side, self.number, _RESET, 0)
            self._streams.forget(self.side, self.number)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._sender.write(data)
        if self._sender.unacknowledged >= MAX_UNACKNOWLEDGED:
            self._transport.pause_reading()
        self._pump()

    def eof_received(self) -> bool:
        self._sender.finish()
        self._pump()
        return True  # the other direction may go on

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True

    # The link

    def receive(self, segment: Segment) -> None:
        """A segment has crossed the link."""
        if segment.kind is Kind.OPEN and self._transport is None:
            self._opening = segment  # acknowledged once there is a connection: so the client waits as it would
            if self._connect is not None:
                connect, self._connect = self._connect, None
                connect()
        elif self._writable and self._transport is not None:  # else it comes again: no acknowledgement, so no memory
            self._take(segment)

    def _take(self, segment: Segment) -> None:
        ready = self._receiver.receive(segment)
        if ready is None:
            return
        self._streams.send(self.side, self.number, _ACK, segment.offset)
        assert self._transport is not None
        for piece in ready:
            if piece.kind is Kind.DATA:
                self._transport.write(piece.payload)
            elif piece.kind is Kind.END:
                self._received_all = True
                self._transport.write_eof()
        self._close_if_done()

    def acknowledged(self, offset: int) -> None:
        """A segment has arrived at the other end."""
        self._sender.acknowledged(offset, self._loop.time())
        if self._transport is not None and self._sender.unacknowledged < MAX_UNACKNOWLEDGED:
            self._transport.resume_reading()
        self._pump()
        self._close_if_done()

    def _pump(self) -> None:
        now = self._loop.time()
        for segment in self._sender.take(now):
            self._streams.send(self.side, self.number, segment.kind, segment.offset, segment.payload)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._sender.next_timeout()
        if due is not None:
            self._timer = self._loop.call_at(due, self._time_out)

    def _time_out(self) -> None:
        self._timer = None
        self._sender.time_out(self._loop.time())
        self._pump()

    def _close_if_done(self) -> None:
        if self._received_all and self._sender.done and self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """There is no connection on this side, and there will be none."""
        self._streams.send(self.side, self.number, _RESET, 0)
        self.abort()

    def abort(self) -> None:
        """End it at once, without an orderly end."""
        if self._timer is not None:
            self._timer.cancel()
        self._streams.forget(self.side, self.number)
        if self._transport is not None:
            # A reset, as TCP has it: without this, the program there would take it for the stream's end.
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self._transport.abort()
