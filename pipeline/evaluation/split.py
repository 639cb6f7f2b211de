"""Intermediate data as a contender: a profile's encoder and decoder, with units between them that may get lost."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models import Detections, make_decoder, make_encoder, parse_profile
from pipeline.evaluation.contender import Contender, Outcome, Segment
from rtc import unit_payload_limit, units_of_frame

if TYPE_CHECKING:
    from pipeline.evaluation.vision import Vision
    from pipeline.offers import OperatingPoint

__all__ = ["RTT_FRAMES", "Split", "parse_profiles", "series_of"]

RTT_FRAMES = 2
"""Frames after which the encoder hears of a frame: two thirtieths of a second there and back."""
AIPS_ID = 1
_NOTHING = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Split(Contender):
    """A profile. Every frame's units are counted whole, headers included.

    Each unit is lost with a chance of ``loss``, drawn from ``seed``, in runs of ``burst`` units on average (by chance
    alone where that is more); a frame that lost all of them is never decoded, and what was found in the frame before
    stands for it.
    """

    point: OperatingPoint
    rtt_frames: int = RTT_FRAMES
    loss: float = 0.0
    burst: float = 1.0
    seed: int = 0

    def run(self, segment: Segment, vision: Vision) -> Iterator[Outcome]:
        """See Contender.run()."""
        profile, crossing = parse_profile(self.point.profile), vision.partition.crossing
        encoder = make_encoder(profile, crossing, self.point.calibration, unit_payload_limit())
        decoder = make_decoder(profile, crossing, self.point.calibration)
        on_their_way: deque[tuple[int, int, list[bool]]] = deque()
        lost: list[tuple[int, list[bool]]] = []
        found = _NOTHING
        losing = False
        for frame_id, (features, heading) in enumerate(zip(segment.features, segment.heading, strict=True), 1):
            while on_their_way and on_their_way[0][0] <= frame_id - self.rtt_frames:
                _, other_id, arrived = on_their_way.popleft()
                encoder.acknowledged(other_id, arrived)
            began = time.perf_counter()
            coded = encoder.encode(frame_id, features)
            encode = time.perf_counter() - began
            units = units_of_frame(AIPS_ID, frame_id, 0, coded.slices, coded.intra, coded.reference)
            # Of every frame the same slices, whoever codes it: contenders differ by what they make of it alone.
            sizes = self.sizes(units)
            arrived = []
            for draw in np.random.default_rng((self.seed, segment.number, frame_id)).random(len(sizes)):
                losing = bool(draw < self._chance(losing))
                arrived.append(not losing)
            received = self.received(arrived, len(units))
            decode = edge = 0.0
            if any(received):
                slices = [piece if there else None for piece, there in zip(coded.slices, received, strict=True)]
                began = time.perf_counter()
                decoded = decoder.decode(frame_id, slices, coded.intra, coded.reference)
                decode = time.perf_counter() - began
                found = vision.tail(decoded.tensors)
                edge = time.perf_counter() - began
                # That a frame was lost whole is known from the answer to the next one.
                on_their_way += [(frame_id, *frame) for frame in (*lost, (frame_id, received))]
                lost.clear()
            else:
                lost.append((frame_id, received))
            yield Outcome(sum(sizes), encode, decode, heading + encode, edge, found)

    def sizes(self, units: Sequence[bytes]) -> list[int]:
        """Bytes of all that is sent for a frame."""
        return [len(unit) for unit in units]

    def received(self, arrived: list[bool], slices: int) -> list[bool]:
        """Which slices the decoder gets, of what arrived of all that was sent."""
        return arrived[:slices]

    def _chance(self, losing: bool) -> float:
        """Of a unit to be lost, by what became of the one before: Gilbert's model of a channel."""
        stay = max(1 - 1 / self.burst, self.loss)
        return stay if losing or self.loss == 1 else self.loss * (1 - stay) / (1 - self.loss)


def series_of(profile: str) -> str:
    """The curve that a profile lies on: profiles that differ in numbers alone lie on one."""
    name, _, parameters = profile.partition(":")
    words = [text for text in parameters.split(",") if not re.fullmatch(r"(\w+=[-+0-9.e]+)?", text)]
    return ":".join(filter(None, (re.sub(r"[0-9]+", "", name), ",".join(words))))


def parse_profiles(text: str) -> list[str]:
    """Read a list of profile ids with commas between them, where an id may itself hold commas.

    Each id is checked by whoever uses it.
    """
    found: list[str] = []
    for part in text.split(","):
        if found and "=" in part and ":" not in part:  # a further parameter, since no name holds "="
            found[-1] += f",{part.strip()}"
        else:
            found.append(part.strip())
    return found
