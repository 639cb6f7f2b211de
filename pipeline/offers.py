"""From the zoo to what is offered and accepted: the bridge between model cards and split negotiation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models import Calibration, needs_calibration, parse_profile
from signaling import Acceptable, SplitOffer
from splitrtc_errors import UnknownModel

if TYPE_CHECKING:
    from models import ModelCard, PartitionCard, Zoo

__all__ = ["VARIANT", "OperatingPoint", "acceptables", "points"]

VARIANT = "fp32"
"""The one variant of heads and tails for now."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A model, a cut of it and a profile that this machine can run: what one ``ai-split`` line stands for."""

    card: ModelCard
    cut: PartitionCard
    profile: str
    calibration: Calibration | None

    @property
    def partition(self) -> str:
        """The partition's id."""
        return self.card.partition_id(self.cut)

    def offer(self, fps: float) -> SplitOffer:
        """The ``ai-split`` line that offers this point for so many frames per second."""
        return SplitOffer(
            model=self.card.name,
            digest=self.card.digest,
            partition=self.partition,
            head=VARIANT,
            profile=self.profile,
            calibration=self.calibration.digest if self.calibration else None,
            direction="up",
            fps=fps,
            dynamic=False,
        )

    def matches(self, offer: SplitOffer) -> bool:
        """Whether an ``ai-split`` line names this very point."""
        return offer.operating_point == self.offer(offer.fps).operating_point


def points(
    zoo: Zoo, *, model: str | None = None, partition: str | None = None, profile: str | None = None
) -> list[OperatingPoint]:
    """The operating points that the zoo allows, narrowed to what is asked for; defaults come first.

    Raises UnknownModel for what the zoo does not have, BadArgument for a malformed profile.
    """
    if profile is not None:
        parse_profile(profile)
    cards = [zoo.get(name) for name in zoo.names()] if model is None else [zoo.get(model)]
    found = [point for card in cards for point in _points_of(card, partition, profile)]
    if not found:
        raise UnknownModel(f"{profile} needs a calibration, and {model or 'no model of the zoo'} has none for it")
    return found


def _points_of(card: ModelCard, partition: str | None, profile: str | None) -> Iterator[OperatingPoint]:
    if partition is None:
        cuts: Iterable[PartitionCard] = sorted(card.partitions, key=lambda cut: not cut.default)
    else:
        cuts = [card.partition(partition)]
    profiles = [profile] if profile else sorted(card.profiles, key=lambda name: name != card.default_profile)
    for cut in cuts:
        path = card.calibration_path(cut)
        calibration = Calibration.load(path) if path is not None and path.exists() else None
        for name in profiles:
            if not needs_calibration(parse_profile(name)):
                yield OperatingPoint(card, cut, name, None)
            elif calibration is not None:
                yield OperatingPoint(card, cut, name, calibration)


def acceptables(operating_points: Sequence[OperatingPoint]) -> list[Acceptable]:
    """The same points as the edge's side of the negotiation wants them."""
    by_cut: dict[tuple[str, str], dict[str, str | None]] = {}
    names: dict[str, str] = {}
    for point in operating_points:
        profiles = by_cut.setdefault((point.card.digest, point.partition), {})
        profiles[point.profile] = point.calibration.digest if point.calibration else None
        names[point.card.digest] = point.card.name
    return [
        Acceptable(names[digest], digest, partition, (VARIANT,), profiles)
        for (digest, partition), profiles in by_cut.items()
    ]
