"""From what an edge serves to the manifest that says so (TR 26.927 clause 5.3.5, step 1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from itertools import islice
from typing import TYPE_CHECKING

from models import IntermediateData, ModelInformation, SplitPoint, profile_ids
from models.information import EndpointCapabilities
from pipeline.reservations import RESERVATION
from signaling import MAX_OFFERS
from signaling.manifest import (
    MAX_MODELS,
    MAX_PARTITIONS,
    MAX_PROFILES,
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
    from models import ModelCard
    from pipeline.appraisal import Appraisal
    from pipeline.offers import OperatingPoint
    from pipeline.shelf import Shelf
    from signaling.files import ServedFile

__all__ = ["make_manifest"]


_MAP = re.compile(r"\bmAP (\d{1,2}(?:\.\d+)?)\b")
_BITS = re.compile(r"q(\d+)\b")
MATERIAL = ("moving", "static", "intra")
"""Of what a ladder was measured on, what counts for a camera: the first that there is, and of one the dearest."""
PACKED = 0.9
"""Of the quantised bits, about what zstd leaves (docs/evaluation.md): until a profile is measured."""


def make_manifest(
    points: Sequence[OperatingPoint], shelf: Shelf, appraisal: Appraisal, *, state: str, load: Load
) -> Manifest:
    """What is served at these points, the preferred ones first, with the files that the shelf has to give.

    Of costs it says what the appraisal knows by now. What is beyond the limits of a manifest is left out: nobody would
    read the rest.
    """
    by_model: dict[str, list[OperatingPoint]] = {}
    for point in points:
        by_model.setdefault(point.card.digest, []).append(point)
    return Manifest(
        service=Service("splitrtc", metadata.version("splitrtc")),
        state=state,
        load=load,
        limits=EdgeLimits(max_offers=MAX_OFFERS, reservation_ms=1e3 * RESERVATION),
        capabilities=appraisal.capabilities or EndpointCapabilities(frameworks=("ONNX",), profiles=profile_ids()),
        models=tuple(
            islice((entry for found in by_model.values() for entry in _entries(found, shelf, appraisal)), MAX_MODELS)
        ),
    )


def _entries(points: Sequence[OperatingPoint], shelf: Shelf, appraisal: Appraisal) -> Iterator[ModelEntry]:
    """The entry of one model, when its card is on the shelf and one of its cuts is known."""
    card = points[0].card
    by_cut: dict[str, list[OperatingPoint]] = {}
    for point in points:
        if shelf.crossing(point.partition):
            by_cut.setdefault(point.partition, []).append(point)
    file = shelf.card(card)
    if file is None or not by_cut:
        return
    by_cut = dict(islice(by_cut.items(), MAX_PARTITIONS))
    cost = appraisal.model(card.digest)
    yield ModelEntry(
        information=ModelInformation(
            identifier=card.digest,
            name=card.name,
            framework="ONNX",
            size=card.size,
            inputs=(card.image,),
            outputs=card.outputs,
            macs=None if cost is None else cost.macs,
            memory=None if cost is None else cost.memory,
            accuracy=_accuracy(card),
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
        partitions=tuple(_partition(found, shelf, appraisal) for found in by_cut.values()),
        whole=_file(whole) if (whole := shelf.whole(card)) else None,
        whole_ms=None if cost is None else cost.ms,
    )


def _accuracy(card: ModelCard) -> float | None:
    """The percentage in a card's statement for people."""
    found = _MAP.search(card.accuracy)
    return float(found[1]) if found else None


def _partition(points: Sequence[OperatingPoint], shelf: Shelf, appraisal: Appraisal) -> PartitionEntry:
    first = points[0]
    cost = appraisal.cut(first.partition)
    head_macs, head_ms = (None, None) if cost is None else (cost.head_macs, cost.head_ms)
    heads = {variant: shelf.head(first.card, first.cut, variant) for variant in first.heads}
    return PartitionEntry(
        id=first.partition,
        name=first.cut.name,
        variants=tuple(
            VariantEntry(name, _file(head) if head else None, head_macs, head_ms) for name, head in heads.items()
        ),
        profiles=tuple(_profile(point, shelf) for point in points[:MAX_PROFILES]),
        carries_input=bool(set(first.cut.tensors) & {spec.name for spec in first.card.inputs}),
        tail_ms=None if cost is None else cost.tail_ms,
    )


def _profile(point: OperatingPoint, shelf: Shelf) -> ProfileEntry:
    """A profile with its calibration, and what it costs by the card's ladder; else about the bytes, from its bits."""
    file = shelf.calibration(point)
    entry = ProfileEntry(point.profile, _file(file) if file else None)
    rung = next((rung for rung in point.cut.ladder if rung.profile == point.profile), None)
    measured = {one.content: one for one in rung.measured} if rung is not None else {}
    if one := next((measured[content] for content in MATERIAL if content in measured), None):
        entry = replace(entry, bytes=one.bytes, encode_ms=one.encode_ms, decode_ms=one.decode_ms, f1=one.f1)
        labelled = next((one.map_drop for one in measured.values() if one.map_drop is not None), None)
        whole = _accuracy(point.card)
        if labelled is not None and whole is not None:
            entry = replace(entry, accuracy=min(100.0, max(0.0, whole - labelled)))
        return entry
    specs = shelf.crossing(point.partition)
    if bits := _BITS.match(point.profile):
        share = PACKED if "zstd" in point.profile else 1.0
        return replace(entry, bytes=sum(spec.elements for spec in specs) * int(bits[1]) / 8 * share)
    if point.profile.startswith("raw"):
        return replace(entry, bytes=float(sum(spec.nbytes for spec in specs)))
    return entry


def _file(served: ServedFile) -> File:
    return File(served.digest, served.size, served.name)
