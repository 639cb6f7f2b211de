"""The `remote` mode at the UE: the camera as a video track, the whole model at the edge.

Frames and results are matched by RTP timestamp. The one under which a picture went out is read from the sender that
sent it, and the edge echoes that of the picture in which it found something: what is lost in between, and when, and
which random origin the timestamps have, does not matter.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from models import EncodedFrame, Preprocessor
from models.pictures import even_size, i420_of
from pipeline.device import CodedFrame
from pipeline.ledger import MAX_IN_FLIGHT
from pipeline.uplink import Uplink
from rtc import OutgoingPicture

if TYPE_CHECKING:
    from models import Detections, TensorSpec
    from pipeline.device import Device
    from pipeline.frames import Frame
    from pipeline.offers import OperatingPoint
    from pipeline.uplink import Finish
    from rtc import Peer, Result, SentPicture

__all__ = ["RemoteLane", "RemotePart"]


class RemotePart:
    """What the device does to a picture before it is sent: it brings it to the size of the model's input.

    Build and call it in one worker thread at a time. Needs the model's card, none of its files.
    """

    provider = "none"
    """The head is empty: there is no runtime."""

    def __init__(self, point: OperatingPoint) -> None:
        self.point = point
        self.crossing: tuple[TensorSpec, ...] = (point.card.image,)
        self._preprocessor = Preprocessor(point.card)
        self._frame_ids = itertools.count(1)

    def for_new_session(self) -> Self:
        """The same for another session, which counts its frames from 1."""
        other = copy.copy(self)
        other._frame_ids = itertools.count(1)
        return other

    def process(self, frame: Frame) -> CodedFrame:
        """Prepare one frame, under the session's next frame id; its one slice holds the planes of an I420 picture."""
        frame_id = next(self._frame_ids)
        started = time.monotonic()
        picture = self._preprocessor.fit(frame.image)
        fitted = time.monotonic()
        planes = i420_of(picture).tobytes()
        encode = time.monotonic() - fitted
        return CodedFrame(frame_id, EncodedFrame([planes]), started - frame.captured, fitted - started, 0.0, encode)

    def acknowledge(self, frame_id: int, received: list[bool]) -> None:
        """Nothing to do: the video codec has acknowledgements of its own."""

    def place(self, detections: Detections, frame: Frame) -> Detections:
        """Detections in model-input pixels, moved into the pixels of the frame they were found in."""
        boxes = self._preprocessor.undo(detections.xyxy, (frame.width, frame.height))
        return replace(detections, xyxy=boxes)


class RemoteLane(Uplink):
    """Sends pictures as video and matches the results to them. The lane of the session's runs in the `remote` mode."""

    mode = "remote"

    def __init__(self, peer: Peer, device: Device, set_id: int, **options: Any) -> None:
        """Arguments as for `Uplink`; the edge has accepted the connection's video."""
        super().__init__(peer, device, set_id, **options)
        self._size = even_size(device.point.card.image_size)
        self._sent_as: OrderedDict[int, int] = OrderedDict()
        """Frame ids by RTP timestamp, of the frames sent last."""
        peer.on_picture_sent = self._on_sent

    def submit(self, frame: Frame, coded: CodedFrame, finish: Finish) -> None:
        """Hand a picture to the video track, which may replace it by a newer one. How it ends is told to ``finish``."""
        if self._enter(frame, coded, (), 0, finish):
            (planes,) = coded.coded.slices
            expires = frame.captured + self._budget
            self._peer.video.offer(OutgoingPicture(coded.frame_id, *self._size, planes, frame.captured, expires))

    def _on_sent(self, sent: SentPicture) -> None:
        self._sent_as[sent.timestamp] = sent.frame_id
        if len(self._sent_as) > MAX_IN_FLIGHT:
            self._sent_as.popitem(last=False)
        self.statistics.sent(sent.frame_id, sent.size, 1, time.monotonic())
        in_flight = self._ledger.get(sent.frame_id)
        if in_flight is not None:  # else its time was over meanwhile
            coded = replace(in_flight.coded, encode=in_flight.coded.encode + sent.seconds)
            self._ledger.replace(sent.frame_id, replace(in_flight, coded=coded, unit_sizes=(sent.size,)))

    def _read(self, data: bytes) -> Result:
        """A result, for the frame that was sent under its timestamp; frame 0 is none."""
        result = super()._read(data)
        return replace(result, frame_id=self._sent_as.get(result.capture_us, 0), capture_us=0)

    def _acknowledge(self, result: Result) -> None:
        pass

    def _expire(self) -> None:
        self._peer.video.expire()
        super()._expire()
