"""What can be chosen from: the operating points of a manifest, each with what is known of its cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from signaling.manifest import ModelEntry, PartitionEntry, ProfileEntry, VariantEntry

__all__ = ["REMOTE_PROFILE", "Candidate", "candidates_of"]

REMOTE_PROFILE = "video"
"""The profile of a partition whose head is empty: the camera's pictures as an ordinary video track."""
LOCAL_VARIANT = "fp32"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An operating point; what is not known of it is None.

    ``partition``, ``name``, ``profile`` and ``calibration`` are None in mode local. ``head_ms``, ``encode_ms`` and
    ``decode_ms`` are milliseconds of one thread of the edge's CPU, ``tail_ms`` as the edge runs it. ``accuracy`` and
    ``model_accuracy`` (of the model left whole) are percent, ``f1`` the agreement with it. ``obtainable``: what the
    device needs can be fetched from the edge.
    """

    mode: str
    model: str
    model_name: str
    partition: str | None
    name: str | None
    variant: str
    profile: str | None
    calibration: str | None = None
    head_macs: int | None = None
    head_ms: float | None = None
    encode_ms: float | None = None
    bytes: float | None = None
    decode_ms: float | None = None
    tail_ms: float | None = None
    accuracy: float | None = None
    model_accuracy: float | None = None
    f1: float | None = None
    memory: int | None = None
    carries_input: bool = False
    obtainable: bool = True

    @property
    def key(self) -> tuple[str, ...]:
        """By which two candidates differ."""
        parts = (self.mode, self.model, self.partition, self.variant, self.profile, self.calibration)
        return tuple(part or "" for part in parts)

    def to_json(self) -> dict[str, Any]:
        """As plain values, without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def candidates_of(models: Iterable[ModelEntry]) -> list[Candidate]:
    """Every operating point of these models: each whole on the device, and each of their partitions' ladders."""
    return [candidate for model in models for candidate in (_local(model), *_shared(model))]


def _local(model: ModelEntry) -> Candidate:
    known = model.information
    return Candidate(
        mode="local",
        model=known.identifier,
        model_name=known.name,
        partition=None,
        name=None,
        variant=LOCAL_VARIANT,
        profile=None,
        head_macs=known.macs,
        head_ms=model.whole_ms,
        bytes=0.0,
        accuracy=known.accuracy,
        model_accuracy=known.accuracy,
        memory=known.memory,
        obtainable=model.whole is not None,  # by whoever asks for it: a session does not
    )


def _shared(model: ModelEntry) -> Iterator[Candidate]:
    for partition in model.partitions:
        for variant in partition.variants:
            for profile in partition.profiles:
                yield _point(model, partition, variant, profile)


def _point(model: ModelEntry, partition: PartitionEntry, variant: VariantEntry, profile: ProfileEntry) -> Candidate:
    known = model.information
    remote = profile.profile == REMOTE_PROFILE
    told = [value for value in (variant.accuracy, profile.accuracy) if value is not None]
    return Candidate(
        mode="remote" if remote else "split",
        model=known.identifier,
        model_name=known.name,
        partition=partition.id,
        name=partition.name,
        variant=variant.name,
        profile=profile.profile,
        calibration=None if profile.calibration is None else profile.calibration.digest,
        head_macs=variant.head_macs,
        head_ms=variant.head_ms,
        encode_ms=profile.encode_ms,
        bytes=profile.bytes,
        decode_ms=profile.decode_ms,
        tail_ms=partition.tail_ms,
        accuracy=min(told, default=None),
        model_accuracy=known.accuracy,
        f1=profile.f1,
        # What a head needs at a time is rarely less than the whole model: the largest tensors come first.
        memory=None if remote else known.memory,
        carries_input=partition.carries_input,
        obtainable=remote or variant.head is not None,
    )
