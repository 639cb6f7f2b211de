"""Model cards: what is known of a model without opening it (TR 26.927 clause 6.6.2, "model information").

A card is one JSON object in a file beside the model. Reading one loads neither numpy nor onnxruntime: signalling
needs this module alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from models.identity import file_digest, is_digest, partition_id
from models.members import Members, shown
from models.tensor import TensorSpec, is_tensor_name
from splitrtc_errors import BadArgument, ModelFileError, UnknownModel

__all__ = ["Decoding", "ModelCard", "PartitionCard", "Preprocessing", "TensorSpec"]

FORMAT = 1

MAX_CARD_BYTES = 2**20
MAX_LABELS = 2**16  # a class is a u16 on the wire


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the model's input: ``(pixel - mean[plane]) * scale[plane]``, pixels from 0 to 255.

    ``resize`` is "stretch": to the input's size, bilinear, the aspect ratio is not kept. ``order`` is the order of the
    colour planes, ``layout`` that of the dimensions.
    """

    resize: str = "stretch"
    order: str = "RGB"
    layout: str = "NCHW"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read this part of a card strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        preprocessing = cls(
            resize=members.take_choice("resize", ("stretch",)),
            order=members.take_choice("order", ("RGB", "BGR")),
            layout=members.take_choice("layout", ("NCHW",)),
            mean=members.take_plane_values("mean"),
            scale=members.take_plane_values("scale"),
        )
        members.done()
        return preprocessing

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        return {**asdict(self), "mean": list(self.mean), "scale": list(self.scale)}


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the model's outputs become detections.

    ``scheme`` is "ssd": output ``scores`` is 1 x N x classes, ``boxes`` 1 x N x 1 x 4 with (y1, x1, y2, x2) from 0
    to 1, then non-maximum suppression per class at ``iou``. ``score`` is the lowest score that is reported at all,
    ``display_score`` the one from which on a detection is worth showing to a person.
    """

    scheme: str
    scores: str
    boxes: str
    iou: float
    score: float
    display_score: float

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read this part of a card strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        decoding = cls(
            scheme=members.take_choice("scheme", ("ssd",)),
            scores=members.take("scores", str),
            boxes=members.take("boxes", str),
            iou=members.take_share("iou"),
            score=members.take_share("score"),
            display_score=members.take_share("display_score"),
        )
        members.done()
        return decoding

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PartitionCard:
    """A partition that the model's card recommends: a short name for its crossing tensors.

    ``calibration`` is the name of the calibration file beside the card, None when there is none; ``default`` marks
    the one partition that is used when none is asked for.
    """

    name: str
    tensors: tuple[str, ...]
    calibration: str | None
    default: bool

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read this part of a card strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        partition = cls(
            name=members.take_name("name"),
            tensors=members.take_texts("tensors"),
            calibration=members.take_name("calibration") if members.has("calibration") else None,
            default=members.take("default", bool),
        )
        members.done()
        return partition

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        value = {**asdict(self), "tensors": list(self.tensors)}
        if self.calibration is None:
            del value["calibration"]
        return value


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Everything that is known of a model.

    ``digest`` is that of the model's whole file, ``size`` the file's size in bytes. ``labels`` holds the name of each
    class, "?" where the model's data set leaves a gap. ``profiles`` are recommended for its intermediate data, from the
    best quality to the fewest bytes. ``accuracy`` is a statement for people, with the set it holds for. ``directory``
    is where the card was found; the files that it names lie there.
    """

    name: str
    title: str
    task: str
    file: str
    digest: str
    size: int
    licence: str
    source: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    decoding: Decoding
    labels: tuple[str, ...]
    accuracy: str
    partitions: tuple[PartitionCard, ...]
    profiles: tuple[str, ...]
    default_profile: str
    directory: Path | None = field(default=None, compare=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a card file; the files that it names are looked for beside it. ModelFileError when it is no good."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_CARD_BYTES + 1)
        except OSError as error:
            raise ModelFileError(f"cannot read the model card {path}: {error.strerror or error}") from error
        if len(data) > MAX_CARD_BYTES:
            raise ModelFileError(f"model card {path} is larger than {MAX_CARD_BYTES} bytes")
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"model card {path} is not JSON: {error}") from error
        return cls.from_json(value, directory=path.parent, where=f"model card {path}")

    @classmethod
    def from_json(cls, value: object, directory: Path | None = None, where: str = "model card") -> Self:
        """Read a parsed card strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        if members.take("format", int) != FORMAT:
            raise ModelFileError(f"{where}: 'format' is not {FORMAT}; it was made for another version of splitrtc")
        partitions = members.take("partitions", list)
        card = cls(
            name=members.take_name("name"),
            title=members.take("title", str),
            task=members.take_choice("task", ("detection",)),
            file=members.take_name("file"),
            digest=members.take("digest", str),
            size=members.take("size", int),
            licence=members.take("licence", str),
            source=members.take("source", str),
            inputs=members.take_tensors("inputs"),
            outputs=members.take_tensors("outputs"),
            preprocessing=Preprocessing.from_json(members.take("preprocessing", dict), f"{where}: preprocessing"),
            decoding=Decoding.from_json(members.take("decoding", dict), f"{where}: decoding"),
            labels=members.take_texts("labels"),
            accuracy=members.take("accuracy", str),
            partitions=tuple(PartitionCard.from_json(item, f"{where}: a partition") for item in partitions),
            profiles=members.take_texts("profiles"),
            default_profile=members.take("default_profile", str),
            directory=directory,
        )
        members.done()
        card._check(where)
        return card

    def _check(self, where: str) -> None:
        """Refuse members that are well-formed but do not fit each other."""
        image = self.inputs[0] if len(self.inputs) == 1 else None
        shapes = {spec.name: spec.shape for spec in self.outputs}
        scores, boxes = shapes.get(self.decoding.scores), shapes.get(self.decoding.boxes)
        anchors = scores[1] if scores is not None and len(scores) == 3 else 0
        names = [partition.name for partition in self.partitions]
        cuts = [partition.tensors for partition in self.partitions]
        for right, rule in (
            (is_digest(self.digest), "'digest' is 'sha-256:' and 64 lower-case hex digits"),
            (self.size >= 1, "'size' is at least 1"),
            (
                image is not None and image.dtype == "float32" and len(image.shape) == 4 and image.shape[:2] == (1, 3),
                "a detection model has one input, float32, 1 x 3 x height x width",
            ),
            (len(self.labels) <= MAX_LABELS, f"'labels' has at most {MAX_LABELS} names"),
            (scores == (1, anchors, len(self.labels)), "'decoding': scores is an output 1 x N x number of labels"),
            (boxes == (1, anchors, 1, 4), "'decoding': boxes is an output 1 x N x 1 x 4, N as in scores"),
            (len(set(names)) == len(names), "no two partitions have the same name"),
            (all(len(set(cut)) == len(cut) for cut in cuts), "a partition names each tensor once"),
            (all(is_tensor_name(name) for cut in cuts for name in cut), "a tensor's name has 1 to 512 bytes of UTF-8"),
            (sum(partition.default for partition in self.partitions) == 1, "exactly one partition is the default"),
            (self.default_profile in self.profiles, "'default_profile' is among 'profiles'"),
        ):
            if not right:
                raise ModelFileError(f"{where} breaks the rule: {rule}")

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json(); ``directory`` is left out."""
        return {
            "format": FORMAT,
            "name": self.name,
            "title": self.title,
            "task": self.task,
            "file": self.file,
            "digest": self.digest,
            "size": self.size,
            "licence": self.licence,
            "source": self.source,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "preprocessing": self.preprocessing.to_json(),
            "decoding": self.decoding.to_json(),
            "labels": list(self.labels),
            "accuracy": self.accuracy,
            "partitions": [partition.to_json() for partition in self.partitions],
            "profiles": list(self.profiles),
            "default_profile": self.default_profile,
        }

    @property
    def path(self) -> Path:
        """The model's file, not checked."""
        return self._beside(self.file)

    def verified_path(self) -> Path:
        """Return the model's file after checking its digest; ModelFileError when it is not the one."""
        path = self.path
        found = file_digest(path)
        if found != self.digest:
            raise ModelFileError(
                f"{path} is not the file of model {self.name}: expected {self.digest} ({self.size} bytes), "
                f"found {found} ({path.stat().st_size} bytes); fetch it again"
            )
        return path

    @property
    def default_partition(self) -> PartitionCard:
        """The partition that is used when none is asked for."""
        return next(partition for partition in self.partitions if partition.default)

    def partition(self, wanted: str | None = None) -> PartitionCard:
        """Return the partition of this short name or id, the default one for None; UnknownModel if there is none."""
        for partition in self.partitions:
            if partition.default if wanted is None else wanted in (partition.name, self.partition_id(partition)):
                return partition
        known = ", ".join(partition.name for partition in self.partitions)
        raise UnknownModel(f"model {self.name} has no partition {shown(wanted)}; it has: {known}")

    def partition_id(self, partition: PartitionCard) -> str:
        """Return the id (docs/protocol.md, 1.4) of one of this model's partitions: 32 hex digits."""
        return partition_id(self.digest, partition.tensors)

    def calibration_path(self, partition: PartitionCard) -> Path | None:
        """Return the partition's calibration file, None when it has none. The file may not exist yet."""
        return None if partition.calibration is None else self._beside(partition.calibration)

    def _beside(self, name: str) -> Path:
        if self.directory is None:
            raise BadArgument(f"the card of model {self.name} was not loaded from a file: its files cannot be found")
        return self.directory / name
