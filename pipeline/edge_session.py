"""One UE's session at the edge: units in, results out (TR 26.927 clause 5.3.5, steps 13 and 14)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from models import make_decoder, pack_detections, parse_profile
from pipeline.alarm import Alarm
from pipeline.backlog import MAX_WAITING, Backlog
from pipeline.limits import Intake, Verdict, frame_units
from pipeline.tensors_down import OutputSender
from rtc import (
    DEFAULT_UNIT,
    OUTPUT_DETECTIONS,
    OUTPUT_NONE,
    OUTPUT_TENSORS,
    Reassembler,
    Result,
    Status,
    bitmap_of,
    pack_result,
    parse_unit,
)
from signaling import (
    Bye,
    Drain,
    ParameterSet,
    ParameterSetAck,
    ParameterSetReject,
    ParameterSetRelease,
    ParameterSetReleased,
    PeerFailure,
    ReceivedSets,
    Report,
    parse_control,
    serialise_control,
)
from splitrtc_errors import BadArgument, ConnectionLost, ProtocolError, SplitRtcError

if TYPE_CHECKING:
    from collections import Counter

    from models import Decoder
    from pipeline.offers import OperatingPoint
    from pipeline.tails import Tail, TailPool
    from rtc import Dropped, OutgoingFrame, Peer, ReceivedFrame
    from signaling import ControlMessage

__all__ = ["EdgeSession"]

logger = logging.getLogger(__name__)

MAX_ERRORS = 30
"""Frames in a row that may fail before the session is ended: a second of them."""
OPEN_TIMEOUT = 15.0
"""Seconds from the answer until the channels must be open: a peer that never comes must not hold a slot."""

FRAMES_OF_LOSS = 100
"""Results that are sent twice after a frame that came incomplete. That shows that the link loses packets; a lost result
is as bad as a lost frame, and a small one costs little."""

UNUSED_UNITS = ("parity", "unknown_set", "stale", "too_far", "duplicate", "conflicting", "oversized")
"""Counters of the reassembler that tell of units dropped."""
UNUSED_MESSAGES = ("wrong_type", "malformed", "failed_callbacks", "extra_channels")
"""Counters of the peer connection that tell of messages dropped."""


class _OpenSet(NamedTuple):
    """What the edge keeps for an open parameter set; ``budget`` in seconds."""

    decoder: Decoder
    budget: float


class _Computed(NamedTuple):
    """What became of a frame: ``times`` are those of decoding, tail and post-processing, in seconds."""

    status: Status
    started: float | None = None
    times: tuple[float, float, float] = (0.0, 0.0, 0.0)
    concealed: float = 0.0
    output: bytes | None = None
    """Detections."""
    tensors: OutgoingFrame | None = None
    decoded: bool = False
    """Of a frame without output: the decoder has taken it in."""


class EdgeSession:
    """Decodes a UE's frames, runs the tail on them and answers each one.

    At most one frame is being computed and one waits; a newer one replaces that, and the replaced one is answered as
    superseded. Where a codec predicts from earlier frames, a replaced one is still decoded. ``serve`` returns when the
    session is over, however it ends, and has freed what the session held.
    """

    max_waiting = MAX_WAITING
    """Frames that wait to be decoded, at most, where later ones are predicted from them."""

    def __init__(
        self,
        peer: Peer,
        tail: Tail,
        agreed: Sequence[OperatingPoint],
        fps: float,
        pool: TailPool,
        outcomes: Counter[str],
        output_profile: str = "raw",
    ) -> None:
        """``output_profile`` codes the outputs of a model that gives tensors."""
        self._peer = peer
        self._tail = tail
        self._agreed = agreed
        self._pool = pool
        self._outcomes = outcomes
        self._outputs = OutputSender(tail.card, output_profile) if tail.detector is None else None
        self._sets: ReceivedSets[_OpenSet] = ReceivedSets(self._open_set)
        units = frame_units(tail.crossing, [point.profile for point in agreed if not point.is_video])
        self._intake = Intake(fps, units, time.monotonic())
        self._reassembler = Reassembler(max_frame_bytes=self._intake.frame_bytes)
        self._deadline = Alarm(self._on_deadline)
        self._waiting: Backlog[tuple[ReceivedFrame, _OpenSet]] = Backlog(self.max_waiting)
        self._newest = 0
        """Id of the newest frame that waited for a thread."""
        self._results_to_repeat = 0
        self._told = False
        self._errors = 0
        """Frames that failed since the last one that did not."""
        self._work_to_do = asyncio.Event()
        self._is_open = False
        self._leave_by: float | None = None
        """When the edge ends it, if it has been told to drain."""
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        peer.on_control = self._on_control
        peer.on_intermediate = self._on_unit
        peer.on_dropped = self._on_dropped
        peer.on_closed = self.end

    def end(self, reason: str) -> None:
        """Let ``serve`` come to its end. May be called again; the first reason counts."""
        if not self._over.done():
            self._over.set_result(reason)

    def drain(self, seconds: float) -> None:
        """Tell the UE that the edge ends this session in so many seconds; until then it is served as ever."""
        self._leave_by = time.monotonic() + seconds
        if self._is_open:
            self._say_drain()

    async def serve(self) -> str:
        """Serve until the session is over; returns why it ended."""
        # The end may come at any time, also while the channels are still opening: nothing here waits for these.
        tasks = [
            asyncio.create_task(self._open(), name="channels opening"),
            asyncio.create_task(self._work(), name="tail worker"),
        ]
        for task in tasks:
            task.add_done_callback(self._end_if_failed)
        try:
            reason = await self._over
            self._say(Bye(reason))
            return reason
        finally:
            self._deadline.set(None)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._peer.close()
            self._pool.release(self._tail)
            self._count()

    async def _open(self) -> None:
        await self._peer.opened(OPEN_TIMEOUT)
        self._is_open = True
        self._say_drain()

    def _say_drain(self) -> None:
        if self._leave_by is not None:
            self._say(Drain(max(0, round(1000 * (self._leave_by - time.monotonic())))))

    def _end_if_failed(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if not isinstance(error, SplitRtcError):
            logger.error("a session failed", exc_info=error)
        self.end(str(error) if isinstance(error, SplitRtcError) else "the edge failed")

    def _count(self) -> None:
        """Add what came and could not be used, by kind, to the edge's figures."""
        for prefix, counters, names in (
            ("units", self._reassembler.counters, UNUSED_UNITS),
            ("messages", self._peer.counters, UNUSED_MESSAGES),
        ):
            for name in names:
                if count := getattr(counters, name):
                    self._outcomes[f"{prefix}_{name}"] += count

    # Control: parameter sets and the end.

    def _on_control(self, text: str) -> None:
        if not self._admits(self._intake.control(time.monotonic()), "control messages"):
            return
        match parse_control(text):
            case ParameterSet() | ParameterSetRelease() as message:
                answer = self._sets.receive(message)
                if isinstance(message, ParameterSetRelease):
                    for frame in self._reassembler.remove_set(message.id, time.monotonic()):
                        self._hand_over(frame)
                if isinstance(answer, ParameterSetAck) and isinstance(message, ParameterSet):
                    self._announce_outputs(message)
                if answer is not None:
                    self._say(answer)
            case ParameterSetAck() | ParameterSetReject() | ParameterSetReleased() as message if self._outputs:
                try:
                    self._outputs.receive(message)
                except ProtocolError as error:
                    self.end(str(error))
            case Report():
                self._outcomes["reports"] += 1
            case PeerFailure(code, detail):
                self._outcomes["failures_reported"] += 1
                logger.debug("the UE reports %s: %s", code, detail)
            case Bye(reason):
                self.end(f"the UE said goodbye: {reason}")
            case _:
                self._outcomes["ignored_control_messages"] += 1

    def _announce_outputs(self, accepted: ParameterSet) -> None:
        """Before the acknowledgement of the UE's first set, so that the UE has both when it begins."""
        announced = self._outputs.announce(accepted) if self._outputs is not None else None
        if announced is not None:
            self._say(announced)

    def _on_dropped(self, dropped: Dropped) -> None:
        self._outcomes[f"outputs_{dropped.reason}"] += 1

    def _open_set(self, announced: ParameterSet) -> _OpenSet:
        """Check a parameter set against what was agreed, and make its decoder. Raises SplitRtcError to refuse it."""
        crossing = self._tail.crossing
        point = next((point for point in self._agreed if point.matches(announced)), None)
        if point is None:
            raise BadArgument("the parameter set is none of those agreed on in the session description")
        if announced.tensors != crossing:
            raise BadArgument(f"the partition's crossing tensors are {', '.join(map(str, crossing))}")
        return _OpenSet(self._open_decoder(announced, point), announced.budget_ms / 1000)

    def _open_decoder(self, announced: ParameterSet, point: OperatingPoint) -> Decoder:
        """The decoder of a set that has been found right. Raises SplitRtcError to refuse it all the same."""
        decoder = make_decoder(parse_profile(point.profile), self._tail.crossing, point.calibration)
        self._reassembler.set_deadline(announced.id, announced.deadline_ms / 1000)
        return decoder

    def _admits(self, verdict: Verdict, what: str) -> bool:
        """Whether a message is within the session's limits; one that is not is dropped and counted."""
        if verdict is Verdict.ADMITTED:
            return True
        self._outcomes[f"{what.replace(' ', '_')}_beyond_limit"] += 1
        if verdict is Verdict.EXCEEDED:
            self.end(f"the UE sends too many {what}")
        return False

    def _say(self, message: ControlMessage) -> None:
        try:
            self._peer.send_control(serialise_control(message))
        except ConnectionLost as error:
            self.end(str(error))

    # Frames: from units to the worker.

    def _on_unit(self, data: bytes) -> None:
        now = time.monotonic()
        if not self._admits(self._intake.unit(len(data), now), "units"):
            return
        for frame in self._reassembler.receive(parse_unit(data), now):
            self._hand_over(frame)
        self._deadline.set(self._reassembler.next_deadline())

    def _on_deadline(self) -> None:
        for frame in self._reassembler.poll(time.monotonic()):
            self._hand_over(frame)
        self._deadline.set(self._reassembler.next_deadline())

    def _hand_over(self, frame: ReceivedFrame) -> None:
        """Let a frame wait for a thread, unless a newer one already did: decoders see ids that only grow."""
        opened = self._sets.get(frame.aips_id)
        if opened is None:  # released meanwhile
            self._answer(frame, _Computed(Status.ERROR))
        elif frame.frame_id < self._newest:
            self._answer(frame, _Computed(Status.SUPERSEDED))
        else:
            self._newest = frame.frame_id
            for replaced, _ in self._waiting.put((frame, opened), keep=opened.decoder.needs_every_frame):
                self._answer(replaced, _Computed(Status.SUPERSEDED))
            self._work_to_do.set()

    # The worker: one frame at a time through the threads that all sessions share.

    async def _work(self) -> None:
        while True:
            await self._work_to_do.wait()
            self._work_to_do.clear()
            # One that hangs ends the session: its decoder is in use for ever.
            for answer in await self._pool.workers.run(self._compute_waiting):
                self._answer(*answer)

    def _compute_waiting(self) -> list[tuple[ReceivedFrame, _Computed]]:
        """In a thread: the newest frame by now, since this may have waited for the tails of other sessions.

        What waited before it is decoded first, where the codec predicts from it.
        """
        answers: list[tuple[ReceivedFrame, _Computed]] = []
        waiting = self._waiting.take()
        for frame, opened in waiting[:-1]:
            answers.append((frame, self._compute(frame, opened, Status.SUPERSEDED)))
        for frame, opened in waiting[-1:]:
            in_time = time.monotonic() - frame.first_at <= opened.budget
            # The UE's word on the outputs' set may have been lost, and come too late for the first frames.
            can_answer = self._outputs is None or self._outputs.ready
            answers.append((frame, self._compute(frame, opened, None if in_time and can_answer else Status.LATE)))
        return answers

    def _compute(self, frame: ReceivedFrame, opened: _OpenSet, instead: Status | None) -> _Computed:
        """In a thread: decode, tail, post-process. A frame that ends ``instead`` is decoded at most."""
        if instead is not None and not opened.decoder.needs_every_frame:
            return _Computed(instead)
        started = time.monotonic()
        decoded_at: float | None = None
        try:
            decoded = opened.decoder.decode(frame.frame_id, frame.slices, frame.intra, frame.reference)
            decoded_at = time.monotonic()
            if instead is not None:
                return _Computed(instead, started, (decoded_at - started, 0.0, 0.0), decoded=True)
            outputs = self._tail.submodel.run(decoded.tensors)
            inferred_at = time.monotonic()
            output: bytes | None = None
            tensors: OutgoingFrame | None = None
            if self._tail.detector is not None:
                output = pack_detections(self._tail.detector.decode(outputs))
            elif self._outputs is not None:
                tensors = self._outputs.code(frame, outputs, opened.budget)
        except Exception as error:  # whatever a peer's data does to codec, runtime or task costs this frame alone
            # Once at length: a peer that wants to fill the log has thirty tries a second.
            level = logging.DEBUG if self._told else logging.WARNING
            self._told = True
            logger.log(
                level, "frame %d failed: %s", frame.frame_id, error, exc_info=not isinstance(error, SplitRtcError)
            )
            return _Computed(Status.ERROR, started, decoded=decoded_at is not None)
        whole = frame.complete and not decoded.damaged_slices
        times = (decoded_at - started, inferred_at - decoded_at, time.monotonic() - inferred_at)
        return _Computed(Status.OK if whole else Status.INCOMPLETE, started, times, decoded.concealed, output, tensors)

    def _answer(self, frame: ReceivedFrame, computed: _Computed) -> None:
        """Every frame of which a slice arrived is answered, once: the answer is also its acknowledgement."""
        self._outcomes[computed.status.name.lower()] += 1
        self._count_errors(computed.status)
        queue = 0.0 if computed.started is None else computed.started - frame.ready_at
        self._pool.waited(queue)
        decode, tail, post = computed.times
        result = Result(
            status=computed.status,
            frame_id=frame.frame_id,
            capture_us=frame.capture_us,
            slices=frame.count,
            received=bitmap_of(slice_ is not None for slice_ in frame.slices),
            queue_us=round(queue * 1e6),
            decode_us=round(decode * 1e6),
            tail_us=round(tail * 1e6),
            post_us=round(post * 1e6),
            history=self._reassembler.history(frame.frame_id),
            concealed=computed.concealed,
            output_kind=_kind(computed),
            output=computed.output or b"",
            decoded=computed.decoded,
        )
        data = pack_result(result)
        if not self._peer.send_result(data):
            self._outcomes["results_dropped"] += 1
        if not frame.complete:
            self._results_to_repeat = FRAMES_OF_LOSS
        elif self._results_to_repeat:
            self._results_to_repeat -= 1
        if self._results_to_repeat and len(data) <= DEFAULT_UNIT:
            self._outcomes["results_repeated"] += 1
            self._peer.send_result(data)
        if computed.tensors is not None:
            self._peer.output_sender.offer(computed.tensors)

    def _count_errors(self, status: Status) -> None:
        if status.has_output:
            self._errors = 0
        elif status is Status.ERROR:
            self._errors += 1
            if self._errors >= MAX_ERRORS:
                self.end(f"{self._errors} frames in a row failed")


def _kind(computed: _Computed) -> int:
    if computed.tensors is not None:
        return OUTPUT_TENSORS
    return OUTPUT_NONE if computed.output is None else OUTPUT_DETECTIONS
