"""The UE's way to the edge and back: coded frames out, results in, every frame's end told exactly once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models import parse_detections
from pipeline.alarm import Alarm
from pipeline.ledger import Ledger
from pipeline.outcome import FrameResult, Timings
from pipeline.outcome import Status as Outcome
from pipeline.sources.base import RateLimit
from rtc import (
    OUTPUT_DETECTIONS,
    OUTPUT_TENSORS,
    DropReason,
    LinkStatistics,
    OutgoingFrame,
    Status,
    is_result,
    parse_result,
    units_of_frame,
)
from splitrtc_errors import ProtocolError

if TYPE_CHECKING:
    from models import DecodedFrame, Detections
    from pipeline.device import CodedFrame, Device
    from pipeline.frames import Frame
    from pipeline.tensors_down import OutputReceiver
    from rtc import Dropped, Peer, ReceivedFrame, Result

__all__ = ["Finish", "Uplink"]

LOOK_BACK = 8
"""Frames before an answered one of which the answer may show that they never came."""

Finish = Callable[[FrameResult], None]
"""Is told how a frame ended."""


@dataclass(slots=True)
class _InFlight:
    """A frame that was handed to the sender, and what came of it so far."""

    frame: Frame
    coded: CodedFrame
    unit_sizes: tuple[int, ...]
    capture_us: int
    finish: Finish
    result: Result | None = None
    returned: DecodedFrame | None = None
    """The outputs of a model that gives tensors: they come apart from the result, before or after it."""


class Uplink:
    """Sends the frames of one parameter set and matches the results to them. The lane of the session's runs.

    Every frame that is submitted ends once: answered, refused by the edge, dropped by the sender, or lost when its
    time budget is over or the session is. To be used in the thread of the event loop, `process` apart.
    """

    mode = "split"

    def __init__(
        self,
        peer: Peer,
        device: Device,
        set_id: int,
        *,
        budget: float,
        threshold: float,
        counters: Counter[str],
        fps: float | None = None,
        outputs: OutputReceiver | None = None,
    ) -> None:
        """Take over the peer's results.

        Args:
            peer: an open connection.
            device: makes the frames of the parameter set ``set_id``, which the edge has acknowledged.
            set_id: its id.
            budget: seconds from capture for which a frame is worth something.
            threshold: lowest score of a detection that is shown.
            counters: counts what came and could not be used, by kind.
            fps: frames per second that the edge wants at most; None when it takes what it was offered.
            outputs: receives the outputs of a model that gives tensors; None for one that detects.
        """
        self.device = device
        self.statistics = LinkStatistics()
        self._peer = peer
        self._budget = budget
        self._counters = counters
        self._set_id = set_id
        self._threshold = threshold
        self._outputs = outputs
        if outputs is not None:
            outputs.on_frame = self._on_outputs
        self._rate_limit = RateLimit(fps)
        self._ledger: Ledger[_InFlight] = Ledger()
        self._expiry = Alarm(self._expire)
        self._answered_last: int | None = None
        self._newest = 0
        """Id of the newest frame that was handed to the sender."""
        self._settled = asyncio.Event()
        self._settled.set()
        self._over = False
        peer.on_result = self._on_result
        peer.on_dropped = self._on_dropped

    def describe(self) -> dict[str, Any]:
        """The operating point, as plain values."""
        point = self.device.point
        return {
            "model": point.card.name,
            "partition": point.cut.name,
            "profile": point.profile,
            "variant": None if point.is_video else point.variant,
            "provider": self.device.provider,
        }

    def admits(self, frame: Frame) -> bool:
        """Whether the edge wants this frame, by its capture time; in the worker thread."""
        return self._rate_limit.admits(frame.captured)

    def process(self, frame: Frame) -> CodedFrame:
        """The device's share of a frame; in the worker thread."""
        return self.device.process(frame)

    def submit(self, frame: Frame, coded: CodedFrame, finish: Finish) -> None:
        """Hand a coded frame to the sender, which may replace it by a newer one. How it ends is told to ``finish``."""
        capture_us = int(frame.captured * 1e6)
        data = coded.coded
        units = units_of_frame(self._set_id, coded.frame_id, capture_us, data.slices, data.intra, data.reference)
        sizes = tuple(map(len, units))
        if self._enter(frame, coded, sizes, capture_us, finish):
            self.statistics.sent(coded.frame_id, sum(sizes), len(units), time.monotonic())
            self._peer.sender.offer(OutgoingFrame(coded.frame_id, units, frame.captured + self._budget))

    def _enter(self, frame: Frame, coded: CodedFrame, sizes: tuple[int, ...], capture_us: int, finish: Finish) -> bool:
        """Enter a frame into the books; False if it ends here, since the session was over before it was ready."""
        in_flight = _InFlight(frame, coded, sizes, capture_us, finish)
        if self._over:  # while the device did its part
            self._finish(in_flight, "skipped", dropped_at="link", bytes_sent=0)
            return False
        self._newest = coded.frame_id
        self._settled.clear()
        for crowded in self._ledger.open(coded.frame_id, in_flight, frame.captured + self._budget):
            self._finish(crowded.item, "lost", dropped_at="network")
        self._expiry.set(self._ledger.next_expiry())
        return True

    async def settle(self) -> None:
        """Return when nothing is in flight any more."""
        await self._settled.wait()

    def forget(self) -> None:
        """Nobody is interested in what is still in flight."""
        self._ledger.clear()
        self._closed_one()

    def end(self) -> None:
        """The session is over: nothing in flight will be answered, and nothing more is sent."""
        self._over = True
        for entry in self._ledger.clear():
            self._finish(entry.item, "lost", dropped_at="network")
        self._closed_one()

    # What becomes of frames.

    def _read(self, data: bytes) -> Result:
        return parse_result(data)

    def _on_result(self, data: bytes) -> None:
        if self._outputs is not None and not is_result(data):
            self._outputs.receive(data, self._newest)
            return
        result = self._read(data)
        if result.heartbeat:
            return
        if result.frame_id == self._answered_last:
            self._counters["results_repeated"] += 1
            return
        self._answered_last = result.frame_id
        self._acknowledge(result)
        in_flight = self._ledger.get(result.frame_id)
        if in_flight is None or in_flight.result is not None:
            self._counters["results_too_late" if in_flight is None else "results_repeated"] += 1
            return
        try:
            self._answered(in_flight, result)
        except ProtocolError:
            self._close(in_flight, "error", dropped_at="result")
            raise

    def _on_outputs(self, frame: ReceivedFrame, decoded: DecodedFrame | None) -> None:
        """What came back of a frame's tensors; None when it was passed over for a newer one."""
        in_flight = self._ledger.get(frame.frame_id)
        if in_flight is None:
            self._counters["outputs_too_late"] += 1
        elif frame.capture_us != in_flight.capture_us:
            self._counters["outputs_contradicting"] += 1
            self._close(in_flight, "error", dropped_at="result")
        elif decoded is None:
            self._close(in_flight, "skipped", dropped_at="outputs")
        else:
            in_flight.returned = decoded
            if in_flight.result is not None:
                self._complete(in_flight, in_flight.result, decoded)

    def _acknowledge(self, result: Result) -> None:
        """Tell the device's encoder what the edge's decoder got."""
        received = result.received_flags()
        if not result.taken_in:
            self.device.acknowledge(result.frame_id, [False] * result.slices)
        elif result.status is Status.OK or not all(received):
            self.device.acknowledge(result.frame_id, received)
        # Else a slice was damaged, and nobody says which: an encoder had better not predict from that frame.
        for frame_id in range(result.frame_id - LOOK_BACK, result.frame_id):
            in_flight = self._ledger.get(frame_id)
            # Of one slice, and it had not come when a later frame was decoded: if it still comes, it is not decoded.
            if in_flight is not None and len(in_flight.unit_sizes) == 1 and result.was_complete(frame_id) is False:
                self.device.acknowledge(frame_id, [False])

    def _on_dropped(self, dropped: Dropped) -> None:
        self.statistics.dropped(dropped.frame_id, dropped.slices_sent)
        in_flight = self._ledger.close(dropped.frame_id)
        if in_flight is not None:
            if not dropped.slices_sent:
                self.device.acknowledge(dropped.frame_id, [False] * len(in_flight.unit_sizes))
            sent = sum(in_flight.unit_sizes[: dropped.slices_sent])
            if dropped.reason is DropReason.CLOSED:
                self._finish(in_flight, "lost", dropped_at="network", bytes_sent=sent)
            else:
                where = "sender" if dropped.reason is DropReason.REPLACED else "sender deadline"
                self._finish(in_flight, "skipped", dropped_at=where, bytes_sent=sent)
        self._closed_one()

    def _expire(self) -> None:
        self._peer.sender.expire()  # what it still holds of them ends there, not in the network
        for entry in self._ledger.expire(time.monotonic()):
            self._finish(entry.item, "lost", dropped_at="network")
        self._closed_one()

    def _closed_one(self) -> None:
        self._expiry.set(self._ledger.next_expiry())
        if not self._ledger:
            self._settled.set()

    def _answered(self, in_flight: _InFlight, result: Result) -> None:
        """Take the edge's word on a frame. Raises ProtocolError when that makes no sense."""
        frame = in_flight.frame
        if (result.capture_us, result.slices) != (in_flight.capture_us, len(in_flight.unit_sizes)):
            raise ProtocolError("a result contradicts the frame that it answers")
        detections: Detections | None = None
        if result.status.has_output and self._outputs is not None:
            if result.output_kind != OUTPUT_TENSORS:
                raise ProtocolError(f"a result with an output of kind {result.output_kind}, expected tensors")
        elif result.status.has_output:
            if result.output_kind != OUTPUT_DETECTIONS:
                raise ProtocolError(f"a result with an output of kind {result.output_kind}, expected detections")
            found = parse_detections(result.output)
            labels = self.device.point.card.labels
            if len(found) and int(found.classes.max()) >= len(labels):
                raise ProtocolError(f"a result with class {found.classes.max()}, the model has {len(labels)}")
            detections = self.device.place(found.at_least(self._threshold), frame)
        remote = (result.queue_us + result.decode_us + result.tail_us + result.post_us) / 1e6
        self.statistics.answered(result.frame_id, frame.captured, remote, result.received_count, time.monotonic())
        in_flight.result = result
        if not result.status.has_output:
            self._close(in_flight, STATUS_NAMES[result.status], dropped_at="edge")
        elif detections is not None:
            self._close(in_flight, STATUS_NAMES[result.status], detections=detections)
        elif in_flight.returned is not None:
            self._complete(in_flight, result, in_flight.returned)

    def _complete(self, in_flight: _InFlight, result: Result, returned: DecodedFrame) -> None:
        """Both are there: the result, and the tensors that belong to it."""
        whole = result.status is Status.OK and not returned.concealed and not returned.damaged_slices
        self._close(in_flight, "ok" if whole else "incomplete", returned=returned)

    def _close(
        self,
        in_flight: _InFlight,
        status: Outcome,
        *,
        dropped_at: str | None = None,
        detections: Detections | None = None,
        returned: DecodedFrame | None = None,
    ) -> None:
        """End a frame that is in flight."""
        self._ledger.close(in_flight.coded.frame_id)
        self._finish(in_flight, status, dropped_at=dropped_at, detections=detections, returned=returned)
        self._closed_one()

    def _finish(
        self,
        in_flight: _InFlight,
        status: Outcome,
        *,
        dropped_at: str | None = None,
        bytes_sent: int | None = None,
        detections: Detections | None = None,
        returned: DecodedFrame | None = None,
    ) -> None:
        completed = time.monotonic()
        card = self.device.point.card
        # Of a frame that ends on this side, for want of its tensors, the result does not count.
        result = None if status in ("lost", "skipped") else in_flight.result
        tensors = None
        if returned is not None:
            tensors = {spec.name: tensor for spec, tensor in zip(card.outputs, returned.tensors, strict=True)}
        in_flight.finish(
            FrameResult(
                frame=in_flight.frame,
                status=status,
                mode=self.mode,
                frame_id=in_flight.coded.frame_id,
                dropped_at=dropped_at,
                detections=detections,
                tensors=tensors,
                labels=card.labels,
                share_received=1.0 - result.concealed if result else 0.0,
                share_returned=1.0 if returned is None else 1.0 - returned.concealed,
                timings=_timings(in_flight, result, completed),
                bytes_sent=sum(in_flight.unit_sizes) if bytes_sent is None else bytes_sent,
                completed=completed,
            )
        )


STATUS_NAMES: tuple[Outcome, ...] = ("ok", "incomplete", "superseded", "late", "error")
"""The outcome for each status on the wire (docs/protocol.md, section 3.2)."""


def _timings(in_flight: _InFlight, result: Result | None, completed: float) -> Timings:
    """Where the frame's time went. What nobody measured, of an answered frame, is the network's share."""
    coded = in_flight.coded
    device = {"wait": coded.wait, "preprocess": coded.preprocess, "head": coded.head, "encode": coded.encode}
    if result is None:
        return Timings(**device)
    edge = {
        "queue": result.queue_us / 1e6,
        "decode": result.decode_us / 1e6,
        "tail": result.tail_us / 1e6,
        "post": result.post_us / 1e6,
    }
    total = completed - in_flight.frame.captured
    return Timings(**device, **edge, network=total - sum(device.values()) - sum(edge.values()), total=total)
