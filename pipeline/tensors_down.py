"""Outputs that are tensors, on their way back: units on channel "result", under a parameter set of direction ``down``.

The edge's side codes and sends them, the newest frame first and none beyond its time; the UE's side puts them together
again, within bounds, and decodes them in a thread. (TR 26.927 clause 5.2.3.1: inference output delivery and access.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from models import make_decoder, make_encoder, parse_profile
from pipeline.alarm import Alarm
from pipeline.limits import Intake, Verdict, frame_units
from rtc import OutgoingFrame, Reassembler, parse_unit, unit_payload_limit, units_of_frame
from signaling import (
    ParameterSet,
    ParameterSetAck,
    ParameterSetReject,
    ParameterSetRelease,
    ParameterSetReleased,
    ReceivedSets,
    SentSets,
)
from splitrtc_errors import ProtocolError, SplitRtcError

if TYPE_CHECKING:
    import numpy as np

    from models import DecodedFrame, Decoder, ModelCard
    from rtc import ReceivedFrame
    from signaling import ControlMessage, SplitOffer

__all__ = ["OutputReceiver", "OutputSender"]

logger = logging.getLogger(__name__)


class OutputSender:
    """The edge's side: announces the parameter set of a model's outputs, and makes frames of them."""

    def __init__(self, card: ModelCard, profile: str) -> None:
        """``profile`` is one that needs no calibration."""
        self.ready = False
        """The set was acknowledged: frames may be made. Read in any thread."""
        self._card = card
        self._profile = profile
        self._encoder = make_encoder(parse_profile(profile), card.outputs, None, unit_payload_limit())
        self._sets = SentSets()
        self._set: ParameterSet | None = None

    def announce(self, up: ParameterSet) -> ParameterSet | None:
        """The set to announce when one of direction ``up`` is accepted; None when that was done before."""
        if self._set is not None:
            return None
        wanted = replace(up, direction="down", profile=self._profile, calibration=None, tensors=self._card.outputs)
        self._set = self._sets.announce(wanted)
        return self._set

    def receive(self, message: ParameterSetAck | ParameterSetReject | ParameterSetReleased) -> None:
        """Take the UE's word on the set. ProtocolError when it refuses it: there is no other."""
        if self._sets.receive(message) is None:
            return
        if isinstance(message, ParameterSetReject):
            raise ProtocolError(f"the UE refused the parameter set of the outputs: {message.reason}")
        self.ready = True

    def code(
        self, frame: ReceivedFrame, outputs: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.generic]]], budget: float
    ) -> OutgoingFrame:
        """In a thread, when ``ready``: the outputs for a frame, worthless ``budget`` seconds after its first slice.

        ModelError when they are not as the card says, or cannot be coded (NaN, too large).
        """
        assert self._set is not None
        slices = self._encoder.encode(frame.frame_id, outputs).slices
        units = units_of_frame(self._set.id, frame.frame_id, frame.capture_us, slices)
        return OutgoingFrame(frame.frame_id, units, frame.first_at + budget)


class _Waiting(NamedTuple):
    frame: ReceivedFrame
    decoder: Decoder


class OutputReceiver:
    """The UE's side: from units to tensors, in the thread of the event loop but for the decoding.

    One frame is being decoded and one waits; a newer one replaces it. ``on_frame`` gets each frame of which a unit
    came: decoded, or None in place of that when it was passed over.
    """

    def __init__(self, card: ModelCard, wanted: SplitOffer, counters: Counter[str], end: Callable[[str], None]) -> None:
        """Get ready for the edge's set.

        Args:
            card: says what the outputs are.
            wanted: the set has to agree with this line of direction ``down``.
            counters: counts what came and could not be used, by kind.
            end: is called, with the reason, when the edge sends too much, or this side fails.
        """
        self.on_frame: Callable[[ReceivedFrame, DecodedFrame | None], None] = lambda _, __: None
        self.refused: SplitRtcError | None = None
        """Why the edge's set was refused."""
        self._card = card
        self._wanted = wanted
        self._counters = counters
        self._end = end
        self._sets: ReceivedSets[Decoder] = ReceivedSets(self._open_set, "down")
        self._intake = Intake(wanted.fps, frame_units(card.outputs, [wanted.profile]), time.monotonic())
        self._reassembler = Reassembler(max_frame_bytes=self._intake.frame_bytes)
        self._deadline = Alarm(self._on_deadline)
        self._waiting: _Waiting | None = None
        self._newest = 0
        """Id of the newest frame that waited to be decoded: decoders see ids that only grow."""
        self._work_to_do = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="decode outputs")
        self._worker = asyncio.create_task(self._work(), name="decode outputs")
        self._worker.add_done_callback(self._end_if_failed)

    @property
    def ready(self) -> bool:
        """Whether the edge has announced the set."""
        return len(self._sets) > 0

    def control(self, message: ParameterSet | ParameterSetRelease) -> ControlMessage | None:
        """What to answer to the edge's word on its set, None for nothing."""
        if isinstance(message, ParameterSetRelease):
            self._hand_over(self._reassembler.remove_set(message.id, time.monotonic()))
        return self._sets.receive(message)

    def receive(self, data: bytes, newest: int) -> None:
        """Take one unit; ``newest`` is the last frame that was sent. ProtocolError for a malformed one."""
        now = time.monotonic()
        verdict = self._intake.unit(len(data), now)
        if verdict is not Verdict.ADMITTED:
            self._counters["units_beyond_limit"] += 1
            if verdict is Verdict.EXCEEDED:
                self._end("the edge sends too many units")
            return
        unit = parse_unit(data)
        if unit.frame_id > newest:
            self._counters["units_too_early"] += 1
            return
        self._hand_over(self._reassembler.receive(unit, now))
        self._deadline.set(self._reassembler.next_deadline())

    async def close(self) -> None:
        """Free everything, and count what the reassembler could not use."""
        self._deadline.set(None)
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        # What still runs is waited for without blocking the loop; then its one thread is idle and ends at once.
        await asyncio.get_running_loop().run_in_executor(self._executor, time.monotonic)
        self._executor.shutdown()
        dropped = self._reassembler.counters
        for name in ("parity", "unknown_set", "stale", "too_far", "duplicate", "conflicting", "oversized"):
            self._counters[f"units_{name}"] += getattr(dropped, name)

    def _open_set(self, announced: ParameterSet) -> Decoder:
        """Check the edge's set against what was agreed on, and the model. Raises SplitRtcError to refuse it."""
        try:
            if announced.operating_point != self._wanted.operating_point:
                raise ProtocolError(
                    "the parameter set of the outputs is not the one agreed on in the session description"
                )
            if announced.tensors != self._card.outputs:
                given = ", ".join(map(str, self._card.outputs))
                raise ProtocolError(f"the parameter set of the outputs contradicts the model, which gives {given}")
            decoder = make_decoder(parse_profile(announced.profile), announced.tensors, None)
        except SplitRtcError as error:
            self.refused = error
            raise
        self._reassembler.set_deadline(announced.id, announced.deadline_ms / 1000)
        return decoder

    def _on_deadline(self) -> None:
        self._hand_over(self._reassembler.poll(time.monotonic()))
        self._deadline.set(self._reassembler.next_deadline())

    def _hand_over(self, frames: Sequence[ReceivedFrame]) -> None:
        for frame in frames:
            decoder = self._sets.get(frame.aips_id)
            if decoder is None or frame.frame_id < self._newest:
                self.on_frame(frame, None)
                continue
            replaced, self._waiting = self._waiting, _Waiting(frame, decoder)
            self._newest = frame.frame_id
            self._work_to_do.set()
            if replaced is not None:
                self.on_frame(replaced.frame, None)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._work_to_do.wait()
            self._work_to_do.clear()
            waiting, self._waiting = self._waiting, None
            if waiting is not None:
                frame, decoder = waiting
                arguments = frame.frame_id, frame.slices, frame.intra, frame.reference
                self.on_frame(frame, await loop.run_in_executor(self._executor, decoder.decode, *arguments))

    def _end_if_failed(self, worker: asyncio.Task[None]) -> None:
        if not worker.cancelled() and (error := worker.exception()) is not None:
            logger.error("decoding outputs failed", exc_info=error)
            self._end("decoding outputs failed")
