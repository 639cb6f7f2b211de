"""The camera as a WebRTC video track (VP8): the newest picture goes out, and each is known by its RTP timestamp.

aiortc encodes, controls the rate (REMB), sends lost packets again (NACK) and makes key frames when they are asked for
(PLI). What it receives it hands to a `Vp8Assembler`, not to a decoder of its own (`rtc.transport`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
from aiortc import MediaStreamTrack, RTCRtpSender
from aiortc.mediastreams import VIDEO_CLOCK_RATE, VIDEO_TIME_BASE
from av import VideoFrame

from .pictures import OutgoingPicture, SentPicture, Totals
from .sender import Dropped, DropReason

__all__ = ["PictureTrack"]


class PictureTrack(MediaStreamTrack):
    """A track that sends the newest picture only: one waits while another is encoded, and a newer one replaces it.

    Every picture offered ends in `on_sent` or in `on_dropped`, apart from the one in the encoder when the track ends.
    """

    kind = "video"

    def __init__(
        self,
        on_sent: Callable[[SentPicture], None],
        on_dropped: Callable[[Dropped], None],
        totals: Callable[[RTCRtpSender], Totals],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.sender: RTCRtpSender | None = None
        """Who sends the track; set before anything is offered."""
        self._on_sent = on_sent
        self._on_dropped = on_dropped
        self._totals = totals
        self._clock = clock
        self._pending: OutgoingPicture | None = None
        self._encoding: tuple[OutgoingPicture, float] | None = None
        self._before = Totals(0, 0, 0)
        self._wake = asyncio.Event()
        self._origin: float | None = None
        self._pts = -1

    def offer(self, picture: OutgoingPicture) -> None:
        """Send a picture as soon as the encoder is free, unless a newer one comes before."""
        if self.readyState == "ended":
            self._on_dropped(Dropped(picture.frame_id, DropReason.CLOSED, 0))
            return
        self._drop_waiting(DropReason.REPLACED)
        self._pending = picture
        self._wake.set()

    def expire(self) -> None:
        """Drop what waits, if its time is over."""
        if self._pending is not None and self._clock() >= self._pending.expires:
            self._drop_waiting(DropReason.EXPIRED)

    def stop(self) -> None:
        """End the track; what waits is dropped."""
        super().stop()
        self._drop_waiting(DropReason.CLOSED)

    async def recv(self) -> VideoFrame:
        """The next picture, for aiortc's sender, which asks when it has sent the one before."""
        self._sent()
        while self._pending is None:
            self._wake.clear()
            await self._wake.wait()
            self.expire()
        picture, self._pending = self._pending, None
        self._encoding = picture, self._clock()
        planes = np.frombuffer(picture.i420, np.uint8).reshape(picture.height * 3 // 2, picture.width)
        frame = VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = self._next_pts(picture.captured), VIDEO_TIME_BASE
        return frame

    def _next_pts(self, captured: float) -> int:
        """The time of capture in RTP's unit: it tells the encoder the frame rate. No two frames have the same."""
        if self._origin is None:
            self._origin = captured
        self._pts = max(self._pts + 1, round((captured - self._origin) * VIDEO_CLOCK_RATE))
        return self._pts

    def _sent(self) -> None:
        """Tell what the picture that was encoded last was sent as: no packet of it is still to come."""
        if self._encoding is None:
            return
        assert self.sender is not None
        (picture, began), self._encoding = self._encoding, None
        before, self._before = self._before, self._totals(self.sender)
        now = self._before
        if (packets := now.packets - before.packets) > 0:
            taken = self._clock() - began
            self._on_sent(SentPicture(picture.frame_id, now.timestamp, packets, now.size - before.size, taken))
        else:  # the encoder passed it over
            self._on_dropped(Dropped(picture.frame_id, DropReason.REPLACED, 0))

    def _drop_waiting(self, reason: DropReason) -> None:
        if self._pending is not None:
            dropped, self._pending = self._pending, None
            self._on_dropped(Dropped(dropped.frame_id, reason, 0))
