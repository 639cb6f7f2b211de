"""Partitions: a model cut in two, made once and kept in a cache on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.cache import CACHE_VARIABLE, default_cache_dir
from models.card import ModelCard
from models.files import replace_file
from models.fixed import fixed_bytes
from models.identity import bytes_digest, digest_hex, file_digest, partition_id
from models.runtime import load_submodel
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, CutError, ModelFileError, TensorError, UserError

if TYPE_CHECKING:
    from models.graph import SplitModel

__all__ = ["VARIANTS", "Partition", "PartitionStore"]

VARIANTS = ("fp32",)
FORMAT = 2
"""Version of the layout on disk, part of every key: older files are left alone and made again."""

INDEX_FILE = "index.json"
MAX_INDEX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Partition:
    """A model's head and tail as files, and the tensors that cross, in the order of their names' UTF-8 bytes.

    ``crossing`` is both the order of the head's outputs and that of the tail's inputs.
    """

    model_digest: str
    id: str
    variant: str
    head_path: Path
    tail_path: Path
    crossing: tuple[TensorSpec, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors that cross."""
        return tuple(spec.name for spec in self.crossing)


class PartitionStore:
    """A folder of partitions. Any number of processes and threads may use one at once, also to fill it.

    Files are named by their content and replaced in one step, and an index, written last, names them with their
    digests. So a reader sees a whole partition or none, and two writers do no harm to each other. What a crash or a
    failing disk leaves behind does not match its digest, and is made again.
    """

    def __init__(self, cache_dir: Path | None = None) -> None:
        self.cache_dir = default_cache_dir() if cache_dir is None else cache_dir

    def get(self, card: ModelCard, tensors: Sequence[str], variant: str = "fp32") -> Partition:
        """Return the partition of a model at these tensors; made and checked when it is not in the cache.

        Raises:
            BadArgument: no such variant.
            CutError: the model cannot be cut there, or the parts do not compute what the whole does.
            ModelFileError: the model's file is missing or not the one that the card describes.
            UserError: the cache cannot be written.
        """
        if variant not in VARIANTS:
            raise BadArgument(f"a variant is {' or '.join(VARIANTS)}, not {variant[:100]!r}")
        identity = partition_id(card.digest, tensors)
        folder = self.cache_dir / f"partitions-{FORMAT}" / f"{identity}-{variant}"
        index = {
            "format": FORMAT,
            "model": card.digest,
            "partition": identity,
            "variant": variant,
            "fixed": _fixed(card),
        }
        return _read(folder, index) or _make(folder, index, card, tensors)


def _read(folder: Path, expected: Mapping[str, Any]) -> Partition | None:
    """Return a partition from the cache, None when it is not there, damaged, or not the expected one."""
    try:
        with (folder / INDEX_FILE).open("rb") as file:
            index = json.loads(file.read(MAX_INDEX_BYTES))
        if {key: index[key] for key in expected} != dict(expected):
            return None
        for part in ("head", "tail"):
            if file_digest(_part_path(folder, part, index[part])) != index[part]:
                return None
        return _partition(folder, index)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ModelFileError, TensorError):
        return None


def _fixed(card: ModelCard) -> list[Any]:
    """What of the card goes into the files: another card of the same model may fix it otherwise."""
    specs = (*card.inputs, *card.outputs)
    return [[spec.to_json() for spec in specs], [constant.to_json() for constant in card.constants]]


def _partition(folder: Path, index: Mapping[str, Any]) -> Partition:
    return Partition(
        model_digest=index["model"],
        id=index["partition"],
        variant=index["variant"],
        head_path=_part_path(folder, "head", index["head"]),
        tail_path=_part_path(folder, "tail", index["tail"]),
        crossing=tuple(TensorSpec.from_json(item) for item in index["crossing"]),
    )


def _part_path(folder: Path, part: str, digest: str) -> Path:
    return folder / f"{part}-{digest_hex(digest)[:16]}.onnx"


def _make(folder: Path, index: dict[str, Any], card: ModelCard, tensors: Sequence[str]) -> Partition:
    from models.graph import split  # onnx takes a while to load and is needed only here

    whole = fixed_bytes(card)
    parts = split(whole, tensors)
    _check(card, whole, parts)
    index |= {part: bytes_digest(data) for part, data in (("head", parts.head), ("tail", parts.tail))}
    index["crossing"] = [spec.to_json() for spec in parts.crossing]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(_part_path(folder, "head", index["head"]), parts.head)
        replace_file(_part_path(folder, "tail", index["tail"]), parts.tail)
        replace_file(folder / INDEX_FILE, json.dumps(index, indent=1).encode())
    except OSError as error:
        raise UserError(
            f"cannot keep the partition of model {card.name} in {folder}: {error.strerror or error}; "
            f"make room or rights there, or name another folder in {CACHE_VARIABLE}"
        ) from error
    return _partition(folder, index)


def _check(card: ModelCard, whole: bytes, parts: SplitModel) -> None:
    """Compare head then tail with the whole model on one seeded input.

    Bit for bit: without graph optimisations the same kernels run on the same values, so that any difference is a wrong
    cut. (With them, fusions across the cut reorder float32 sums; what results then is equal within about 1e-5.)
    """
    model, head, tail = (load_submodel(data, "cpu", optimise=False) for data in (whole, parts.head, parts.tail))
    if (model.inputs, model.outputs) != ((card.image,), card.outputs):
        raise ModelFileError(f"the card of model {card.name} describes other inputs or outputs than its file has")
    inputs = [np.random.default_rng(0).integers(0, 256, card.image.shape).astype(card.image.dtype)]
    for spec, expected, found in zip(model.outputs, model.run(inputs), tail.run(head.run(inputs)), strict=True):
        if expected.shape != spec.shape:  # the card has fixed an open size to what it cannot be
            raise ModelFileError(f"the card of model {card.name} describes other outputs than its file has: {spec}")
        if not np.array_equal(expected, found, equal_nan=np.issubdtype(expected.dtype, np.inexact)):
            raise CutError(f"head and tail of model {card.name} do not compute the {spec.name} that the whole computes")
