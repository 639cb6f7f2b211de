"""The UE's part in the decision on the operating point (TR 26.927 clause 5.2.3.2), before it connects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING

from models.information import ServiceRequirements
from pipeline.capabilities import capabilities
from pipeline.settings import DEFAULT_FPS
from signaling import NO_COMMON_OPERATING_POINT, Need, Selection, candidates_of, decide, make_problem, rejection
from signaling.decision import Device, Edge, predict
from splitrtc_errors import ProtocolError

if TYPE_CHECKING:
    from models import ModelCard
    from models.information import EndpointCapabilities
    from pipeline.offers import OperatingPoint
    from pipeline.settings import UeSettings
    from rtc import LinkStatistics
    from signaling import Decision, InformationResponse, Manifest, SignalingClient
    from signaling.decision import Latency, Link

__all__ = ["ASSUMED_RATE", "GoAlone", "Rates", "decide_among", "decided", "need_of", "predicted"]

ASSUMED_RATE = 20e6
"""Bit/s of a link of which nothing is known but its round trip."""
LEAST_GOODPUT = 1e4
"""Bit/s of a session that had frames to send in its last second: with less, it says nothing of the link."""
FULL = 0.05
"""Share of the frames that the sender dropped, above which the link was what limited the session."""
MAX_NAMES = 64
"""Models or profiles that a request names."""


class GoAlone(Exception):
    """The decision is that the device does all of it, with the model of this card: there is nothing to connect for."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__(f"{card.name} on the device alone, as decided")
        self.card = card


class Rates:
    """What is known of the rates of the links to edges, by URL, from the sessions that there were."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}

    def to(self, url: str) -> float:
        """Bit/s."""
        return self._rates.get(url, ASSUMED_RATE)

    def learn(self, url: str, statistics: LinkStatistics, now: float) -> None:
        """A session with the edge there has these statistics now.

        What came through is the link's rate where the sender had to drop frames; else the link may be faster.
        """
        goodput = statistics.goodput(now)
        if goodput >= LEAST_GOODPUT:
            is_full = statistics.frames_dropped > FULL * statistics.frames_sent
            self._rates[url] = goodput if is_full else max(goodput, self.to(url))


async def decided(
    signaling: SignalingClient,
    settings: UeSettings,
    offered: Sequence[OperatingPoint],
    resume_id: str,
    executor: Executor,
    rate: float = ASSUMED_RATE,
) -> OperatingPoint:
    """The one of the device's operating points that the edge or the UE has chosen; the edge keeps it for us.

    ``executor`` is a thread for what blocks; ``rate`` is the link's in bit/s. Raises as `SignalingClient.connect` does,
    and GoAlone.
    """
    loop = asyncio.get_running_loop()
    measuring = loop.run_in_executor(executor, capabilities, settings.provider, settings.threads)
    rtt = await signaling.meet()
    need = need_of(settings, offered, replace(await measuring, rate=rate, rtt=1e3 * rtt))
    if settings.decide == "network":
        selection = (await signaling.request_inference(need, resume=resume_id)).selection
        return _acting_on(selection, offered, any_variant=True)
    decision = decide_among(await signaling.request_information(need), need, offered)
    if decision.chosen is None:
        detail = decision.reasons or "the edge serves none of this device's operating points"
        raise rejection(make_problem(NO_COMMON_OPERATING_POINT, detail))
    selection = Selection.of(decision.chosen.candidate)
    chosen = _acting_on(selection, offered)
    await signaling.select(selection, resume=resume_id)
    return chosen


def _acting_on(selection: Selection, offered: Sequence[OperatingPoint], *, any_variant: bool = False) -> OperatingPoint:
    """The device's point that is selected. GoAlone in mode local; ProtocolError when the device does not have it."""
    for point in offered:
        if selection.mode == "local" and point.card.digest == selection.model and _is_here(point.card):
            raise GoAlone(point.card)
        # Which variant of the head runs is the device's own affair: the tail is the same.
        if (replace(point, variant=selection.variant) if any_variant else point).matches(selection):
            return point
    raise ProtocolError("the edge selected an operating point that this device does not have")


def need_of(settings: UeSettings, offered: Sequence[OperatingPoint], device: EndpointCapabilities) -> Need:
    """What this UE asks for, whose device can run the points ``offered``."""
    whole = _models_here(offered)
    modes = dict.fromkeys("remote" if point.is_video else "split" for point in offered)
    if settings.may_decide_on_mode and settings.fallback and whole:
        modes["local"] = None
    return Need(
        service=ServiceRequirements(offered[0].card.task, max_latency=1e3 * settings.budget),
        capabilities=replace(device, profiles=tuple(dict.fromkeys(point.profile for point in offered))[:MAX_NAMES]),
        optimise=settings.optimise,
        privacy=settings.privacy,
        modes=tuple(modes),
        fps=settings.fps or DEFAULT_FPS,
        models=whole,
        model=settings.model,
        partition=settings.partition,
        prefer=settings.prefer,
    )


def _models_here(offered: Iterable[OperatingPoint]) -> tuple[str, ...]:
    """Digests of the whole models that the device has."""
    return tuple(dict.fromkeys(point.card.digest for point in offered if _is_here(point.card)))[:MAX_NAMES]


def _is_here(card: ModelCard) -> bool:
    """Whether the whole model is on the device; a card that an edge delivered comes from no folder."""
    return card.directory is not None and card.is_here


def decide_among(told: InformationResponse, need: Need, offered: Sequence[OperatingPoint]) -> Decision:
    """Choose among what the edge has and this device can run (step 5b)."""
    mine = {point.offer(1.0).operating_point for point in offered}
    candidates = [
        one
        for one in candidates_of(told.models)
        if (one.model in need.models if one.mode == "local" else Selection.of(one).operating_point in mine)
    ]
    return decide(candidates, need.device, Edge(told.capabilities, told.load, told.state), need.link, need.wish)


def predicted(
    manifest: Manifest, point: OperatingPoint, device: EndpointCapabilities, link: Link, fps: float | None = None
) -> Latency | None:
    """What a frame would take at one operating point, by part, of so many per second; None where that is not known.

    ``device.flops`` is the device's speed, as the probe found it, or as it is to be imagined.
    """
    wanted = point.offer(1.0).operating_point
    edge = Edge(manifest.capabilities, manifest.load, manifest.state)
    for candidate in candidates_of(manifest.models):
        if Selection.of(candidate).operating_point == wanted:
            return predict(candidate, Device(device), edge, link, fps)
    return None
