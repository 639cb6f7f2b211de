"""Model cards: what is known of a model without opening it (TR 26.927 clause 6.6.2, "model information").

A card is one JSON object in a file beside the model. Reading one loads neither numpy nor onnxruntime: signalling
needs this module alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from models.cache import model_cache_path
from models.codecs import needs_calibration, parse_profile
from models.identity import file_digest, is_digest, partition_id
from models.ladder import Rung, read_ladder
from models.members import Members, shown
from models.task import DETECTION, TASKS, Decoding, Preprocessing
from models.tensor import TensorSpec, is_tensor_name
from splitrtc_errors import BadArgument, ModelFileError, UnknownModel

__all__ = ["Constant", "Decoding", "ModelCard", "PartitionCard", "Preprocessing", "TensorSpec"]

FORMAT = 1

MAX_CARD_BYTES = 2**20
MAX_LABELS = 2**16  # a class is a u16 on the wire
MAX_CONSTANT = 1024
"""Values of a constant input: sizes, thresholds, the state that a recurrent model begins with; no weights."""
MAX_OUTPUTS = 64
"""Outputs of a model: as many tensors as a parameter set describes."""
DEFAULT_OUTPUT_PROFILE = "raw"

SMALLER = ("fp16", "int8")
"""Variants of a head besides fp32, the larger one first."""
VARIANTS = ("fp32", *SMALLER)
"""The forms in which a head is to be had."""
DELIVERIES = ("head", "whole", "none")

IMAGE_DTYPES = ("float32", "int32", "uint8")

_URL = re.compile(r"(https://|http://(127\.0\.0\.1|\[::1\])[:/])[!-~]{1,2000}")
"""What is sent over http can be looked at and kept back on the way; only this machine itself is trusted with that."""


@dataclass(frozen=True, slots=True)
class Constant:
    """An input of the model that is the same for every frame, such as the size of the picture that others rescale to.

    ``values`` are its elements in C order, or one for all of them.
    """

    name: str
    values: tuple[float, ...]

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read this part of a card strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        constant = cls(name=members.take("name", str), values=members.take_numbers("values"))
        members.done()
        return constant

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        return {"name": self.name, "values": list(self.values)}


@dataclass(frozen=True, slots=True)
class PartitionCard:
    """A partition that the model's card recommends: a short name for its crossing tensors.

    ``calibration`` is the name of the calibration file beside the card, None when there is none; ``default`` marks
    the one partition that is used when none is asked for. ``variants`` are smaller forms of the head that may be
    delivered besides that in fp32 (`models.variants`), because they are accurate enough. ``ladder`` holds what
    profiles were measured to cost there.
    """

    name: str
    tensors: tuple[str, ...]
    calibration: str | None
    default: bool
    variants: tuple[str, ...] = ()
    ladder: tuple[Rung, ...] = ()

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Read this part of a card strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        partition = cls(
            name=members.take_name("name"),
            tensors=members.take_texts("tensors"),
            calibration=members.take_name("calibration") if members.has("calibration") else None,
            default=members.take("default", bool),
            variants=members.take_texts("variants") if members.has("variants") else (),
            ladder=read_ladder(members.take("ladder", list), f"{where}: ladder") if members.has("ladder") else (),
        )
        members.done()
        if len(set(partition.variants)) != len(partition.variants) or not set(partition.variants) <= set(SMALLER):
            raise ModelFileError(f"{where}: 'variants' are some of {', '.join(SMALLER)}, each once")
        return partition

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json()."""
        value: dict[str, Any] = {"name": self.name, "tensors": list(self.tensors), "default": self.default}
        if self.calibration is not None:
            value["calibration"] = self.calibration
        if self.variants:
            value["variants"] = list(self.variants)
        if self.ladder:
            value["ladder"] = [rung.to_json() for rung in self.ladder]
        return value


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Everything that is known of a model.

    ``digest`` is that of the model's whole file, ``size`` the file's size in bytes, ``download`` the URL that it can be
    had from. ``inputs`` and ``outputs`` have the sizes that the model is used with, also where its file leaves them
    open; those inputs that are ``constants`` never change, and the one that is left is the image. ``labels`` holds the
    name of each class, "?" where the model's data set leaves a gap. Without ``partitions``, one is found in the file.

    With the ``task`` "tensors" there is no ``decoding``: the outputs come back as they are, coded by
    ``output_profile``. Without ``preprocessing`` the "image" is no picture, but the ready input, of whatever shape.

    ``profiles`` are recommended for its intermediate data, from the best quality to the fewest bytes. ``accuracy`` is
    a statement for people, with the set it holds for. ``directory`` is where the card was found; the files that it
    names lie there, but the model's may also lie in the cache, or, under any name, in one of ``folders``.
    ``deliver`` is what of the model may leave an edge: its ``head``s, also the ``whole``, or ``none`` of it.
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
    preprocessing: Preprocessing | None
    decoding: Decoding | None
    labels: tuple[str, ...]
    accuracy: str
    partitions: tuple[PartitionCard, ...]
    profiles: tuple[str, ...]
    default_profile: str
    constants: tuple[Constant, ...] = ()
    output_profile: str = DEFAULT_OUTPUT_PROFILE
    download: str | None = None
    deliver: str = "head"
    directory: Path | None = field(default=None, compare=False)
    folders: tuple[Path, ...] = field(default=(), compare=False)

    @classmethod
    def load(cls, path: Path, folders: tuple[Path, ...] = ()) -> Self:
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
        card = cls.from_json(value, directory=path.parent, where=f"model card {path}")
        return replace(card, folders=folders)

    @classmethod
    def from_json(cls, value: object, directory: Path | None = None, where: str = "model card") -> Self:
        """Read a parsed card strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        members = Members(value, where)
        if members.take("format", int) != FORMAT:
            raise ModelFileError(f"{where}: 'format' is not {FORMAT}; it was made for another version of splitrtc")
        partitions = members.take("partitions", list)
        constants = members.take("constants", list) if members.has("constants") else []
        task = members.take_choice("task", TASKS)
        # What detection cannot do without, another task may leave out; what it alone needs, none else may have.
        detects = task == DETECTION
        output_profile = DEFAULT_OUTPUT_PROFILE
        if not detects and members.has("output_profile"):
            output_profile = members.take("output_profile", str)
        preprocessing, decoding = None, None
        if detects or members.has("preprocessing"):
            preprocessing = Preprocessing.from_json(members.take("preprocessing", dict), f"{where}: preprocessing")
        if detects:
            decoding = Decoding.from_json(members.take("decoding", dict), f"{where}: decoding")
        card = cls(
            name=members.take_name("name"),
            title=members.take("title", str),
            task=task,
            file=members.take_name("file"),
            digest=members.take("digest", str),
            size=members.take("size", int),
            licence=members.take("licence", str),
            source=members.take("source", str),
            inputs=members.take_tensors("inputs"),
            outputs=members.take_tensors("outputs"),
            preprocessing=preprocessing,
            decoding=decoding,
            labels=members.take_texts("labels") if detects or members.has("labels") else (),
            accuracy=members.take("accuracy", str),
            partitions=tuple(PartitionCard.from_json(item, f"{where}: a partition") for item in partitions),
            profiles=members.take_texts("profiles"),
            default_profile=members.take("default_profile", str),
            constants=tuple(Constant.from_json(item, f"{where}: a constant") for item in constants),
            output_profile=output_profile,
            download=_download(members.take("download", dict), where) if members.has("download") else None,
            deliver=members.take_choice("deliver", DELIVERIES) if members.has("deliver") else "head",
            directory=directory,
        )
        members.done()
        card._check(where)
        return card

    def _check(self, where: str) -> None:
        """Refuse members that are well-formed but do not fit each other."""
        fixed = {constant.name: constant.values for constant in self.constants}
        images = [spec for spec in self.inputs if spec.name not in fixed]
        how = self.preprocessing
        scheme = "" if self.decoding is None else self.decoding.scheme
        is_image = len(images) == 1 and (how is None or _is_image(images[0], how))
        specs = {spec.name: spec for spec in (*self.inputs, *self.outputs)}
        names = [partition.name for partition in self.partitions]
        cuts = [partition.tensors for partition in self.partitions]
        for right, rule in (
            (is_digest(self.digest), "'digest' is 'sha-256:' and 64 lower-case hex digits"),
            (self.size >= 1, "'size' is at least 1"),
            (len(specs) == len(self.inputs) + len(self.outputs), "no two inputs or outputs have the same name"),
            (is_image, _INPUT_RULE if how is None else _IMAGE_RULE),
            (
                is_image and (how is None or images[0].dtype == "float32" or how.leaves_values),
                "only a float32 input has a mean and a scale",
            ),
            (len(fixed) == len(self.constants), "no two constants have the same name"),
            (all(self._fills(c, specs.get(c.name)) for c in self.constants), _CONSTANT_RULE),
            (len(self.labels) <= MAX_LABELS, f"'labels' has at most {MAX_LABELS} names"),
            (
                is_image and self._decoding_fits(),
                f"'decoding': the outputs have the types and shapes of scheme {scheme} (docs/models.md), "
                "and one class for each label",
            ),
            (1 <= len(self.outputs) <= MAX_OUTPUTS, f"the model has 1 to {MAX_OUTPUTS} outputs"),
            (_is_uncalibrated(self.output_profile), "'output_profile' is raw, raw-zstd or raw-snappy"),
            (len(set(names)) == len(names), "no two partitions have the same name"),
            (all(len(set(cut)) == len(cut) for cut in cuts), "a partition names each tensor once"),
            (len(set(map(frozenset, cuts))) == len(cuts), "no two partitions are the same cut"),
            (all(is_tensor_name(name) for cut in cuts for name in cut), "a tensor's name has 1 to 512 bytes of UTF-8"),
            (
                sum(partition.default for partition in self.partitions) == (1 if self.partitions else 0),
                "exactly one partition is the default",
            ),
            (self.default_profile in self.profiles, "'default_profile' is among 'profiles'"),
            (len(set(self.profiles)) == len(self.profiles), "'profiles' names each profile once"),
            (
                {rung.profile for cut in self.partitions for rung in cut.ladder} <= set(self.profiles),
                "the profiles of a ladder are among 'profiles'",
            ),
        ):
            if not right:
                raise ModelFileError(f"{where} breaks the rule: {rule}")

    def _fills(self, constant: Constant, spec: TensorSpec | None) -> bool:
        if spec is None or spec not in self.inputs or spec.elements > MAX_CONSTANT:
            return False
        if len(constant.values) not in (1, spec.elements):
            return False
        return spec.dtype in ("float32", "float64") or all(
            value.is_integer() and abs(value) < 2**31 for value in constant.values
        )

    def _decoding_fits(self) -> bool:
        if self.decoding is None:
            return True
        return self.decoding.fits({spec.name: spec for spec in self.outputs}, self.image_size, len(self.labels))

    @property
    def detection(self) -> Decoding:
        """How the outputs become detections; BadArgument for a model of another task."""
        if self.decoding is None:
            raise BadArgument(f"model {self.name} gives tensors and detects nothing: name a model for detection")
        return self.decoding

    @property
    def picture(self) -> Preprocessing:
        """How a picture becomes the input; BadArgument for a model that takes ready tensors."""
        if self.preprocessing is None:
            raise BadArgument(f"model {self.name} takes no pictures, but ready tensors: {self.image}")
        return self.preprocessing

    @property
    def image(self) -> TensorSpec:
        """The one input that changes with each frame."""
        constant = {constant.name for constant in self.constants}
        return next(spec for spec in self.inputs if spec.name not in constant)

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of the image input in pixels."""
        return self.picture.image_size(self.image.shape)

    def to_json(self) -> dict[str, Any]:
        """The inverse of from_json(); ``directory`` and ``folders`` are left out."""
        value = {
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
            "accuracy": self.accuracy,
            "partitions": [partition.to_json() for partition in self.partitions],
            "profiles": list(self.profiles),
            "default_profile": self.default_profile,
        }
        if self.preprocessing is not None:
            value["preprocessing"] = self.preprocessing.to_json()
        if self.decoding is not None:
            value["decoding"] = self.decoding.to_json()
        if self.labels:
            value["labels"] = list(self.labels)
        if self.output_profile != DEFAULT_OUTPUT_PROFILE:
            value["output_profile"] = self.output_profile
        if self.constants:
            value["constants"] = [constant.to_json() for constant in self.constants]
        if self.download is not None:
            value["download"] = {"url": self.download}
        if self.deliver != "head":
            value["deliver"] = self.deliver
        return value

    @property
    def path(self) -> Path:
        """Where the model's file lies beside the card, if it does."""
        return self._beside(self.file)

    @property
    def is_here(self) -> bool:
        """Whether there is a file that may well be the model's, from its size; `verified_path` makes sure."""
        return next(self._candidates(), None) is not None

    def verified_path(self) -> Path:
        """Return the model's file after checking its digest.

        ModelFileError when there is none, or only one with the right name or size that is something else.
        """
        expected = f"expected {self.digest} ({self.size} bytes)"
        problem = f"the file of model {self.name} is not here, {expected}"
        for path in self._candidates():
            found = file_digest(path)
            if found == self.digest:
                return path
            size = path.stat().st_size
            problem = f"{path} is not the file of model {self.name}: {expected}, found {found} ({size} bytes)"
        how = f"run `splitrtc models fetch {self.name}`, or fetch it again" if self.download else "fetch it again"
        raise ModelFileError(f"{problem}; {how} into a folder that --models names")

    def _candidates(self) -> Iterator[Path]:
        """Files that may be the model's; what has another size is not, unless it lies beside the card by its name."""
        if self.path.is_file():
            yield self.path
        elsewhere = [model_cache_path(self.digest)]
        elsewhere += (path for folder in self.folders for path in sorted(folder.glob("*.onnx")))
        for path in elsewhere:
            if path.is_file() and path.stat().st_size == self.size:
                yield path

    @property
    def default_partition(self) -> PartitionCard:
        """The partition that is used when none is asked for."""
        return self.partition()

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


def _is_image(spec: TensorSpec, how: Preprocessing) -> bool:
    planes = spec.shape[:2] if how.layout == "NCHW" else (*spec.shape[:1], *spec.shape[3:])
    return spec.dtype in IMAGE_DTYPES and len(spec.shape) == 4 and planes == (1, 3)


def _is_uncalibrated(profile: str) -> bool:
    try:
        return not needs_calibration(parse_profile(profile))
    except (BadArgument, UnknownModel):
        return False


def _download(value: dict[str, Any], where: str) -> str:
    members = Members(value, f"{where}: download")
    url = members.take("url", str)
    members.done()
    if _URL.fullmatch(url) is None:
        raise ModelFileError(f"{where}: download: 'url' starts with https://, not {shown(url)}")
    return url


_IMAGE_RULE = (
    "besides its constants the model has one input, float32, int32 or uint8, "
    "1 x 3 x height x width (or 1 x height x width x 3 with layout NHWC)"
)
_INPUT_RULE = "besides its constants the model has one input"
_CONSTANT_RULE = (
    f"a constant fills an input of its name, of at most {MAX_CONSTANT} elements, "
    "with a value of its type for each, or one for all"
)
