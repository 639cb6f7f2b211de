"""The counterpart that `benchmarks.link` measures against: plain aiortc and a naive sender under the same session.

``python -m benchmarks.plain ue ...`` is ``splitrtc ue ...`` with `PlainPeer` in place of `rtc.Peer`; so model, codec,
reassembly and edge are the same, and what differs is the transport. Both sides must be run so.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from rtc import Dropped, DropReason, OutgoingFrame, PeerCounters
from rtc.channels import CHANNELS, ChannelIds, channel_ids, channel_maps
from rtc.sdp import ChannelAttribute, add_channel_attributes, read_channel_attributes
from splitrtc_errors import ConnectionLost, NegotiationTimeout, ProtocolError

__all__ = ["PlainPeer"]


def ignore(_: Any) -> None:
    """What is done with what nobody asked for."""


class NaiveSender:
    """Sends the units of a frame all at once, and skips a frame while any of an earlier one wait."""

    def __init__(self, channel: RTCDataChannel, on_dropped: Callable[[Dropped], None]) -> None:
        self._channel = channel
        self._on_dropped = on_dropped

    def offer(self, frame: OutgoingFrame) -> None:
        """Send a frame now or never."""
        if self._channel.readyState != "open" or self._channel.bufferedAmount > 0:
            self._on_dropped(Dropped(frame.frame_id, DropReason.REPLACED, 0))
            return
        for unit in frame.units:
            self._channel.send(unit)

    def expire(self) -> None:
        """Nothing ever waits here."""


class PlainPeer:
    """What a session needs of `rtc.Peer`, with nothing but aiortc's own transport and no sign of life."""

    def __init__(self, ice_servers: Sequence[Any] = (), bind: str | None = None) -> None:
        """As for `rtc.Peer`, but without servers: it only runs on one machine."""
        self.on_control: Callable[[str], None] = ignore
        self.on_intermediate: Callable[[bytes], None] = ignore
        self.on_result: Callable[[bytes], None] = ignore
        self.on_dropped: Callable[[Dropped], None] = ignore
        self.on_closed: Callable[[str], None] = ignore
        self.counters = PeerCounters()
        self.sender: NaiveSender
        self._bind = bind
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=list(ice_servers)))
        self._connection.on("connectionstatechange", self._changed)
        self._channels: list[RTCDataChannel] = []
        self._open = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def create_offer(self, attributes: Iterable[tuple[str, str]] = (), *, video: bool = False) -> str:
        """See `rtc.Peer`. There is no video."""
        assert not video
        self._create_channels(ChannelIds())
        await self._connection.setLocalDescription(await self._connection.createOffer())
        return self._described(attributes)

    async def create_answer(
        self, offer: str, attributes: Iterable[tuple[str, str]] = (), *, video: bool = False
    ) -> str:
        """See `rtc.Peer`. There is no video."""
        assert not video
        self._create_channels(channel_ids(read_channel_attributes(offer)[0]))
        await self._connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        return self._described(attributes)

    async def accept_answer(self, sdp: str) -> None:
        """See `rtc.Peer`."""
        await self._connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def opened(self, timeout: float) -> None:
        """See `rtc.Peer`."""
        try:
            async with asyncio.timeout(timeout):
                await self._open.wait()
        except TimeoutError:
            raise NegotiationTimeout("the connection did not come up") from None

    def send_control(self, text: str) -> None:
        """See `rtc.Peer`."""
        if self._channels[0].readyState != "open":
            raise ConnectionLost("the control channel is not open")
        self._channels[0].send(text)

    def send_result(self, data: bytes) -> bool:
        """See `rtc.Peer`."""
        if self._channels[2].readyState != "open":
            return False
        self._channels[2].send(data)
        return True

    async def close(self) -> None:
        """See `rtc.Peer`."""
        self._closed = True
        await self._connection.close()

    def _create_channels(self, ids: ChannelIds) -> None:
        self._ids = ids
        for spec, channel_map in zip(CHANNELS, channel_maps(ids), strict=True):
            channel = self._connection.createDataChannel(
                spec.label,
                ordered=spec.ordered,
                maxRetransmits=spec.max_retransmits,
                protocol=spec.subprotocol,
                negotiated=True,
                id=channel_map.stream_id,
            )
            channel.on("open", self._channel_opened)
            self._channels.append(channel)
        control, intermediate, result = self._channels
        control.on("message", lambda message: self._receive(lambda: self.on_control(message)))
        intermediate.on("message", lambda message: self._receive(lambda: self.on_intermediate(message)))
        result.on("message", lambda message: self._receive(lambda: self.on_result(message)))
        self.sender = NaiveSender(intermediate, lambda dropped: self.on_dropped(dropped))
        if self._bind is not None:
            gather_on(self._connection, self._bind)

    def _described(self, attributes: Iterable[tuple[str, str]]) -> str:
        dcsa = [ChannelAttribute(self._ids.intermediate, name, value) for name, value in attributes]
        return add_channel_attributes(self._connection.localDescription.sdp, channel_maps(self._ids), dcsa)

    def _receive(self, take: Callable[[], None]) -> None:
        try:
            take()
        except ProtocolError:
            self.counters.malformed += 1

    def _channel_opened(self) -> None:
        if all(channel.readyState == "open" for channel in self._channels):
            self._open.set()

    def _changed(self) -> None:
        if self._connection.connectionState in ("closed", "failed") and not self._closed:
            self.on_closed("the connection ended")


def gather_on(connection: RTCPeerConnection, address: str) -> None:
    """Let ICE, which leaves out loopback, gather on this address alone; as `rtc.transport` does."""
    assert connection.sctp is not None
    agent = connection.sctp.transport.transport._connection
    gather = agent.get_component_candidates

    async def gather_on_address(component: int, addresses: list[str], timeout: int = 5) -> Any:
        return await gather(component, [address], timeout)

    agent.get_component_candidates = gather_on_address  # type: ignore[method-assign]


def main() -> None:
    """The command line of splitrtc, on plain aiortc."""
    import pipeline.connection
    import pipeline.edge
    from pipeline import cli

    for module in (pipeline.edge, pipeline.connection):
        assert hasattr(module, "Peer")  # else it would go on with ours, and nobody would notice
        module.Peer = PlainPeer  # type: ignore[attr-defined]
    cli.main()


if __name__ == "__main__":
    main()
