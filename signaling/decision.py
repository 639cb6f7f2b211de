"""Which operating point to take: one pure function, for the edge (TR 26.927 clause 5.2.3.2, step 4a) and the UE (5b).

Every candidate is explained: its predicted latency by part, bytes, energy, accuracy, and why not. Nothing here knows
a clock, a socket or a model; equal arguments give equal decisions. docs/announcement.md has the rules in prose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from models.information import EndpointCapabilities
from signaling.candidates import Candidate
from signaling.manifest import Load

__all__ = [
    "MODES",
    "OPTIMISE",
    "PRIVACY",
    "Decision",
    "Device",
    "Edge",
    "Explained",
    "Latency",
    "Link",
    "Wish",
    "decide",
    "predict",
]

MODES = ("local", "split", "remote")
OPTIMISE = ("latency", "energy", "bandwidth")
PRIVACY = ("any", "no-pictures")

OVERHEAD = 1.09
"""Bytes on the wire for one of a profile's: the headers of unit, SCTP, DTLS, UDP and IP, for each 1 160 bytes."""
UNIT_BYTES = 1_130
UNIT_MS = 0.07
"""That the transport computes for each unit of so many bytes: the limit of a link above 130 Mbit/s."""
HANDOVER_MS = 2.5
"""Between threads and processes, at both ends of the link. This, the one above and the two below are what sessions on
one machine showed that are not among those of the figure (``python -m benchmarks.prediction --fit 1``)."""
DEVICE_MS = 0.7
"""Of the device besides its head and its codec: the frame waits for its thread, the picture is made a tensor."""
QUEUE_MS = 0.3
"""That a frame waits for a thread of an edge which does nothing else."""
CODING_MS = 1.0
"""Of a codec whose time was not measured, on the machine that measured the others."""
KEEPS_UP = 0.9
"""Share of the frames asked for that counts as all of them."""
MOST_LOST = 5.0
"""Percent of its model's own accuracy that a profile may cost when nothing is asked for."""
LEAST_F1 = 0.9
"""The same, where only the agreement with the whole model is known."""
BUSY_W = 3.0
"""Watts of a busy core of a small device. This and the next only set work against bytes: they are nobody's meter."""
JOULE_PER_BYTE = 4e-7
"""Of a radio that sends: 50 nJ a bit."""
REASONS = 3
LEAST_FLOPS = 1e6
LEAST_RATE = 1e3
"""Less than these two is nothing that anybody has measured."""


@dataclass(frozen=True, slots=True)
class Device:
    """The UE: what it can do, and the digests of the whole models that it has."""

    capabilities: EndpointCapabilities
    models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Edge:
    """The edge as its manifest tells: what it can do, how busy it is, whether it takes sessions."""

    capabilities: EndpointCapabilities
    load: Load
    state: str = "ready"


@dataclass(frozen=True, slots=True)
class Link:
    """``rate`` in bit/s from the UE to the edge, ``rtt`` in milliseconds."""

    rate: float
    rtt: float


@dataclass(frozen=True, slots=True)
class Wish:
    """What the UE wants.

    Attributes:
        optimise: of OPTIMISE (TR step 2a).
        privacy: of PRIVACY; "no-pictures" refuses whatever would send the picture.
        modes: those of MODES that may be chosen.
        max_latency: milliseconds from capture to result.
        min_accuracy: percent; None leaves it at little less than the model's own.
        prefer: partition by name or id that is taken if it may be (step 4b).
        fps: frames per second that shall be answered.
    """

    optimise: str = "latency"
    privacy: str = "any"
    modes: tuple[str, ...] = MODES
    max_latency: float | None = None
    min_accuracy: float | None = None
    prefer: str | None = None
    fps: float = 30.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Predicted milliseconds of a frame, from capture to result."""

    device: float = 0.0
    head: float = 0.0
    encode: float = 0.0
    link: float = 0.0
    """until the last byte is at the edge, and for the result to come back: sending, and one round trip"""
    queue: float = 0.0
    decode: float = 0.0
    tail: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.device + self.head + self.encode + self.link + self.queue + self.decode + self.tail

    def to_json(self) -> dict[str, float]:
        """By part, and in all, rounded to a microsecond."""
        parts = {part.name: round(getattr(self, part.name), 3) for part in fields(self)}
        return parts | {"total": round(self.total, 3)}


@dataclass(frozen=True, slots=True)
class Explained:
    """A candidate, what it would be like, and why it is not taken; ``latency`` is None where it cannot be predicted."""

    candidate: Candidate
    latency: Latency | None
    fps: float
    """frames per second that its slowest stage allows, at most those asked for"""
    energy: float
    """millijoules of the device for a frame, roughly"""
    keeps_up: bool
    why_not: tuple[str, ...] = ()
    energy_share: float = 0.0
    """of the candidate that takes most"""

    @property
    def allowed(self) -> bool:
        """Whether nothing speaks against it but that others are better."""
        return not self.why_not

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **self.candidate.to_json(),
            "latency_ms": None if self.latency is None else self.latency.to_json(),
            "fps": round(self.fps, 2),
            "energy_share": round(self.energy_share, 4),
            "why_not": list(self.why_not),
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """``explained`` has every candidate: the chosen one first, those that may be taken by rank, then the refused."""

    chosen: Explained | None
    explained: tuple[Explained, ...]

    @property
    def reasons(self) -> str:
        """Why nothing is chosen, in a line: what speaks against those that were closest to it."""
        closest = sorted(self.explained, key=lambda one: len(one.why_not))
        return "; ".join(list(dict.fromkeys(reason for one in closest for reason in one.why_not))[:REASONS])

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "chosen": None if self.chosen is None else self.chosen.to_json(),
            "candidates": [one.to_json() for one in self.explained],
        }


def decide(candidates: Iterable[Candidate], device: Device, edge: Edge, link: Link | None, wish: Wish) -> Decision:
    """Choose among candidates; ``link`` is None where there is none, or nothing is known of it.

    The order is total: those that keep up with the frame rate before the others, then what is to be optimised, then
    latency, bytes, accuracy, energy, and the names. So no candidate is chosen that another one beats in one of these
    and equals in the rest.
    """
    usable = link if link is not None and link.rate >= LEAST_RATE else None
    found = [_explain(candidate, device, edge, usable, wish) for candidate in candidates]
    most = max((one.energy for one in found), default=0.0) or 1.0
    ranked = sorted(found, key=lambda one: _rank(one, wish))
    found = [replace(one, energy_share=one.energy / most) for one in ranked]
    return Decision(found[0] if found and found[0].allowed else None, tuple(found))


def predict(
    candidate: Candidate, device: Device, edge: Edge, link: Link | None, fps: float | None = None
) -> Latency | None:
    """A frame's latency at a candidate; None where something that it takes is not known. The link's rate is above 0.

    What was measured on the edge's CPU is scaled by the probe that both machines ran; else MACs tell, by the device's
    own operations per second. Of a stage that cannot keep up with ``fps`` frames per second, and so gets the newest
    one each time it is free, that one has waited for half of the time between two, on average.
    """
    here, there = device.capabilities.flops or 0.0, edge.capabilities.flops or 0.0
    slower = there / here if min(here, there) >= LEAST_FLOPS else None
    if candidate.mode == "remote":
        head = 0.0
    elif candidate.head_ms is not None and slower is not None:
        head = candidate.head_ms * slower / (device.capabilities.speedup or 1.0)
    elif candidate.head_macs is not None and here >= LEAST_FLOPS:
        head = 2e3 * candidate.head_macs / (here * (device.capabilities.speedup or 1.0))
    else:
        return None
    period = 1e3 / fps if fps else 0.0
    if candidate.mode == "local":
        return Latency(device=DEVICE_MS + _waiting_ms(DEVICE_MS + head, period), head=head)
    if candidate.bytes is None or candidate.tail_ms is None or link is None:
        return None
    encode = (CODING_MS if candidate.encode_ms is None else candidate.encode_ms) * (slower or 1.0)
    decode = CODING_MS if candidate.decode_ms is None else candidate.decode_ms
    work, sending = DEVICE_MS + head + encode, _sending_ms(candidate.bytes, link)
    # What comes out of a slow stage comes as seldom as that takes.
    leaves, arrives = (max(period, work), max(period, work, sending)) if period else (0.0, 0.0)
    return Latency(
        device=DEVICE_MS + _waiting_ms(work, period),
        head=head,
        encode=encode,
        link=sending + _waiting_ms(sending, leaves) + link.rtt + HANDOVER_MS,
        queue=max(QUEUE_MS, edge.load.queue_ms or 0.0) + _waiting_ms(decode + candidate.tail_ms, arrives),
        decode=decode,
        tail=candidate.tail_ms,
    )


def _waiting_ms(busy: float, period: float) -> float:
    """How long the newest frame has waited on average, for what takes ``busy`` and is offered one each ``period``."""
    return period / 2 if busy > period else 0.0


def _sending_ms(size: float, link: Link) -> float:
    return max(8e3 * OVERHEAD * size / link.rate, UNIT_MS * size / UNIT_BYTES)


def _explain(candidate: Candidate, device: Device, edge: Edge, link: Link | None, wish: Wish) -> Explained:
    latency = predict(candidate, device, edge, link, wish.fps)
    sent = candidate.bytes or 0.0
    work, fps = 0.0, 0.0
    if latency is not None:
        work = DEVICE_MS + latency.head + latency.encode
        # The device computes a frame while another one is sent: the slowest stage sets the pace.
        sending = _sending_ms(sent, link) if link is not None and candidate.mode != "local" else 0.0
        fps = min(wish.fps, 1e3 / max(work, sending, latency.decode + latency.tail))
    return Explained(
        candidate=candidate,
        latency=latency,
        fps=fps,
        energy=BUSY_W * work + 1e3 * JOULE_PER_BYTE * OVERHEAD * sent,
        keeps_up=fps >= KEEPS_UP * wish.fps,
        why_not=tuple(_objections(candidate, latency, device, edge, link, wish)),
    )


def _objections(
    candidate: Candidate, latency: Latency | None, device: Device, edge: Edge, link: Link | None, wish: Wish
) -> Iterator[str]:
    """Why a candidate must not be taken."""
    has = device.capabilities
    if candidate.mode not in wish.modes:
        yield f"mode {candidate.mode} is not wanted"
    if wish.privacy == "no-pictures" and (candidate.carries_input or candidate.mode == "remote"):
        yield "it would send the picture"
    if candidate.mode == "local" and candidate.model not in device.models:
        yield "its model is not on the device"
    if candidate.mode == "split" and not candidate.obtainable and candidate.model not in device.models:
        yield "its model is not on the device, and does not leave the edge"
    if candidate.mode != "local":
        if edge.state == "draining":
            yield "the edge is draining"
        elif edge.state == "full" or edge.load.sessions >= edge.load.max_sessions:
            yield "the edge is full"
        # A name alone stands for all of its parameters.
        if candidate.mode == "split" and not {candidate.profile, _codec(candidate.profile)} & set(has.profiles):
            yield f"the device does not have the profile {candidate.profile}"
    if candidate.memory is not None and has.memory is not None and candidate.memory > has.memory:
        yield f"needs {candidate.memory / 1e6:.0f} MB of the device's {has.memory / 1e6:.0f}"
    yield from _too_inaccurate(candidate, wish)
    if latency is None:
        yield f"not predictable: {_unknown(candidate, link)} not known"
    elif wish.max_latency is not None and latency.total > wish.max_latency:
        yield f"takes {latency.total:.0f} ms of at most {wish.max_latency:.0f}"


def _unknown(candidate: Candidate, link: Link | None) -> str:
    if candidate.mode != "local":
        for value, name in (
            (link, "the link's rate is"),
            (candidate.bytes, "its bytes are"),
            (candidate.tail_ms, "its tail's time is"),
        ):
            if value is None:
                return name
    return "the speed of the device, or the cost of the head, is"


def _too_inaccurate(candidate: Candidate, wish: Wish) -> Iterator[str]:
    accuracy, own = candidate.accuracy, candidate.model_accuracy
    if wish.min_accuracy is not None:
        if accuracy is None:
            yield "its accuracy is not known"
        elif accuracy < wish.min_accuracy:
            yield f"has an accuracy of {accuracy:.1f}, at least {wish.min_accuracy:.1f} is asked for"
    elif accuracy is not None and own is not None and accuracy < own * (1 - MOST_LOST / 100):
        yield f"costs {own - accuracy:.1f} of its model's accuracy of {own:.1f}"
    elif accuracy is None and candidate.f1 is not None and candidate.f1 < LEAST_F1:
        yield f"agrees with the whole model only to {candidate.f1:.3f}"


def _codec(profile: str | None) -> str:
    return (profile or "").partition(":")[0]


def _rank(one: Explained, wish: Wish) -> tuple[Any, ...]:
    candidate = one.candidate
    preferred = wish.prefer is not None and wish.prefer in (candidate.partition, candidate.name)
    total = one.latency.total if one.latency is not None else math.inf
    size = math.inf if candidate.bytes is None else candidate.bytes
    aim = {"latency": total, "energy": one.energy, "bandwidth": size}[wish.optimise]
    accuracy = -1.0 if candidate.accuracy is None else candidate.accuracy
    return (not one.allowed, not preferred, not one.keeps_up, aim, total, size, -accuracy, one.energy, candidate.key)
