"""aiortc's SCTP transport, hardened against its peer and tuned for small frames in real time.

A subclass that overrides single steps; nothing of aiortc is copied or changed for others in the process. What it adds
to each: bounds on what a peer can make us keep or do, a congestion window by delay, fast detection of lost tails, and
acknowledgements that are held back a little. `docs/transport.md` has the reasons and the figures; the rules themselves
are in the pure modules beside this one (`sctp_wire`, `sctp_streams`, `congestion`). Here is the receiving half.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from aiortc import rtcsctptransport as sctp
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.utils import uint32_gte

from splitrtc_errors import ProtocolError

from .congestion import AckPolicy
from .sctp_counters import SctpCounters
from .sctp_sending import IMMEDIATE, SendingTransport
from .sctp_streams import MAX_HELD_BYTES, Budget, InboundStream
from .sctp_wire import check_open, check_packet

__all__ = ["MAX_AHEAD", "MAX_DUPLICATES", "MAX_GAPS", "MAX_PEER_CHANNELS", "SctpCounters", "SctpTransport"]

MAX_PEER_CHANNELS = 16
"""Channels that the peer may have opened at once, until they are closed on both sides."""

MAX_AHEAD = 2_048
"""Chunks after the first missing one that are taken; those further ahead are as if lost."""

MAX_GAPS = 200
"""Gap blocks in an acknowledgement, which must fit in a packet (RFC 9260, section 6.2.1)."""

MAX_DUPLICATES = 16
"""Duplicates reported in an acknowledgement."""

_log = logging.getLogger(__name__)


class SctpTransport(SendingTransport):
    """What takes the place of aiortc's transport in a connection."""

    def __init__(self, transport: RTCDtlsTransport, port: int = 5000) -> None:
        super().__init__(transport, port)
        self._budget = Budget()
        self._advertised_rwnd = MAX_HELD_BYTES
        self._pruned_at: int | None = None
        self._acks = AckPolicy()
        self._ack_urgent = False
        self._ack_timer: asyncio.TimerHandle | None = None

    # Packets

    async def _handle_data(self, data: bytes) -> None:
        """Take a packet. Whatever is in it, nothing is raised but that the connection below has ended."""
        if self.state == "closed":
            self.counters.foreign += 1
            return
        try:
            check_packet(data)
            _, _, tag, chunks = sctp.parse_packet(data)
        except (ProtocolError, ValueError) as error:
            self.counters.malformed += 1
            _log.debug("SCTP packet dropped: %s", error)
            return
        starts = isinstance(chunks[0], sctp.InitChunk) if chunks else False
        if tag != (0 if starts else self._local_verification_tag):
            self.counters.foreign += 1
            return
        for chunk in chunks:
            await self._survive(self._receive_chunk(chunk))
        if self._sack_needed:
            await self._survive(self._acknowledge())

    async def _survive(self, step: Coroutine[Any, Any, None]) -> None:
        """Take a step whose failure must not end the task that receives."""
        try:
            await step
        except ConnectionError:
            raise
        except Exception:
            self.counters.failures += 1
            _log.exception("an SCTP chunk could not be handled")

    async def _receive_chunk(self, chunk: sctp.Chunk) -> None:
        known = self._last_received_tsn is not None
        if isinstance(chunk, sctp.InitChunk):
            # Once the association stands, one that comes late would reset what was received (section 5.2.2).
            if self._association_state not in (self.State.COOKIE_WAIT, self.State.COOKIE_ECHOED):
                self.counters.foreign += 1
                return
        elif isinstance(chunk, sctp.DataChunk | sctp.ForwardTsnChunk | sctp.SackChunk | sctp.ShutdownChunk) and (
            not known or self._association_state == self.State.COOKIE_WAIT
        ):
            self.counters.foreign += 1
            return
        await super()._receive_chunk(chunk)

    def _get_timestamp(self) -> int:
        return int(time.monotonic())

    # Receiving

    async def _receive_data_chunk(self, chunk: sctp.DataChunk) -> None:
        last = self._last_received_tsn
        assert last is not None
        if not uint32_gte(last, chunk.tsn) and (chunk.tsn - last) % sctp.SCTP_TSN_MODULO > MAX_AHEAD:
            self.counters.far_ahead += 1
            return
        self._ack_urgent |= bool(chunk.flags & IMMEDIATE)
        stream = self._stream_for(chunk)
        if stream is not None and not stream.passes(chunk) and not self._budget.fits(len(chunk.user_data)):
            self._prune()
            if not self._budget.fits(len(chunk.user_data)):
                # Not acknowledged, so the peer may send it again when there is room.
                self.counters.no_room += 1
                return
        self._sack_needed = True
        if self._mark_received(chunk.tsn):
            return
        if stream is None:
            self.counters.unknown_stream += 1
        else:
            stream.add_chunk(chunk)
            await self._deliver(stream)
        await self._reset_deferred_streams()

    async def _receive_forward_tsn_chunk(self, chunk: sctp.ForwardTsnChunk) -> None:
        self._ack_urgent = True
        # Only streams that exist: aiortc would make those that do not.
        chunk.streams = [(stream, sequence) for stream, sequence in chunk.streams if stream in self._inbound_streams]
        await super()._receive_forward_tsn_chunk(chunk)
        self._account()

    def _mark_received(self, tsn: int) -> bool:
        """Whether it is a duplicate. Unlike aiortc's, it need not look at all that is misordered for each chunk."""
        last = self._last_received_tsn
        assert last is not None
        if uint32_gte(last, tsn) or tsn in self._sack_misordered:
            self._ack_urgent = True
            if len(self._sack_duplicates) < MAX_DUPLICATES:
                self._sack_duplicates.append(tsn)
            return True
        self._sack_misordered.add(tsn)
        while (following := sctp.tsn_plus_one(last)) in self._sack_misordered:
            self._sack_misordered.remove(following)
            last = following
        self._last_received_tsn = last
        return False

    def _stream_for(self, chunk: sctp.DataChunk) -> InboundStream | None:
        """The stream of a chunk, if there is a channel, or if it may be about to open one."""
        streams: dict[int, InboundStream] = self._inbound_streams  # type: ignore[assignment]
        if chunk.stream_id not in streams:
            if chunk.stream_id not in self._data_channels and (
                chunk.protocol != sctp.WEBRTC_DCEP
                or sum(stream not in self._data_channels for stream in streams) >= MAX_PEER_CHANNELS
            ):
                return None
            streams[chunk.stream_id] = InboundStream(self._budget)
        return streams[chunk.stream_id]

    async def _deliver(self, stream: InboundStream) -> None:
        self._account()
        for message in stream.pop_messages():
            await self._receive(*message)

    async def _receive(self, stream_id: int, pp_id: int, data: bytes) -> None:
        if self._is_acceptable(stream_id, pp_id, data):
            await super()._receive(stream_id, pp_id, data)

    def _is_acceptable(self, stream_id: int, pp_id: int, data: bytes) -> bool:
        """Whether aiortc can be given a message; counted if not."""
        channel = self._data_channels.get(stream_id)
        if pp_id == sctp.WEBRTC_DCEP:
            if data[0] == sctp.DATA_CHANNEL_ACK:
                good = channel is not None and not channel.negotiated
            else:
                good = data[0] == sctp.DATA_CHANNEL_OPEN and channel is None and _can_open(data)
            self.counters.bad_open += not good
            opened = sum(not channel.negotiated for channel in self._data_channels.values())
            if good and channel is None and opened >= MAX_PEER_CHANNELS:
                self.counters.channels_refused += 1
                good = False
            if channel is None and not good and (stream := self._inbound_streams.pop(stream_id, None)) is not None:
                stream.clear()  # type: ignore[attr-defined]
            return good
        if channel is None:
            self.counters.unknown_stream += 1
            return False
        if pp_id == sctp.WEBRTC_STRING:
            try:
                data.decode()
            except UnicodeDecodeError:
                self.counters.invalid_text += 1
                return False
        elif pp_id not in (sctp.WEBRTC_BINARY, sctp.WEBRTC_STRING_EMPTY, sctp.WEBRTC_BINARY_EMPTY):
            self.counters.unknown_protocol += 1
            return False
        return True

    def _prune(self) -> None:
        """Make room: give up what cannot be completed any more. In vain if nothing arrived since the last time."""
        if self._last_received_tsn is None or self._last_received_tsn == self._pruned_at:
            return
        self._pruned_at = self._last_received_tsn
        for stream in self._inbound_streams.values():
            stream.prune_chunks(self._last_received_tsn)
        self._account()

    def _account(self) -> None:
        self._advertised_rwnd = MAX_HELD_BYTES - self._budget.bytes
        self.counters.oversized = self._budget.oversized

    async def _reset_deferred_streams(self) -> None:
        request = self._reconfig_deferred
        last = self._last_received_tsn
        if request is not None and last is not None and uint32_gte(last, request.last_tsn):
            for stream_id in request.streams:
                if (stream := self._inbound_streams.pop(stream_id, None)) is not None:
                    stream.clear()  # type: ignore[attr-defined]
            self._account()
        await super()._reset_deferred_streams()

    # Acknowledging

    async def _acknowledge(self) -> None:
        urgent = self._ack_urgent or bool(self._sack_misordered)
        if self._acks.received(urgent):
            await self._send_sack()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(AckPolicy.DELAY, self._ack_timer_expired)

    def _ack_timer_expired(self) -> None:
        self._ack_timer = None
        if self._sack_needed:
            self._start(self._send_sack)

    async def _send_sack(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        self._acks.acknowledged()
        self._ack_urgent = False
        last = self._last_received_tsn
        assert last is not None
        gaps: list[tuple[int, int]] = []
        for position in sorted((tsn - last) % sctp.SCTP_TSN_MODULO for tsn in self._sack_misordered):
            if gaps and position == gaps[-1][1] + 1:
                gaps[-1] = gaps[-1][0], position
            elif len(gaps) < MAX_GAPS:
                gaps.append((position, position))
            else:
                break
        sack = sctp.SackChunk()
        sack.cumulative_tsn = last
        sack.advertised_rwnd = max(0, self._advertised_rwnd)
        sack.duplicates = self._sack_duplicates[:]
        sack.gaps = list(gaps)
        self._sack_duplicates.clear()
        self._sack_needed = False
        self.counters.acknowledgements += 1
        await self._send_chunk(sack)

    def _reconfig_timer_expired(self) -> None:
        """As aiortc, but a peer that never answers to the closing of a channel loses that channel alone."""
        request = self._reconfig_request
        if request is None or self._reconfig_failures < sctp.SCTP_MAX_ASSOCIATION_RETRANS or self._reconfig_in_progress:
            super()._reconfig_timer_expired()
            return
        self._reconfig_handle = None
        self._reconfig_request = None
        for stream_id in request.streams:
            if stream_id in self._data_channels:
                self._data_channel_closed(stream_id)
        self._start(self._transmit_reconfig)

    def _set_state(self, state: sctp.RTCSctpTransport.State) -> None:
        super()._set_state(state)
        if state == self.State.CLOSED and self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None


def _can_open(message: bytes) -> bool:
    try:
        check_open(message)
    except ProtocolError:
        return False
    return True
