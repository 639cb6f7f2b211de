"""From what an edge serves to the manifest that says so (TR 26.927 clause 5.3.5, step 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from models import IntermediateData, ModelInformation, SplitPoint, profile_ids
from models.information import EndpointCapabilities
from signaling import MAX_OFFERS
from signaling.manifest import (
    EdgeLimits,
    File,
    Load,
    Manifest,
    ModelEntry,
    PartitionEntry,
    ProfileEntry,
    Service,
    VariantEntry,
)

if TYPE_CHECKING:
    from pipeline.offers import OperatingPoint
    from pipeline.shelf import Shelf
    from signaling.files import ServedFile

__all__ = ["make_manifest"]


def make_manifest(points: Sequence[OperatingPoint], shelf: Shelf, *, state: str, load: Load) -> Manifest:
    """What is served at these points, the preferred ones first, with the files that the shelf has to give."""
    by_model: dict[str, list[OperatingPoint]] = {}
    for point in points:
        by_model.setdefault(point.card.digest, []).append(point)
    return Manifest(
        service=Service("splitrtc", metadata.version("splitrtc")),
        state=state,
        load=load,
        limits=EdgeLimits(max_offers=MAX_OFFERS),
        capabilities=EndpointCapabilities(frameworks=("ONNX",), profiles=profile_ids()),
        models=tuple(entry for found in by_model.values() for entry in _entries(found, shelf)),
    )


def _entries(points: Sequence[OperatingPoint], shelf: Shelf) -> Iterator[ModelEntry]:
    """The entry of one model, when its card is on the shelf and one of its cuts is known."""
    card = points[0].card
    by_cut: dict[str, list[OperatingPoint]] = {}
    for point in points:
        if shelf.crossing(point.partition):
            by_cut.setdefault(point.partition, []).append(point)
    file = shelf.card(card)
    if file is None or not by_cut:
        return
    yield ModelEntry(
        information=ModelInformation(
            identifier=card.digest,
            name=card.name,
            framework="ONNX",
            size=card.size,
            inputs=(card.image,),
            outputs=card.outputs,
            split_points=tuple(
                SplitPoint.of(
                    card.digest,
                    number,
                    found[0].cut.name,
                    "after",
                    IntermediateData(shelf.crossing(partition), profiles=profile_ids()),
                )
                for number, (partition, found) in enumerate(by_cut.items())
            ),
        ),
        card=_file(file),
        deliver=card.deliver,
        partitions=tuple(_partition(found, shelf) for found in by_cut.values()),
        whole=_file(whole) if (whole := shelf.whole(card)) else None,
    )


def _partition(points: Sequence[OperatingPoint], shelf: Shelf) -> PartitionEntry:
    first = points[0]
    heads = {variant: shelf.head(first.card, first.cut, variant) for variant in first.heads}
    calibrations = {point.profile: shelf.calibration(point) for point in points}
    return PartitionEntry(
        id=first.partition,
        name=first.cut.name,
        variants=tuple(VariantEntry(name, _file(head) if head else None) for name, head in heads.items()),
        profiles=tuple(ProfileEntry(name, _file(file) if file else None) for name, file in calibrations.items()),
        carries_input=bool(set(first.cut.tensors) & {spec.name for spec in first.card.inputs}),
    )


def _file(served: ServedFile) -> File:
    return File(served.digest, served.size, served.name)
