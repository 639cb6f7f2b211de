"""The service manifest: what an edge offers, for devices that have never seen it (TR 26.927 clause 5.3.5, steps 1-2).

Fetched at ``GET /manifest``, with the access token if the edge wants one. One JSON object ``{"format": 1, "kind":
"manifest", ...}``; `manifest.schema.json` beside this module is its JSON Schema, and docs/announcement.md says what the
members mean. Models and capabilities are told in the TR's terms (`models.information`). What is not known is left out.
Times are in milliseconds, sizes in bytes, accuracy in percent. Reading it loads neither numpy nor onnxruntime.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

from models.codecs import is_profile_id
from models.identity import digest_hex, is_digest, is_partition_id
from models.information import EndpointCapabilities, ModelInformation, take_information
from models.members import Members, read_object
from signaling.entries import Entry, choice, flag, integer, matching, maybe, number, one, some
from splitrtc_errors import ModelFileError, ProtocolError

__all__ = [
    "DELIVERIES",
    "MAX_BYTES",
    "MAX_MODELS",
    "MAX_PARTITIONS",
    "MAX_PROFILES",
    "STATES",
    "TAKE_MODELS",
    "EdgeLimits",
    "File",
    "Load",
    "Manifest",
    "ModelEntry",
    "PartitionEntry",
    "ProfileEntry",
    "Service",
    "VariantEntry",
    "manifest_bytes",
    "read_manifest",
]

FORMAT = 1
API = 1
"""Of the messages and routes that belong to a manifest; one that a reader does not know has another number."""
STATES = ("ready", "warming", "draining", "full")
DELIVERIES = ("head", "whole", "none")
"""What of a model may leave the edge. A tail alone never does."""

MAX_BYTES = 2**22
MAX_MODELS = 64
MAX_PARTITIONS = 64
MAX_VARIANTS = 8
MAX_PROFILES = 64
MAX_FILE = 2**34
"""Bytes of one file."""


_PERCENT = number(100.0)


@dataclass(frozen=True, slots=True)
class File(Entry):
    """A file that the edge serves at ``GET /files/<hex digits of its digest>``; ``name`` is what to call it."""

    digest: str
    size: int
    name: str

    _members: ClassVar = {
        "digest": matching(is_digest, "'sha-256:' and 64 lower-case hex digits"),
        "size": integer(1, MAX_FILE),
        "name": Members.take_name,
    }

    @property
    def path(self) -> str:
        """Where it is fetched, at the edge."""
        return f"/files/{digest_hex(self.digest)}"


_FILE = maybe(one(File))


@dataclass(frozen=True, slots=True)
class ProfileEntry(Entry):
    """A way to code a partition's intermediate data, and what it was measured to cost.

    ``bytes`` is one frame's mean, ``encode_ms`` and ``decode_ms`` are for one thread of the edge's CPU, ``f1`` from 0
    to 1 is the agreement with the model left whole. ``calibration`` is the file that both ends must have.
    """

    profile: str
    calibration: File | None = None
    bytes: float | None = None
    encode_ms: float | None = None
    decode_ms: float | None = None
    accuracy: float | None = None
    f1: float | None = None

    _members: ClassVar = {
        "profile": matching(is_profile_id, "the id of a profile"),
        "calibration": _FILE,
        "bytes": Members.take_number,
        "encode_ms": Members.take_number,
        "decode_ms": Members.take_number,
        "accuracy": _PERCENT,
        "f1": number(1.0),
    }


@dataclass(frozen=True, slots=True)
class VariantEntry(Entry):
    """A form of a partition's head. ``head_ms`` is for one thread of the edge's CPU; without ``head``, none leaves."""

    name: str
    head: File | None = None
    head_macs: int | None = None
    head_ms: float | None = None
    accuracy: float | None = None

    _members: ClassVar = {
        "name": Members.take_name,
        "head": _FILE,
        "head_macs": Members.take_count,
        "head_ms": Members.take_number,
        "accuracy": _PERCENT,
    }


@dataclass(frozen=True, slots=True)
class PartitionEntry(Entry):
    """A cut that the edge runs the tail of. ``id`` is that of one of the model's split points, ``tail_ms`` as it ran.

    ``carries_input`` says that an input of the model crosses: it would send the picture.
    """

    id: str
    name: str
    variants: tuple[VariantEntry, ...]
    profiles: tuple[ProfileEntry, ...]
    carries_input: bool = False
    tail_ms: float | None = None

    _members: ClassVar = {
        "id": matching(is_partition_id, "32 lower-case hex digits"),
        "name": Members.take_name,
        "variants": some(VariantEntry, MAX_VARIANTS, lambda entry: entry.name),
        "profiles": some(ProfileEntry, MAX_PROFILES, lambda entry: entry.profile),
        "carries_input": flag,
        "tail_ms": Members.take_number,
    }


@dataclass(frozen=True, slots=True)
class ModelEntry(Entry):
    """A model that the edge runs, with its card's file; ``deliver`` says what of it may leave the edge.

    ``whole_ms`` is one run of the whole model on one thread of the edge's CPU.
    """

    information: ModelInformation
    card: File
    deliver: str
    partitions: tuple[PartitionEntry, ...]
    whole: File | None = None
    whole_ms: float | None = None

    _members: ClassVar = {
        "information": lambda members, name: take_information(members, name, ModelInformation),
        "card": one(File),
        "deliver": choice(DELIVERIES),
        "partitions": some(PartitionEntry, MAX_PARTITIONS, lambda entry: entry.id),
        "whole": _FILE,
        "whole_ms": Members.take_number,
    }

    def _check(self, where: str) -> None:
        points = {point.identifier for point in self.information.split_points}
        if not {partition.id for partition in self.partitions} <= points:
            raise ModelFileError(f"{where}: a partition is one of the model's split points")
        heads = any(variant.head for partition in self.partitions for variant in partition.variants)
        if (self.whole is not None and self.deliver != "whole") or (heads and self.deliver == "none"):
            raise ModelFileError(f"{where}: a file that 'deliver' does not let out")


TAKE_MODELS = some(ModelEntry, MAX_MODELS, lambda entry: entry.information.identifier)


@dataclass(frozen=True, slots=True)
class Service(Entry):
    """What to call the service, and the version of the software that runs it."""

    name: str
    version: str

    _members: ClassVar = {"name": Members.take_text, "version": Members.take_text}


@dataclass(frozen=True, slots=True)
class Load(Entry):
    """Sessions that the edge has, and may have; ``queue_ms`` is what a frame waited for its tail of late."""

    sessions: int
    max_sessions: int
    queue_ms: float | None = None

    _members: ClassVar = {
        "sessions": integer(0, 2**31),
        "max_sessions": integer(0, 2**31),
        "queue_ms": Members.take_number,
    }


@dataclass(frozen=True, slots=True)
class EdgeLimits(Entry):
    """What the edge takes at most: lines in an offer, frames per second; and how long it keeps what it promised."""

    max_offers: int | None = None
    max_fps: float | None = None
    reservation_ms: float | None = None

    _members: ClassVar = {
        "max_offers": Members.take_count,
        "max_fps": Members.take_number,
        "reservation_ms": Members.take_number,
    }


@dataclass(frozen=True, slots=True)
class Manifest(Entry):
    """All of it."""

    service: Service
    state: str
    load: Load
    limits: EdgeLimits
    capabilities: EndpointCapabilities
    models: tuple[ModelEntry, ...]

    _members: ClassVar = {
        "service": one(Service),
        "state": choice(STATES),
        "load": one(Load),
        "limits": one(EdgeLimits),
        "capabilities": lambda members, name: take_information(members, name, EndpointCapabilities),
        "models": TAKE_MODELS,
    }

    def model(self, digest: str) -> ModelEntry | None:
        """The model whose file has this digest."""
        return next((model for model in self.models if model.information.identifier == digest), None)


_HEAD = {"format": FORMAT, "kind": "manifest", "api": API}


def read_manifest(data: bytes, where: str = "the edge's manifest") -> Manifest:
    """Read a manifest strictly; ProtocolError, which starts with ``where``, says what is wrong."""
    try:
        members = read_object(data, MAX_BYTES, where)
        for name, value in _HEAD.items():
            if members.take(name, type(value)) != value:
                raise ModelFileError(f"{where}: {name!r} is not {value}; it was made for another version of splitrtc")
        return Manifest.from_json(members.rest(), where)
    except ModelFileError as error:
        raise ProtocolError(str(error)) from error


def manifest_bytes(manifest: Manifest) -> bytes:
    """The inverse of read_manifest()."""
    return json.dumps(_HEAD | manifest.to_json(), allow_nan=False, separators=(",", ":")).encode() + b"\n"
