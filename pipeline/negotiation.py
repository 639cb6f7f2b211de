"""The edge's answers to the procedures of TR 26.927 clause 5.2.3.2: what it has, and what it would take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING

from signaling import (
    DRAINING,
    EDGE_FULL,
    NO_COMMON_OPERATING_POINT,
    InformationRequest,
    InformationResponse,
    Selection,
    candidates_of,
    decide,
    make_problem,
    rejection,
)
from signaling.decision import Edge

if TYPE_CHECKING:
    from pipeline.offers import OperatingPoint
    from signaling import Decision, Manifest, Need

__all__ = ["information", "point_of", "selected"]

MOST_BYTES = 200_000
"""Of the models in a response; a SWAP message has at most 262 144."""


def _matched(manifest: Manifest, need: Need) -> Manifest:
    """Without the models and partitions that the UE does not want (step 3b)."""
    models = []
    for model in manifest.models:
        if need.model in (None, model.information.name, model.information.identifier):
            cuts = tuple(cut for cut in model.partitions if need.partition in (None, cut.name, cut.id))
            models.append(replace(model, partitions=cuts))
    return replace(manifest, models=tuple(models))


def _fitting(manifest: Manifest) -> Manifest:
    """With as many models, the preferred ones first, as a message has room for, and one in any case."""
    sizes = accumulate(len(json.dumps(model.to_json(), separators=(",", ":"))) for model in manifest.models)
    count = sum(1 for _ in takewhile(lambda size: size <= MOST_BYTES, sizes))
    return replace(manifest, models=manifest.models[: max(1, count)])


def _decide(manifest: Manifest, need: Need) -> Decision:
    edge = Edge(manifest.capabilities, manifest.load, manifest.state)
    return decide(candidates_of(manifest.models), need.device, edge, need.link, need.wish)


def selected(manifest: Manifest, need: Need, retry_after: float) -> Selection:
    """What the edge takes for this UE (step 4a).

    When there is nothing, NoCommonOperatingPoint with reasons; EdgeFull where ``retry_after`` seconds may help.
    """
    decision = _decide(_matched(manifest, need), need)
    if decision.chosen is None:
        if manifest.state in ("full", "draining"):
            type_ = EDGE_FULL if manifest.state == "full" else DRAINING
            raise rejection(make_problem(type_, retry_after=retry_after))
        detail = decision.reasons or "the model that is asked for is not served here"
        raise rejection(make_problem(NO_COMMON_OPERATING_POINT, detail))
    return Selection.of(decision.chosen.candidate)


def information(manifest: Manifest, request: InformationRequest) -> InformationResponse:
    """The candidates for this UE, and which of them the edge would take (steps 3b, 4b)."""
    manifest = _fitting(_matched(manifest, request.need))
    chosen = _decide(manifest, request.need).chosen
    return InformationResponse(
        id=request.id,
        models=manifest.models,
        capabilities=manifest.capabilities,
        load=manifest.load,
        state=manifest.state,
        preferred=None if chosen is None else Selection.of(chosen.candidate),
    )


def point_of(selection: Selection, points: Iterable[OperatingPoint]) -> OperatingPoint:
    """The operating point that is selected; NoCommonOperatingPoint when it is not among these."""
    for point in points:
        for head in point.heads:
            variant = replace(point, variant=head)
            if variant.matches(selection):
                return variant
    raise rejection(make_problem(NO_COMMON_OPERATING_POINT, "what was selected is not served here"))
