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
    from models.information import EndpointCapabilities
    from pipeline.offers import OperatingPoint
    from pipeline.settings import UeSettings
    from signaling import Decision, InformationResponse, Manifest, SignalingClient
    from signaling.decision import Latency, Link

__all__ = ["ASSUMED_RATE", "decide_among", "decided", "need_of", "predicted"]

ASSUMED_RATE = 20e6
"""Bit/s of a link of which nothing is known but its round trip."""
MAX_NAMES = 64
"""Models or profiles that a request names."""


async def decided(
    signaling: SignalingClient,
    settings: UeSettings,
    offered: Sequence[OperatingPoint],
    resume_id: str,
    executor: Executor,
    rate: float = ASSUMED_RATE,
) -> OperatingPoint:
    """The one of the device's operating points that the edge or the UE has chosen; the edge keeps it for us.

    ``executor`` is a thread for what blocks; ``rate`` is the link's in bit/s. Raises as `SignalingClient.connect` does.
    """
    loop = asyncio.get_running_loop()
    measuring = loop.run_in_executor(executor, capabilities, settings.provider)
    rtt = await signaling.meet()
    need = need_of(settings, offered, replace(await measuring, rate=rate, rtt=1e3 * rtt))
    if settings.decide == "network":
        selection = (await signaling.request_inference(need, resume=resume_id)).selection
        # Which variant of the head runs is the device's own affair: the tail is the same.
        chosen = next((one for one in offered if replace(one, variant=selection.variant).matches(selection)), None)
        if chosen is None:
            raise ProtocolError("the edge selected an operating point that this device does not have")
        return chosen
    decision = decide_among(await signaling.request_information(need), need, offered)
    if decision.chosen is None:
        detail = decision.reasons or "the edge serves none of this device's operating points"
        raise rejection(make_problem(NO_COMMON_OPERATING_POINT, detail))
    selection = Selection.of(decision.chosen.candidate)
    await signaling.select(selection, resume=resume_id)
    return next(point for point in offered if point.matches(selection))


def need_of(settings: UeSettings, offered: Sequence[OperatingPoint], device: EndpointCapabilities) -> Need:
    """What this UE asks for, whose device can run the points ``offered``."""
    return Need(
        service=ServiceRequirements(offered[0].card.task, max_latency=1e3 * settings.budget),
        capabilities=replace(device, profiles=tuple(dict.fromkeys(point.profile for point in offered))[:MAX_NAMES]),
        optimise=settings.optimise,
        privacy=settings.privacy,
        modes=("split",),
        fps=settings.fps or DEFAULT_FPS,
        models=_models(offered),
        model=settings.model,
        partition=settings.partition,
        prefer=settings.prefer,
    )


def _models(offered: Iterable[OperatingPoint]) -> tuple[str, ...]:
    """Digests of the models of which the device has, or gets, the heads."""
    return tuple(dict.fromkeys(point.card.digest for point in offered))[:MAX_NAMES]


def decide_among(told: InformationResponse, need: Need, offered: Sequence[OperatingPoint]) -> Decision:
    """Choose among what the edge has and this device can run (step 5b)."""
    mine = {point.offer(1.0).operating_point for point in offered}
    candidates = [one for one in candidates_of(told.models) if Selection.of(one).operating_point in mine]
    return decide(candidates, need.device, Edge(told.capabilities, told.load, told.state), need.link, need.wish)


def predicted(manifest: Manifest, point: OperatingPoint, device: EndpointCapabilities, link: Link) -> Latency | None:
    """What a frame would take at one operating point, by part; None where that cannot be told.

    ``device.flops`` is the device's speed, as the probe found it, or as it is to be imagined.
    """
    wanted = point.offer(1.0).operating_point
    edge = Edge(manifest.capabilities, manifest.load, manifest.state)
    for candidate in candidates_of(manifest.models):
        if Selection.of(candidate).operating_point == wanted:
            return predict(candidate, Device(device), edge, link)
    return None
