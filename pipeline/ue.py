"""The UE's session: signalling, the peer connection, the parameter set, frames out and results in.

`UeSession` is what ``splitrtc.connect`` returns; what happens to a stream of frames is in `pipeline.run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from models import PartitionStore, Zoo, parse_detections
from pipeline.alarm import Alarm
from pipeline.device import DevicePart
from pipeline.ledger import Ledger
from pipeline.offers import VARIANT, OperatingPoint, points
from pipeline.outcome import FrameResult, Timings
from pipeline.outcome import Status as Outcome
from pipeline.run import Run
from pipeline.settings import DEFAULT_FPS, UeSettings, ice_server
from pipeline.sinks import open_sink
from pipeline.sources import open_source
from rtc import (
    OUTPUT_DETECTIONS,
    DropReason,
    OutgoingFrame,
    Peer,
    Status,
    intermediate_attributes,
    parse_result,
    unit_payload_limit,
    units_of_frame,
)
from signaling import (
    MAX_OFFERS,
    Bye,
    ParameterSet,
    ParameterSetAck,
    ParameterSetReject,
    ParameterSetReleased,
    PeerFailure,
    SentSets,
    SignalingClient,
    attributes_of,
    check_answer,
    offers_of,
    parse_control,
    serialise_control,
)
from signaling.control import MAX_DEADLINE_MS
from splitrtc_errors import BadArgument, ConnectionLost, NegotiationTimeout, ProtocolError

if TYPE_CHECKING:
    from models import Detections
    from pipeline.device import CodedFrame
    from pipeline.frames import Frame
    from pipeline.sinks import Sink
    from pipeline.sources import Source
    from rtc import Dropped, Result
    from signaling import ControlMessage
    from signaling.client import Ending

__all__ = ["UeSession"]

logger = logging.getLogger(__name__)

_STATUS: dict[Status, Outcome] = {
    Status.OK: "ok",
    Status.INCOMPLETE: "incomplete",
    Status.SUPERSEDED: "superseded",
    Status.LATE: "late",
    Status.ERROR: "error",
}

FRAMES_WAITED_FOR = 1.5
"""Frame periods after its first slice for which the edge waits for the rest of a frame."""


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A frame that was handed to the sender."""

    frame: Frame
    coded: CodedFrame
    unit_sizes: tuple[int, ...]
    capture_us: int


class UeSession:
    """A session with an edge, as an asynchronous context manager.

    ::

        async with UeSession(UeSettings("ws://gpu-box:8787", token="...")) as session:
            async for result in session.run(0):
                print(result.detections)

    Entering connects; it raises Unreachable, NegotiationTimeout, a kind of Rejected, ProtocolError, UnknownModel or
    ModelError. Leaving says goodbye and frees everything: threads, sockets, tasks. One run at a time.
    """

    def __init__(self, settings: UeSettings) -> None:
        self.settings = settings
        self.counters: Counter[str] = Counter()
        """What came and could not be used, by kind."""
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="head")
        self.chores = ThreadPoolExecutor(1, thread_name_prefix="chores")
        self.budget = settings.budget
        self._zoo = Zoo(settings.models)
        self._store = PartitionStore()
        self._loop: asyncio.AbstractEventLoop
        self._stack = contextlib.AsyncExitStack()
        self._peer: Peer
        self._device: DevicePart | None = None
        self._sets = SentSets()
        self._set: ParameterSet | None = None
        self._set_answered = asyncio.Event()
        self._ledger: Ledger[_InFlight] = Ledger()
        self._expiry: Alarm
        self._settled = asyncio.Event()
        self._settled.set()
        self._run: Run | None = None
        self._lost: str | None = None
        self._closing: asyncio.Task[None] | None = None
        self._connecting: asyncio.Timeout | None = None
        self._waiting_for = ""

    # The life of the session.

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._expiry = Alarm(self._expire)
        try:
            await self._connect_in_time()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Say goodbye and free everything. May be called again, and at any time."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # Shielded, because a close of which half is done could not be resumed.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._run is not None:
            await self._run.aclose()
        if self._set is not None:
            self._say(Bye("the UE ends the session"))
        self._end("the session was closed")
        await self._stack.aclose()
        for executor in (self.worker, self.chores):
            # What still runs is waited for without blocking the loop; then its one thread is idle and ends at once.
            await asyncio.get_running_loop().run_in_executor(executor, _nothing)
            executor.shutdown()

    def run(
        self,
        source: str | int | Path | Source | AsyncIterable[Any],
        *,
        sinks: Sequence[str | Path | Sink | Callable[[FrameResult], object]] = (),
        repeat: bool = False,
        every: bool = False,
    ) -> Run:
        """Start on a source; iterate over what this returns.

        Args:
            source: as for `pipeline.sources.open_source`: a camera's index, a path, a URL, an async iterator, ...
            sinks: as for `pipeline.sinks.open_sink`: files, ``"window"``, functions, ...
            repeat: start a file again at its end.
            every: iterate also over the frames that were dropped or lost.

        Raises BadArgument for a source or a sink that cannot be meant, or when another run is not over.
        """
        if self._run is not None:
            raise BadArgument("a session has one run at a time: close the other one first")
        if self._lost is not None:
            raise ConnectionLost(self._lost)
        self._run = Run(
            self,
            open_source(source, fps=self.settings.fps),
            [open_sink(sink) for sink in sinks],
            repeat=repeat,
            every=every,
        )
        return self._run

    @property
    def point(self) -> OperatingPoint:
        """The active operating point: model, cut and profile."""
        return self._device_part.point

    @property
    def provider(self) -> str:
        """The execution provider that the head really runs on."""
        return self._device_part.provider

    @property
    def _threshold(self) -> float:
        chosen = self.settings.threshold
        return self.point.card.decoding.display_score if chosen is None else chosen

    def describe(self) -> dict[str, Any]:
        """The session's mode and operating point, as plain values."""
        point = self.point
        return {
            "mode": "split",
            "model": point.card.name,
            "partition": point.cut.name,
            "profile": point.profile,
            "provider": self.provider,
        }

    @property
    def _device_part(self) -> DevicePart:
        if self._device is None:
            raise BadArgument("the session is not connected: use it as `async with`")
        return self._device

    # Connecting (TR 26.927 clause 5.3.5, steps 3 to 13).

    async def _connect_in_time(self) -> None:
        limit = self.settings.timeout
        try:
            async with asyncio.timeout(limit) as self._connecting:
                await self._connect()
        except NegotiationTimeout:
            raise
        except TimeoutError as error:
            if self._lost is not None:
                raise ConnectionLost(self._lost) from error
            raise NegotiationTimeout(f"no session within {limit:g} s: {self._waiting_for}") from error
        finally:
            self._connecting = None

    async def _connect(self) -> None:
        settings = self.settings
        self._waiting_for = "no connection to the edge"
        offered = await self._loop.run_in_executor(self.chores, self._offered_points)
        fps = settings.fps or DEFAULT_FPS
        # The likely head loads while the network does its part; when that fails, nobody asks how loading went.
        loading = self.worker.submit(self._load, offered[0])
        client = SignalingClient(settings.url, token=settings.token, ca=settings.ca, fingerprint=settings.fingerprint)
        signaling = await self._stack.enter_async_context(client)
        signaling.closed.add_done_callback(self._on_signaling_closed)
        peer = Peer([ice_server(url) for url in settings.ice_servers], settings.media_bind)
        self._peer = await self._stack.enter_async_context(peer)
        peer.on_control = self._on_control
        peer.on_result = self._on_result
        peer.on_dropped = self._on_dropped
        peer.on_closed = self._end
        offers = [point.offer(fps) for point in offered]
        self._waiting_for = "the edge did not answer the offer"
        answer = await signaling.connect(await peer.create_offer(attributes_of(offers)))
        active = check_answer(offers, offers_of(intermediate_attributes(answer)))[0]
        await peer.accept_answer(answer)
        self._waiting_for = "the model's first part was still being made or loaded"
        device = await asyncio.wrap_future(loading)
        if not device.point.matches(active):
            point = next(point for point in offered if point.matches(active))
            device = await self._loop.run_in_executor(self.worker, self._load, point)
        self._waiting_for = "the edge answered, but the media connection did not come up; is UDP blocked?"
        await peer.opened(settings.timeout)
        self._device = device
        self._waiting_for = "the edge did not acknowledge the parameter set"
        await self._announce(active.fps)

    def _offered_points(self) -> list[OperatingPoint]:
        settings = self.settings
        found = points(self._zoo, model=settings.model, partition=settings.partition, profile=settings.profile)
        return found[:MAX_OFFERS]

    def _load(self, point: OperatingPoint) -> DevicePart:
        return DevicePart(
            point,
            self._store,
            provider=self.settings.provider,
            threads=self.settings.threads,
            max_payload=unit_payload_limit(),
        )

    async def _announce(self, fps: float) -> None:
        """Announce the parameter set and wait until it may be used."""
        point = self.point
        self._set = self._sets.announce(
            ParameterSet(
                id=0,
                direction="up",
                model=point.card.digest,
                partition=point.partition,
                variant=VARIANT,
                profile=point.profile,
                calibration=point.calibration.digest if point.calibration else None,
                tensors=self._device_part.partition.crossing,
                deadline_ms=min(round(FRAMES_WAITED_FOR / fps * 1000) or 1, MAX_DEADLINE_MS),
                budget_ms=round(self.budget * 1000),
            )
        )
        self._say(self._set)
        await self._set_answered.wait()
        if not self._sets.usable(self._set.id):
            raise ProtocolError("the edge refused the parameter set that follows from its own answer")

    def _say(self, message: ControlMessage) -> None:
        with contextlib.suppress(ConnectionLost):  # on_closed has told, or will
            self._peer.send_control(serialise_control(message))

    def _on_control(self, text: str) -> None:
        match parse_control(text):
            case ParameterSetAck() | ParameterSetReject() | ParameterSetReleased() as message:
                if self._sets.receive(message) is not None:
                    self._set_answered.set()
            case PeerFailure(code, detail):
                logger.warning("the edge reports %s: %s", code, detail)
            case Bye(reason):
                self._end(f"the edge said goodbye: {reason}")
            case _:
                self.counters["ignored_control_messages"] += 1

    def _on_signaling_closed(self, ending: asyncio.Future[Ending]) -> None:
        # The loss of the socket alone ends nothing; only the edge's word does.
        if not ending.cancelled() and ending.result() == "closed":
            self._end("the edge closed the session")

    def _end(self, reason: str) -> None:
        """The session is over: nothing in flight will be answered."""
        if self._lost is not None:
            return
        self._lost = reason
        if self._connecting is not None:
            self._connecting.reschedule(self._loop.time())
        for entry in self._ledger.clear():
            self._finish(entry.item, "lost", dropped_at="network")
        self._settled.set()
        if self._run is not None:
            self._run.interrupt(ConnectionLost(reason))

    # Frames: out, and back as results. This is the run's lane.

    def process(self, frame: Frame) -> CodedFrame:
        """The device's share of a frame; in the worker thread."""
        return self._device_part.process(frame)

    def submit(self, frame: Frame, coded: CodedFrame) -> None:
        """Hand a coded frame to the sender, which may replace it by a newer one."""
        assert self._set is not None
        capture_us = int(frame.captured * 1e6)
        units = units_of_frame(
            self._set.id, coded.frame_id, capture_us, coded.coded.slices, coded.coded.intra, coded.coded.reference
        )
        in_flight = _InFlight(frame, coded, tuple(map(len, units)), capture_us)
        expires = frame.captured + self.budget
        self._settled.clear()
        for crowded in self._ledger.open(coded.frame_id, in_flight, expires):
            self._finish(crowded.item, "lost", dropped_at="network")
        self._peer.sender.offer(OutgoingFrame(coded.frame_id, units, expires))
        self._expiry.set(self._ledger.next_expiry())

    async def settle(self) -> None:
        """Return when nothing is in flight any more."""
        await self._settled.wait()

    def leave(self, run: Run) -> None:
        """A run is over; what it still had in flight is of no interest."""
        self._ledger.clear()
        self._settled.set()
        self._expiry.set(None)
        if self._run is run:
            self._run = None

    def _on_result(self, data: bytes) -> None:
        result = parse_result(data)
        if result.heartbeat:
            return
        self._device_part.acknowledge(result)
        in_flight = self._ledger.close(result.frame_id)
        if in_flight is None:
            self.counters["results_too_late"] += 1
            return
        try:
            self._answered(in_flight, result)
        except ProtocolError:
            self._finish(in_flight, "error", dropped_at="result")
            raise
        finally:
            self._closed_one()

    def _on_dropped(self, dropped: Dropped) -> None:
        in_flight = self._ledger.close(dropped.frame_id)
        if in_flight is not None:
            sent = sum(in_flight.unit_sizes[: dropped.slices_sent])
            if dropped.reason is DropReason.CLOSED:
                self._finish(in_flight, "lost", dropped_at="network", bytes_sent=sent)
            else:
                where = "sender" if dropped.reason is DropReason.REPLACED else "sender deadline"
                self._finish(in_flight, "skipped", dropped_at=where, bytes_sent=sent)
        self._closed_one()

    def _expire(self) -> None:
        for entry in self._ledger.expire(time.monotonic()):
            self._finish(entry.item, "lost", dropped_at="network")
        self._closed_one()

    def _closed_one(self) -> None:
        self._expiry.set(self._ledger.next_expiry())
        if not self._ledger:
            self._settled.set()

    def _answered(self, in_flight: _InFlight, result: Result) -> None:
        """Take the edge's word on a frame. Raises ProtocolError when that makes no sense."""
        if (result.capture_us, result.slices) != (in_flight.capture_us, len(in_flight.unit_sizes)):
            raise ProtocolError("a result contradicts the frame that it answers")
        detections: Detections | None = None
        if result.status.has_output:
            if result.output_kind != OUTPUT_DETECTIONS:
                raise ProtocolError(f"a result with an output of kind {result.output_kind}, expected detections")
            found = parse_detections(result.output)
            labels = self.point.card.labels
            if len(found) and int(found.classes.max()) >= len(labels):
                raise ProtocolError(f"a result with class {found.classes.max()}, the model has {len(labels)}")
            detections = self._device_part.place(found.at_least(self._threshold), in_flight.frame)
        self._finish(
            in_flight,
            _STATUS[result.status],
            dropped_at="edge" if detections is None else None,
            result=result,
            detections=detections,
        )

    def _finish(
        self,
        in_flight: _InFlight,
        status: Outcome,
        *,
        dropped_at: str | None = None,
        bytes_sent: int | None = None,
        result: Result | None = None,
        detections: Detections | None = None,
    ) -> None:
        if self._run is None:
            return
        completed = time.monotonic()
        frame, coded = in_flight.frame, in_flight.coded
        self._run.finish(
            FrameResult(
                frame=frame,
                status=status,
                frame_id=coded.frame_id,
                dropped_at=dropped_at,
                detections=detections,
                labels=self.point.card.labels,
                share_received=1.0 - result.concealed if result else 0.0,
                timings=_timings(in_flight, result, completed),
                bytes_sent=sum(in_flight.unit_sizes) if bytes_sent is None else bytes_sent,
                completed=completed,
            )
        )


def _nothing() -> None:
    """What a thread does that shall only be waited for."""


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
