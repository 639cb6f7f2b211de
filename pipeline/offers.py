"""From the zoo to what is offered and accepted: the bridge between model cards and split negotiation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from models import Calibration, PartitionCard, is_calibrated, needs_calibration, parse_profile, profile_ids
from models.card import DEFAULT_OUTPUT_PROFILE
from models.default_cut import with_cut
from models.task import DETECTION, TENSORS
from models.zoo import DEFAULT_MODEL
from pipeline.settings import VIDEO
from rtc import MAX_SLICES, unit_payload_limit
from signaling import MAX_OFFERS, Acceptable, ParameterSet, SplitOffer
from signaling.control import MAX_DEADLINE_MS
from splitrtc_errors import ModelFileError, UnknownModel

if TYPE_CHECKING:
    from models import ModelCard, TensorSpec, Zoo
    from signaling.applications import Selection

__all__ = ["OperatingPoint", "acceptables", "offers", "output_profile", "points", "remote_points"]

_UNCALIBRATED = dict.fromkeys(name for name in profile_ids() if not needs_calibration(parse_profile(name)))
"""The profiles in which outputs come back: those that need no calibration."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A model, a cut of it and a profile that this machine can run: what one ``ai-split`` line stands for.

    ``variant`` is the head's; the tail that goes with it is always the original one.
    """

    card: ModelCard
    cut: PartitionCard
    profile: str
    calibration: Calibration | None
    variant: str = "fp32"

    @property
    def partition(self) -> str:
        """The partition's id."""
        return self.card.partition_id(self.cut)

    @property
    def carries_input(self) -> bool:
        """Whether the picture itself would be sent, as video or among the tensors."""
        return any(spec.name in self.cut.tensors for spec in self.card.inputs)

    @property
    def is_video(self) -> bool:
        """Whether this is the `remote` mode: the cut is the model's input, the head is empty."""
        return self.profile == VIDEO

    @property
    def heads(self) -> tuple[str, ...]:
        """The variants of the head that this cut may have."""
        return ("fp32", *self.cut.variants)

    def offer(self, fps: float) -> SplitOffer:
        """The ``ai-split`` line that offers this point for so many frames per second."""
        return SplitOffer(
            model=self.card.name,
            digest=self.card.digest,
            partition=self.partition,
            head=self.variant,
            profile=self.profile,
            calibration=self._calibration_digest,
            direction="up",
            fps=fps,
            dynamic=False,
        )

    def output_offer(self, fps: float) -> SplitOffer:
        """The ``ai-split`` line that says how the outputs are to come back, of a model that gives tensors."""
        profile = self.card.output_profile
        return replace(self.offer(fps), profile=profile, calibration=None, direction="down")

    def parameter_set(self, tensors: Sequence[TensorSpec], *, deadline: float, budget: float) -> ParameterSet:
        """The parameter set of frames at this point, without an id yet; both times in seconds."""
        return ParameterSet(
            id=0,
            direction="up",
            model=self.card.digest,
            partition=self.partition,
            variant=self.variant,
            profile=self.profile,
            calibration=self._calibration_digest,
            tensors=tuple(tensors),
            deadline_ms=_milliseconds(deadline),
            budget_ms=_milliseconds(budget),
        )

    def matches(self, named: SplitOffer | ParameterSet | Selection) -> bool:
        """Whether an ``ai-split`` line, a parameter set or a selection names this very point."""
        return named.operating_point == self.offer(1.0).operating_point

    @property
    def _calibration_digest(self) -> str | None:
        return self.calibration.digest if self.calibration else None


def offers(operating_points: Sequence[OperatingPoint], fps: float) -> list[SplitOffer]:
    """The ``ai-split`` lines that offer these points, as many as an offer holds."""
    lines: list[SplitOffer] = []
    for point in operating_points:
        lines.append(point.offer(fps))
        if point.card.task == TENSORS and (back := point.output_offer(fps)) not in lines:
            lines.append(back)
    return lines[:MAX_OFFERS]


def output_profile(agreed: Iterable[SplitOffer]) -> str:
    """The profile of the outputs, from the lines that were agreed on; raw where none speaks of it."""
    return next((line.profile for line in agreed if line.direction == "down"), DEFAULT_OUTPUT_PROFILE)


def _milliseconds(seconds: float) -> int:
    return min(max(round(seconds * 1000), 1), MAX_DEADLINE_MS)


def points(
    zoo: Zoo, *, model: str | None = None, partition: str | None = None, profile: str | None = None
) -> list[OperatingPoint]:
    """The operating points that the zoo allows, narrowed to what is asked for; defaults come first.

    Without ``model``, those of all models whose files are here. A model without a partition on its card is opened to
    find one, which takes a while.

    Raises UnknownModel for what the zoo does not have, BadArgument for a malformed profile, ModelFileError for a
    calibration that does not fit, or for a file that is not here.
    """
    if profile is not None:
        parse_profile(profile)
    names = [model] if model is not None else sorted(zoo.names(), key=lambda name: name != DEFAULT_MODEL)
    cards = [card for card in map(zoo.get, names) if model is not None or card.is_here]
    all_cuts = [(card, cut) for card in map(with_cut, cards) for cut in sorted(card.partitions, key=_default_first)]
    # Of all models, those that have it: a name may mean a cut of several, an id only one.
    cuts = [(card, cut) for card, cut in all_cuts if partition in (None, cut.name, card.partition_id(cut))]
    if not cuts:
        raise UnknownModel(f"no partition {partition!r:.100}; there are: {_listed(all_cuts)}")
    for card, _ in cuts:
        _check_outputs(card)
    found = [point for card, cut in cuts for point in _points_of(card, cut, profile)]
    if not found:
        command = f"splitrtc calibrate --profile {profile}" if profile else "splitrtc calibrate"
        raise UnknownModel(
            f"{profile or 'every profile'} needs a calibration, and there is none of {_listed(cuts)}: make one with "
            f"`{command}`"
        )
    return found


def remote_points(zoo: Zoo, *, model: str | None = None, here: bool = False) -> list[OperatingPoint]:
    """The operating point `remote` of one model, or of all, the default one first: the whole model runs at the edge.

    ``here``: only of models whose files are here, which the edge needs and the UE does not. Only detectors: what
    they find comes back in the result. Raises UnknownModel.
    """
    names = [model] if model is not None else sorted(zoo.names(), key=lambda name: name != DEFAULT_MODEL)
    cards = [card for card in map(zoo.get, names) if card.task == DETECTION and (card.is_here or not here)]
    return [OperatingPoint(card, _input_of(card), VIDEO, None) for card in cards]


def _input_of(card: ModelCard) -> PartitionCard:
    return PartitionCard(name="input", tensors=(card.image.name,), calibration=None, default=False)


def _check_outputs(card: ModelCard) -> None:
    """Refuse a model whose outputs are to come back raw, and do not fit into a frame. Compressed ones may."""
    size, most = sum(spec.nbytes for spec in card.outputs), MAX_SLICES * unit_payload_limit()
    if card.task == TENSORS and card.output_profile == DEFAULT_OUTPUT_PROFILE and size > most:
        raise ModelFileError(
            f"the outputs of model {card.name} have {size} bytes, and a frame holds {most}: "
            "try another 'output_profile', such as raw-zstd, in its card"
        )


def _default_first(cut: PartitionCard) -> bool:
    return not cut.default


def _listed(cuts: Sequence[tuple[ModelCard, PartitionCard]]) -> str:
    return ", ".join(f"{cut.name} of {card.name}" for card, cut in cuts)


def _points_of(card: ModelCard, cut: PartitionCard, profile: str | None) -> Iterator[OperatingPoint]:
    calibration = _calibration_of(card, cut)
    for name in [profile] if profile else _default_outwards(card):
        parsed = parse_profile(name)
        if is_calibrated(parsed, calibration):
            yield OperatingPoint(card, cut, name, calibration if needs_calibration(parsed) else None)


def _default_outwards(card: ModelCard) -> list[str]:
    """The card's profiles, the default first, then those beside it: where that cannot be had, what is most like it."""
    place = card.profiles.index(card.default_profile)
    return sorted(card.profiles, key=lambda name: abs(card.profiles.index(name) - place))


def _calibration_of(card: ModelCard, cut: PartitionCard) -> Calibration | None:
    path = card.calibration_path(cut)
    if path is None or not path.exists():
        return None
    calibration = Calibration.load(path)
    if calibration.partition != card.partition_id(cut):
        raise ModelFileError(f"{path} was made for another model or cut: make it again with `splitrtc calibrate`")
    return calibration


def acceptables(operating_points: Sequence[OperatingPoint]) -> list[Acceptable]:
    """The same points as the edge's side of the negotiation wants them."""
    by_cut: dict[tuple[str, str], dict[str, str | None]] = {}
    names: dict[str, str] = {}
    heads: dict[tuple[str, str], tuple[str, ...]] = {}
    give_tensors: set[str] = set()
    for point in operating_points:
        profiles = by_cut.setdefault((point.card.digest, point.partition), {})
        profiles[point.profile] = point.calibration.digest if point.calibration else None
        names[point.card.digest] = point.card.name
        heads[point.card.digest, point.partition] = point.heads
        if point.card.task == TENSORS:
            give_tensors.add(point.card.digest)
    return [
        Acceptable(names[digest], digest, partition, heads[digest, partition], profiles)
        for (digest, partition), profiles in by_cut.items()
    ] + [
        Acceptable(names[digest], digest, partition, heads[digest, partition], _UNCALIBRATED, direction="down")
        for digest, partition in by_cut
        if digest in give_tensors
    ]
