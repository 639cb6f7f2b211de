"""One WebRTC connection with the session's three channels."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from aiortc import RTCDataChannel, RTCSessionDescription

from splitrtc_errors import BadArgument, ConnectionLost, NegotiationTimeout, ProtocolError, Unreachable

from .channels import CHANNELS, ChannelIds, channel_ids, channel_maps
from .liveness import TIMEOUT, Liveness
from .pictures import SentPicture
from .results import heartbeat_result
from .sctp_counters import SctpCounters
from .sdp import ChannelAttribute, add_channel_attributes, read_channel_attributes
from .sender import Dropped, UnitSender
from .transport import (
    IceServer,
    RtpPayload,
    add_video,
    admit_streams,
    check_description,
    checked_address,
    connection_tasks,
    count_candidates,
    gather_only_on,
    has_video,
    new_connection,
    sctp_of,
    sent_so_far,
)
from .units import heartbeat_unit
from .video import PictureTrack
from .vp8 import VideoCounters, VideoFrame, Vp8Assembler

__all__ = ["MAX_CONTROL_BACKLOG", "MAX_RESULT_BACKLOG", "IceServer", "Peer", "PeerCounters"]

MAX_CONTROL_BACKLOG = 256 * 1024
"""Bytes of control messages that may wait; with more the link is as good as dead."""

MAX_RESULT_BACKLOG = 16 * 1024
"""Bytes of results that may wait; further ones are dropped, because they would be late."""

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(slots=True)
class PeerCounters:
    """What a connection saw that it did not act upon, and what it sent on its own."""

    wrong_type: int = 0
    """Text messages on a binary channel, or the reverse."""
    malformed: int = 0
    """Messages that the receiving callback refused with a `ProtocolError`."""
    failed_callbacks: int = 0
    """Callbacks that raised anything else."""
    extra_channels: int = 0
    """Channels that the peer opened besides the three; they are closed at once."""
    results_dropped: int = 0
    heartbeats_sent: int = 0


def _ignore(_: object) -> None:
    """What is done with messages that nobody asked for."""


class Peer:
    """A connection to one other endpoint. To be made, used and closed in the thread of a running event loop.

    The one who offers is the UE, the one who answers the edge (that decides which heartbeats are sent). Descriptions
    are exchanged whole: all candidates are gathered before one is returned.

    Assign the callbacks before the negotiation:

    * `on_control` (text), `on_intermediate` and `on_result` (bytes) get the messages of the three channels;
    * `on_dropped` gets each frame that `sender`, `output_sender` or `video` dropped;
    * `on_picture_sent` gets each picture that `video` has sent, `on_video` each frame of the peer's video, encoded;
    * `admits_video` says, of a packet of so many bytes of that, whether it is within the limits;
    * `on_closed` gets the reason, once, when the connection ends in another way than by `close()`.

    A callback that raises is logged or counted and harms nothing. However the connection ended, `close()` must be
    called (or the peer be used as an async context manager); it leaves no task and no socket.
    """

    def __init__(
        self,
        ice_servers: Sequence[IceServer] = (),
        bind: str | None = None,
        *,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            ice_servers: none by default: then only hosts that reach each other directly find each other.
            bind: use this local address alone (needed for loopback, which ICE leaves out).
            timeout: seconds of silence after which the connection counts as lost.
            clock: monotonic seconds.

        Raises:
            BadArgument: a server's URL or the address cannot be used.
        """
        self.on_control: Callable[[str], None] = _ignore
        self.on_intermediate: Callable[[bytes], None] = _ignore
        self.on_result: Callable[[bytes], None] = _ignore
        self.on_dropped: Callable[[Dropped], None] = _ignore
        self.on_picture_sent: Callable[[SentPicture], None] = _ignore
        self.on_video: Callable[[VideoFrame], None] = _ignore
        self.admits_video: Callable[[int], bool] = lambda size: True
        self.on_closed: Callable[[str], None] = _ignore
        self.counters = PeerCounters()
        self.closed = asyncio.Event()
        self.close_reason: str | None = None

        self._bind = checked_address(bind)
        self._timeout = timeout
        self._clock = clock
        self._connection = new_connection(ice_servers)
        self._connection.on("connectionstatechange", self._connection_changed)
        self._connection.on("datachannel", self._refuse_channel)
        self._ids = ChannelIds()
        self._is_ue = True
        self._channels: list[RTCDataChannel] = []
        self._senders: list[UnitSender] = []
        self._video: PictureTrack | None = None
        self._assembler = Vp8Assembler()
        self._settled = asyncio.Event()
        self._liveness = Liveness(clock(), timeout)
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def sender(self) -> UnitSender:
        """Sends units on the channel "intermediate". Exists from `create_offer` or `create_answer` on."""
        return self._sender_on(0)

    @property
    def output_sender(self) -> UnitSender:
        """Sends units on the channel "result", where tensors come back. Exists as long as `sender`."""
        return self._sender_on(1)

    def _sender_on(self, place: int) -> UnitSender:
        if not self._senders:
            raise RuntimeError("the channels do not exist before create_offer or create_answer")
        return self._senders[place]

    @property
    def video(self) -> PictureTrack:
        """Sends pictures as video, once the peer has accepted that. Exists after `create_offer` with ``video``."""
        if self._video is None:
            raise RuntimeError("no video was offered")
        return self._video

    @property
    def video_counters(self) -> VideoCounters:
        """What became of the peer's video where it was not handed to `on_video`."""
        return self._assembler.counters

    def need_key_frame(self) -> None:
        """The last frame of `on_video` cannot be decoded: the next one will be a key frame."""
        self._assembler.need_key()

    @property
    def transport_counters(self) -> SctpCounters:
        """What the SCTP transport dropped of what the peer sent. Exists from `create_offer` or `create_answer` on."""
        return sctp_of(self._connection).counters

    # Negotiation

    async def create_offer(self, attributes: Iterable[tuple[str, str]] = (), *, video: bool = False) -> str:
        """Make the offer, as text, with (name, value) attributes of the channel "intermediate".

        With ``video`` it has a video section besides; what is sent there is given to `video`.

        Raises:
            BadArgument: an attribute cannot be written, or the address given as `bind` is not one of this machine.
            Unreachable: the machine has no network address.
        """
        if video:
            self._video = PictureTrack(self._picture_sent, self._dropped, sent_so_far, self._clock)
            self._video.on("ended", lambda: self._end("no more video can be sent"))
            add_video(self._connection, self._video, "sendonly", self._take_video)
        self._open_channels(ChannelIds())
        return await self._describe(await self._connection.createOffer(), attributes)

    async def accept_answer(self, sdp: str) -> None:
        """Take the answer to the offer. The peer need not know our attributes, but must not contradict them.

        Raises:
            ProtocolError: the text is not a usable answer.
        """
        maps, _ = read_channel_attributes(sdp)
        if maps and channel_ids(maps) != self._ids:
            raise ProtocolError("the answer moves the channels to other stream ids than the offer's")
        await self._set_remote(sdp, "answer")

    async def create_answer(
        self, offer: str, attributes: Iterable[tuple[str, str]] = (), *, video: bool = False
    ) -> str:
        """Make the answer to an offer, as text, with (name, value) attributes of the channel "intermediate".

        With ``video`` the offer's video section is accepted, else it becomes inactive.

        Raises:
            ProtocolError: the offer is not usable, or lacks one of the three channels, or the video.
            BadArgument, Unreachable: as for `create_offer`.
        """
        maps, _ = read_channel_attributes(offer)
        self._is_ue = False
        if has_video(offer):
            add_video(self._connection, None, "recvonly" if video else "inactive", self._take_video)
        elif video:
            raise ProtocolError("the offer names a way to split the work that needs video, and has no video section")
        self._open_channels(channel_ids(maps))
        await self._set_remote(offer, "offer")
        return await self._describe(await self._connection.createAnswer(), attributes)

    async def opened(self, timeout: float) -> None:
        """Wait until all three channels are open.

        Raises:
            NegotiationTimeout: they are not after `timeout` seconds.
            Unreachable: the connection failed, or was closed, before.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._settled.wait()
        except TimeoutError:
            raise NegotiationTimeout(f"the connection did not come up within {timeout:g} s: is UDP blocked?") from None
        if self.close_reason is not None:
            raise Unreachable(f"the connection did not come up: {self.close_reason}")

    # Sending

    def send_control(self, text: str) -> None:
        """Send a control message, reliably and in order.

        Raises:
            ConnectionLost: the channel is not open, or takes nothing any more.
        """
        channel = self._channels[0]
        if channel.readyState != "open":
            raise ConnectionLost(self.close_reason or "the control channel is not open")
        if channel.bufferedAmount > MAX_CONTROL_BACKLOG:
            raise ConnectionLost(f"more than {MAX_CONTROL_BACKLOG} bytes of control messages are waiting")
        channel.send(text)

    def send_result(self, data: bytes) -> bool:
        """Send a result; False (and counted) if it was dropped because the channel is not open or does not keep up."""
        channel = self._channels[2]
        if channel.readyState != "open" or channel.bufferedAmount > MAX_RESULT_BACKLOG:
            self.counters.results_dropped += 1
            return False
        channel.send(data)
        self._sent(self._clock())
        return True

    # The end

    async def close(self) -> None:
        """End the connection and free everything. May be called again, and at any time."""
        if self._closing is None:
            self._end("closed by this side", quietly=True)
            self._closing = asyncio.create_task(self._close())
        # Shielded, because a close of which half is done could not be resumed.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # Looked up before, too: closing takes apart what they are recognised by.
        tasks = connection_tasks(self._connection)
        await self._connection.close()
        tasks |= connection_tasks(self._connection)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, reason: str, quietly: bool = False) -> None:
        if self.close_reason is not None:
            return
        self.close_reason = reason
        self.closed.set()
        self._settled.set()
        if self._timer is not None:
            self._timer.cancel()
        for sender in self._senders:
            sender.close()
        if not quietly:
            self._call(self.on_closed, reason)

    # Set-up

    def _open_channels(self, ids: ChannelIds) -> None:
        if self.close_reason is not None:
            raise ConnectionLost(self.close_reason)
        if self._channels:
            raise RuntimeError("a peer negotiates once")
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
            channel.on("close", self._channel_closed)
            self._channels.append(channel)
        control, intermediate, result = self._channels
        control.on("message", lambda message: self._receive(str, self.on_control, message))
        intermediate.on("message", lambda message: self._receive(bytes, self.on_intermediate, message))
        result.on("message", lambda message: self._receive(bytes, self.on_result, message))
        load = sctp_of(self._connection).load
        self._senders = [
            UnitSender(channel, self._clock, self._dropped, self._sent, load) for channel in (intermediate, result)
        ]
        if self._bind is not None:
            gather_only_on(self._connection, self._bind)

    async def _describe(self, description: RTCSessionDescription, attributes: Iterable[tuple[str, str]]) -> str:
        """Gather candidates; the description as text, with our lines (which aiortc never gets to see)."""
        dcsa = [ChannelAttribute(self._ids.intermediate, name, value) for name, value in attributes]
        await self._unless_closed(self._connection.setLocalDescription(description))
        sdp = self._connection.localDescription.sdp
        if not count_candidates(sdp):
            if self._bind is not None:
                raise BadArgument(f"cannot bind to {self._bind}: it is not an address of this machine")
            raise Unreachable("this machine has no network address besides loopback; to use that, bind to it")
        return add_channel_attributes(sdp, channel_maps(self._ids), dcsa)

    async def _set_remote(self, sdp: str, kind: str) -> None:
        check_description(sdp)
        admit_streams(self._connection, sdp)
        try:
            await self._unless_closed(self._connection.setRemoteDescription(RTCSessionDescription(sdp, kind)))
        except ConnectionLost:
            raise
        except Exception as error:
            # aiortc's parser lets through whatever the text made it stumble over.
            raise ProtocolError(f"the {kind} is not a usable description ({type(error).__name__})") from error

    async def _unless_closed(self, step: Awaitable[None]) -> None:
        """Take a step of the negotiation, which `close` may interrupt. Raises `ConnectionLost` if it did."""
        try:
            await step
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            by_caller = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling()
            if self.close_reason is None or by_caller:
                raise
        if self.close_reason is not None:
            raise ConnectionLost(self.close_reason)

    # Events

    def _connection_changed(self) -> None:
        match self._connection.connectionState:
            case "failed" if self._connection.iceConnectionState == "failed":
                self._end("no network path to the peer works (ICE failed)")
            case "failed":
                self._end("the secure connection failed (DTLS)")
            case "closed":
                self._end("the peer closed the connection")

    def _channel_opened(self) -> None:
        if all(channel.readyState == "open" for channel in self._channels):
            self._liveness = Liveness(self._clock(), self._timeout)
            self._watch()
            self._settled.set()

    def _channel_closed(self) -> None:
        self._end("the peer closed the connection")

    def _refuse_channel(self, channel: RTCDataChannel) -> None:
        self.counters.extra_channels += 1
        channel.close()

    def _receive(self, expected: type[_T], callback: Callable[[_T], None], message: object) -> None:
        self._liveness.heard(self._clock())
        if isinstance(message, expected):
            self._call(callback, message)
        else:
            self.counters.wrong_type += 1

    def _call(self, callback: Callable[[_T], None], value: _T) -> None:
        # An exception that escaped from here would end the connection, since aiortc's receiving task runs this.
        try:
            callback(value)
        except ProtocolError as error:
            self.counters.malformed += 1
            _log.debug("message dropped: %s", error)
        except Exception:
            self.counters.failed_callbacks += 1
            _log.exception("a callback failed")

    def _dropped(self, dropped: Dropped) -> None:
        self._call(self.on_dropped, dropped)

    def _picture_sent(self, sent: SentPicture) -> None:
        self._call(self.on_picture_sent, sent)

    def _take_video(self, packet: RtpPayload) -> bool:
        """A packet of the peer's video; whether to ask for a key frame."""
        if not self.admits_video(len(packet.data)):
            return False
        frames, ask = self._assembler.add(
            packet.sequence, packet.timestamp, packet.starts, packet.ends, packet.data, self._clock()
        )
        for frame in frames:
            self._call(self.on_video, frame)
        return ask

    # Life

    def _sent(self, now: float) -> None:
        self._liveness.sent(now)

    def _watch(self) -> None:
        """Look whether the peer is alive, show that we are, and come back when there may be something to do again."""
        now = self._clock()
        self._liveness.woke(now)
        if self._liveness.lost(now):
            self._end(f"nothing heard from the peer for {self._timeout:g} s")
            return
        if self._liveness.heartbeat_due(now):
            self._liveness.sent(now)
            self._send_heartbeat(now)
        delay = max(0.0, self._liveness.next_event() - now)
        self._timer = asyncio.get_running_loop().call_later(delay, self._watch)

    def _send_heartbeat(self, now: float) -> None:
        _, intermediate, result = self._channels
        channel = intermediate if self._is_ue else result
        # Behind a message that still waits it would only come late.
        if channel.readyState == "open" and not channel.bufferedAmount:
            channel.send(heartbeat_unit(int(now * 1e6)) if self._is_ue else heartbeat_result())
            self.counters.heartbeats_sent += 1
