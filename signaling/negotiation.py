"""Agreeing on a split by one offer and answer (TR 26.927 clause 5.3.5, steps 4 to 6).

Both of the TR's decision modes are the same exchange: the UE decides by offering one split, the network decides by
choosing among several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from signaling.aisplit import MAX_OFFERS, Direction, SplitOffer
from signaling.problems import NO_COMMON_OPERATING_POINT, make_problem, rejection
from splitrtc_errors import ProtocolError

__all__ = ["Acceptable", "check_answer", "choose"]


@dataclass(frozen=True, slots=True)
class Acceptable:
    """A partition that an edge runs: with which heads, and with which profiles under which calibrations.

    ``profiles`` maps a profile id to the digest of the calibration, None for a profile that has none.
    """

    model: str
    digest: str
    partition: str
    heads: tuple[str, ...]
    profiles: Mapping[str, str | None]
    direction: Direction = "up"

    def accepts(self, offer: SplitOffer) -> bool:
        """Whether this edge can do its part of ``offer``. The model's name does not count, its digest does."""
        return (
            (offer.digest, offer.partition, offer.direction) == (self.digest, self.partition, self.direction)
            and offer.head in self.heads
            and offer.profile in self.profiles
            and offer.calibration == self.profiles[offer.profile]
        )

    def offers(self, fps: float) -> list[SplitOffer]:
        """Every profile that would be accepted, as a peer would have to offer it with the first of the heads."""
        return [
            SplitOffer(
                model=self.model,
                digest=self.digest,
                partition=self.partition,
                head=self.heads[0],
                profile=profile,
                calibration=calibration,
                direction=self.direction,
                fps=fps,
                dynamic=False,
            )
            for profile, calibration in self.profiles.items()
        ]


def choose(
    offers: Sequence[SplitOffer],
    capabilities: Sequence[Acceptable],
    preference: Callable[[SplitOffer], float] | None = None,
) -> list[SplitOffer]:
    """The edge's answer: the acceptable ones of ``offers``, of which the first becomes active.

    The order is the UE's, unless ``preference`` ranks otherwise (the lowest rank first, the UE's order among equals).
    Those of direction "down" come after all others: they say how outputs come back, and no session is made of them.
    NoCommonOperatingPoint, with what would be acceptable, when no offer up is. ProtocolError when there is no offer.
    """
    if not offers:
        raise ProtocolError("the offer has no ai-split attribute: expected at least one line that names a split")
    accepted = [offer for offer in offers if any(capability.accepts(offer) for capability in capabilities)]
    if not any(offer.direction == "up" for offer in accepted):
        alternatives = [offer for capability in capabilities for offer in capability.offers(offers[0].fps)]
        ups = [offer for offer in alternatives if offer.direction == "up"]
        lines = tuple(offer.format() for offer in alternatives[:MAX_OFFERS])
        raise rejection(make_problem(NO_COMMON_OPERATING_POINT, _difference(offers[0], ups), acceptable=lines))
    return sorted(accepted, key=lambda offer: (offer.direction == "down", preference(offer) if preference else 0))


def check_answer(offered: Sequence[SplitOffer], answered: Sequence[SplitOffer]) -> list[SplitOffer]:
    """The UE's look at the answer: the agreed set, the active split first.

    Each one is what the UE offered, with the frame rate and the permission to change during the session that the edge
    answered: it may lower the one and withdraw the other. ProtocolError for anything else, and for an empty answer.
    """
    if not answered:
        raise ProtocolError(
            "the answer has no ai-split attribute: expected one of the offered splits; is this an edge?"
        )
    by_point = {offer.operating_point: offer for offer in offered}
    agreed = []
    for answer in answered:
        offer = by_point.pop(answer.operating_point, None)
        if offer is None:
            raise ProtocolError("the answer names a split that was not offered, or one twice")
        if answer.fps > offer.fps or answer.dynamic > offer.dynamic:
            raise ProtocolError("the answer asks for more frames, or for more freedom to change, than was offered")
        agreed.append(replace(offer, fps=answer.fps, dynamic=answer.dynamic))
    if agreed[0].direction != "up":
        raise ProtocolError("the answer begins with a split of direction down: the active one is one up")
    return agreed


def _difference(offer: SplitOffer, alternatives: Sequence[SplitOffer]) -> str:
    """Why the preferred offer is not to be had: in what it first departs from the most similar alternative."""
    names = ("model", "partition", "head", "profile", "calibration", "direction")
    agreement = max((_common(offer.operating_point, split.operating_point) for split in alternatives), default=0)
    told = f"the {names[agreement]} of the preferred offer is not served here"
    if names[agreement] == "calibration":
        told += ": both sides need the same calibration file, as the same version of splitrtc has"
    return told


def _common(one: tuple[object, ...], other: tuple[object, ...]) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=True)))
