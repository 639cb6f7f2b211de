"""The sending half of our SCTP transport: what may be in flight, and when a chunk counts as lost.

aiortc's own algorithm goes on underneath. What this overrides: the window that it sees while it transmits, the
round-trip time, the timers, and how messages are put together into bursts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from aiortc import RTCDataChannel
from aiortc import rtcsctptransport as sctp
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.utils import uint32_gt, uint32_gte

from splitrtc_errors import ProtocolError

from .congestion import CongestionWindow, RoundTrip
from .link_rate import LinkRate
from .sctp_counters import SctpCounters
from .sctp_wire import check_gaps
from .sender import LinkLoad

__all__ = ["SendingTransport"]

IMMEDIATE = 0x08
"""The I-bit (RFC 9260, section 3.3.1): the sender asks for an acknowledgement at once."""

_CHUNK = sctp.USERDATA_MAX_LENGTH

_BURST = 0.005
"""Seconds within which chunks count as sent together: they time out together, and double the timeout once."""

_log = logging.getLogger(__name__)


class SendingTransport(sctp.RTCSctpTransport):
    """aiortc's transport with another way to send."""

    def __init__(self, transport: RTCDtlsTransport, port: int = 5000) -> None:
        self._reno_window = 0
        self._transmitting = False
        super().__init__(transport, port)
        self.counters = SctpCounters()
        self.round_trip = RoundTrip()
        self.congestion = CongestionWindow()
        self.link_rate = LinkRate()
        self._waited = False
        self._rto = self.round_trip.rto
        self._flush_due = False
        self._flushing = False
        self._last_chunk: sctp.DataChunk | None = None
        self._forward_after = 0.0
        self._tail_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _set_state(self, state: sctp.RTCSctpTransport.State) -> None:
        super()._set_state(state)
        if state == self.State.CLOSED and self._tail_timer is not None:
            self._tail_timer.cancel()
            self._tail_timer = None

    # Bursts

    @property
    def _cwnd(self) -> int:
        """Reno's window, which aiortc keeps; ours while it transmits."""
        if self._transmitting:
            return self._window
        return self._reno_window

    @_cwnd.setter
    def _cwnd(self, window: int) -> None:
        self._reno_window = window

    @property
    def _window(self) -> int:
        return int(self.congestion.window(self._reno_window / _CHUNK, self.link_rate.rate / _CHUNK) * _CHUNK)

    def _data_channel_send(self, channel: RTCDataChannel, data: bytes | str) -> None:
        """As aiortc does it, but with one task for all that is sent in a turn of the event loop."""
        if isinstance(data, str):
            protocol, payload = sctp.WEBRTC_STRING, data.encode()
            if not payload:
                protocol, payload = sctp.WEBRTC_STRING_EMPTY, b"\x00"
        else:
            protocol, payload = (sctp.WEBRTC_BINARY, data) if data else (sctp.WEBRTC_BINARY_EMPTY, b"\x00")
        limit = self._remote_max_message_size
        if limit and len(payload) > limit:
            raise ValueError(f"cannot send {len(payload)} bytes, the peer takes messages of {limit} at most")
        channel._addBufferedAmount(len(payload))
        self._data_channel_queue.append((channel, protocol, payload))
        if not self._flushing and not self._flush_due:
            self._flush_due = True
            self._start(self._data_channel_flush)

    async def _data_channel_flush(self) -> None:
        self._flush_due = False
        if self._flushing:
            return
        self._flushing = True
        try:
            await super()._data_channel_flush()
        finally:
            self._flushing = False
            await self._send_last()

    async def _transmit(self) -> None:
        now = time.monotonic()
        if self._forward_tsn_chunk is not None:
            if now < self._forward_after:
                # It is made again with the next acknowledgement; T3 sees to it when none comes.
                self._forward_tsn_chunk = None
                if not self._t3_handle:
                    self._t3_start()
            else:
                self._forward_after = now + self.round_trip.pause
        if self._transmitting:
            # Only where sending really waits (a TURN server): who transmits already takes what was added.
            return
        self._transmitting = True
        try:
            await super()._transmit()
            self._waited = bool(self._outbound_queue)
        finally:
            self._transmitting = False
            if not self._flushing:
                await self._send_last()

    async def _send_chunk(self, chunk: sctp.Chunk) -> None:
        if isinstance(chunk, sctp.DataChunk):
            chunk._train = self.link_rate.sent(self._waited, time.monotonic())  # type: ignore[attr-defined]
            # One behind, so that the last one of a burst can ask for an acknowledgement at once.
            self._last_chunk, chunk = chunk, self._last_chunk
            if chunk is None:
                return
        await self._send_now(chunk)

    async def _send_last(self) -> None:
        chunk, self._last_chunk = self._last_chunk, None
        if chunk is not None:
            chunk.flags |= IMMEDIATE
            await self._send_now(chunk)

    async def _send_now(self, chunk: sctp.Chunk) -> None:
        if isinstance(chunk, sctp.DataChunk):
            chunk._sent_time = time.monotonic()
            if self._is_tail(chunk):
                self._watch_tail_in(self.round_trip.chunk_timeout)
        await super()._send_chunk(chunk)

    def _start(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step in a task of its own, whose end nobody awaits."""
        task = asyncio.ensure_future(self._unless_gone(step))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unless_gone(self, step: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(ConnectionError):
            await step()

    # Learning what arrived

    async def _receive_sack_chunk(self, chunk: sctp.SackChunk) -> None:
        if uint32_gt(self._last_sacked_tsn, chunk.cumulative_tsn):
            return  # overtaken by a newer one
        newest = sctp.tsn_minus_one(self._outbound_queue[0].tsn if self._outbound_queue else self._local_tsn)
        outstanding = (newest - self._last_sacked_tsn) % sctp.SCTP_TSN_MODULO
        left = (newest - chunk.cumulative_tsn) % sctp.SCTP_TSN_MODULO
        try:
            if left > outstanding:
                raise ProtocolError("SCTP SACK of chunks that were never sent")
            check_gaps(chunk.gaps, left)
        except ProtocolError as error:
            self.counters.bad_acknowledgements += 1
            _log.debug("dropped: %s", error)
            return
        self._learn(chunk)
        await super()._receive_sack_chunk(chunk)

    def _learn(self, sack: sctp.SackChunk) -> None:
        """Take the round-trip time from the newest chunk that is newly acknowledged, also beyond a gap."""
        now = time.monotonic()
        limited = self._waited or self._flight_size + _CHUNK > self._window
        count, size, newest = 0, 0, None
        for chunk in self._sent_queue:
            position = (chunk.tsn - sack.cumulative_tsn) % sctp.SCTP_TSN_MODULO
            if not chunk._acked and (
                uint32_gte(sack.cumulative_tsn, chunk.tsn) or any(start <= position <= end for start, end in sack.gaps)
            ):
                count, size, newest = count + 1, size + chunk._book_size, chunk
        if newest is None:
            return
        measured = None
        if newest._sent_count == 1 and newest._sent_time is not None:
            measured = now - newest._sent_time
            self.round_trip.sample(measured)
            self._rto = self.round_trip.rto
        self.congestion.acknowledged(count, measured, limited, self.round_trip.pause, now)
        self.link_rate.acknowledged(newest._train, count, size, now)  # type: ignore[attr-defined]

    def load(self) -> LinkLoad:
        """For how long a chunk sent now would stand in the queue behind those in flight, and the link's rate."""
        if self.congestion.uses_reno:
            return LinkLoad()  # others fill the queue, whether we wait or not
        rate = self.link_rate.rate
        return LinkLoad((self._flight_size + _CHUNK) / rate - self.congestion.shortest, rate)

    def _update_rto(self, R: float) -> None:  # noqa: N803
        """Not from here: aiortc only measures the first chunk that is acknowledged cumulatively, by the wall clock."""

    def _maybe_abandon(self, chunk: sctp.DataChunk) -> bool:
        if chunk._abandoned:
            return True
        self.congestion.lost()
        abandoned = super()._maybe_abandon(chunk)
        self.counters.abandoned += abandoned
        return abandoned

    # Timers

    def _watch_tail_in(self, seconds: float) -> None:
        """Come back then, or earlier."""
        loop = asyncio.get_running_loop()
        if self._tail_timer is not None:
            if self._tail_timer.when() <= loop.time() + seconds:
                return
            # It was set when the path was thought to be longer.
            self._tail_timer.cancel()
        self._tail_timer = loop.call_later(seconds, self._watch_tail)

    def _watch_tail(self) -> None:
        """Give up unreliable chunks that were not acknowledged in time, and come back for the next."""
        self._tail_timer = None
        now = time.monotonic()
        timeout = self.round_trip.chunk_timeout
        expired = False
        for chunk in self._sent_queue:
            if not self._is_tail(chunk):
                continue
            assert chunk._sent_time is not None
            left = chunk._sent_time + timeout - now
            if left > _BURST:
                self._watch_tail_in(left)
                break
            expired |= self._maybe_abandon(chunk)
        if expired:
            self.round_trip.expired()
            if self.round_trip.is_silent:
                self.congestion.timed_out()
            self._update_advanced_peer_ack_point()
            self._start(self._go_on)

    @staticmethod
    def _is_tail(chunk: sctp.DataChunk) -> bool:
        """Whether a chunk is under way that will not be sent again."""
        return chunk._in_flight and chunk._max_retransmits is not None and chunk._sent_count > chunk._max_retransmits

    async def _go_on(self) -> None:
        await self._data_channel_flush()
        await self._transmit()

    def _t3_expired(self) -> None:
        """As aiortc, but only if a chunk in flight really has waited that long: its timer may be an older chunk's."""
        sent = [chunk._sent_time for chunk in self._sent_queue if chunk._in_flight and chunk._sent_time is not None]
        left = min(sent) + self.round_trip.rto - time.monotonic() if sent else 0.0
        if left > 0.001:
            self._t3_handle = asyncio.get_running_loop().call_later(left, self._t3_expired)
            return
        self.round_trip.expired()
        self._rto = self.round_trip.rto
        if sent:
            self.congestion.timed_out()
        super()._t3_expired()
        for chunk in self._sent_queue:
            if chunk._acked:
                chunk._retransmit = False
