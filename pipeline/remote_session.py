"""One UE's session at the edge in the `remote` mode: video in, results out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from models import DecodedFrame, Decoder, Preprocessor
from models.pictures import bgr_of, even_size
from pipeline.edge_session import FRAMES_OF_LOSS, EdgeSession
from rtc import ReceivedFrame, key_size
from splitrtc_errors import CodecError

if TYPE_CHECKING:
    from models import ModelCard
    from pipeline.edge_session import _Computed
    from pipeline.offers import OperatingPoint
    from rtc import VideoFrame
    from signaling import ParameterSet

__all__ = ["VideoDecoder", "VideoSession"]

UNUSED_VIDEO = ("oversized", "stale", "given_up", "malformed", "without_key")
"""Counters of the video stream that tell of packets and frames dropped."""


class VideoDecoder(Decoder):
    """Turns VP8 frames, numbered without gaps, into a model's input. For pictures of that input's size alone."""

    needs_every_frame = True

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self._size = card.image_size
        self._loaded: tuple[Any, Any, Preprocessor] | None = None
        self._last = 0
        """The frame decoded last; 0 when there is none from which another can be predicted."""

    def decode(
        self,
        frame_id: int,
        slices: Sequence[bytes | memoryview | None],
        intra: bool = True,
        reference: int | None = None,
    ) -> DecodedFrame:
        """Decode a frame, which is one slice; CodecError when it cannot be, or when the one before it was not."""
        data = bytes(slices[0] or b"")
        if not intra and self._last != frame_id - 1:
            raise CodecError("a video frame is predicted from one that was not decoded")
        self._last = 0
        # The decoder takes the memory that a key frame asks for: up to 16 383 x 16 383 pixels.
        if intra and key_size(data) != even_size(self._size):
            raise CodecError(f"a key frame of {key_size(data)} pixels, expected {even_size(self._size)}")
        av, context, preprocessor = self._load()
        try:
            pictures = context.decode(av.Packet(data))
        except av.FFmpegError as error:
            raise CodecError(f"a video frame cannot be decoded: {error.strerror}") from None
        if len(pictures) != 1:
            raise CodecError(f"a video frame of {len(pictures)} pictures")
        self._last = frame_id
        picture = bgr_of(pictures[0].to_ndarray(), self._size)
        return DecodedFrame([preprocessor.prepare(picture)], 0.0, 0)

    def _load(self) -> tuple[Any, Any, Preprocessor]:
        """In a worker's thread, at the first frame: the libraries take a while to load."""
        if self._loaded is None:
            import av

            # FFmpeg's own: it does nothing before it knows the size, and has no threads besides the caller's.
            context = av.CodecContext.create("vp8", "r")
            context.thread_count = 1
            self._loaded = av, context, Preprocessor(self._card)
        return self._loaded


class VideoSession(EdgeSession):
    """Decodes a UE's video, runs the whole model on the newest picture and answers every frame that it was sent.

    In a result for a video frame the capture time is the frame's RTP timestamp, by which the UE knows it.
    """

    max_waiting = 32
    """When a packet that was missing comes at last, all frames that came after it come at once: of some 0.3 s."""

    _set_id: int | None = None
    """The parameter set announced last."""
    _gaps = 0
    """In the video so far."""

    async def serve(self) -> str:
        """Serve until the session is over; returns why it ended."""
        self._peer.on_video = self._on_video
        self._peer.admits_video = self._admits_packet
        return await super().serve()

    def _open_decoder(self, announced: ParameterSet, point: OperatingPoint) -> Decoder:
        if self._set_id is not None:
            self._peer.need_key_frame()  # the new decoder knows nothing of what went before
        self._set_id = announced.id
        return VideoDecoder(point.card)

    def _admits_packet(self, size: int) -> bool:
        return self._admits(self._intake.unit(size, time.monotonic()), "video packets")

    def _on_video(self, frame: VideoFrame) -> None:
        if self._set_id is None:
            self._outcomes["video_without_set"] += 1
            return
        if (gaps := self._peer.video_counters.gaps) != self._gaps:
            self._gaps, self._results_to_repeat = gaps, FRAMES_OF_LOSS
        self._hand_over(
            ReceivedFrame(
                aips_id=self._set_id,
                frame_id=frame.number,
                capture_us=frame.timestamp,
                count=1,
                intra=frame.key,
                reference=None,
                slices=[frame.data],
                first_at=frame.first_at,
                ready_at=frame.ready_at,
                complete=True,
            )
        )

    def _answer(self, frame: ReceivedFrame, computed: _Computed) -> None:
        super()._answer(frame, computed)
        if not (computed.decoded or computed.status.has_output):
            self._peer.need_key_frame()

    def _count(self) -> None:
        super()._count()
        for name in UNUSED_VIDEO:
            if count := getattr(self._peer.video_counters, name):
                self._outcomes[f"video_{name}"] += count
