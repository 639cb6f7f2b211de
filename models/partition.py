"""Partitions: a model cut in two, made once and kept in a cache on disk."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from models.cache import CACHE_VARIABLE, cache_limit, default_cache_dir, trim
from models.card import VARIANTS, ModelCard
from models.files import replace_file
from models.identity import bytes_digest, digest_hex, file_digest, partition_id
from models.runtime import load_submodel
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, CutError, ModelFileError, TensorError, UserError

__all__ = ["Head", "Partition", "PartitionStore"]

FORMAT = 2
"""Version of the layout on disk, part of every key: older files are left alone and made again."""

INDEX_FILE = "index.json"
MAX_INDEX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Head:
    """A model's head as a file, in one variant, and the tensors that cross, in the order of their names' UTF-8 bytes.

    ``crossing`` is the order of the head's outputs. That is all that a device needs of a model.
    """

    model_digest: str
    id: str
    variant: str
    head_path: Path
    crossing: tuple[TensorSpec, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors that cross."""
        return tuple(spec.name for spec in self.crossing)


@dataclass(frozen=True, slots=True)
class Partition(Head):
    """A head with its tail; ``crossing`` is also the order of the tail's inputs."""

    tail_path: Path


class PartitionStore:
    """A folder of partitions. Any number of processes and threads may use one at once, also to fill it.

    Files are named by their content and replaced in one step, and an index, written last, names them with their
    digests. So a reader sees a whole partition or none, and two writers do no harm to each other. What a crash or a
    failing disk leaves behind does not match its digest, and is made again. When the files take more than
    ``max_bytes``, the partitions that were not asked for for the longest time go.
    """

    def __init__(self, cache_dir: Path | None = None, max_bytes: int | None = None) -> None:
        """``max_bytes`` bounds the partitions' files; by default SPLITRTC_CACHE_MB megabytes, else 2 GB."""
        self.cache_dir = default_cache_dir() if cache_dir is None else cache_dir
        self.max_bytes = cache_limit() if max_bytes is None else max_bytes

    def get(self, card: ModelCard, tensors: Sequence[str]) -> Partition:
        """Return the partition of a model at these tensors; made and checked when it is not in the cache.

        Raises:
            CutError: the model cannot be cut there, or the parts do not compute what the whole does.
            ModelFileError: the model's file is missing or not the one that the card describes.
            UserError: the cache cannot be written.
        """
        folder, index = self._place(card, tensors, "fp32")
        _touch(folder)
        found = _read(folder, index, Partition)
        if found is None:
            found = _make(folder, index, card, tensors)
            self._trim(folder)
        return found

    def head(self, card: ModelCard, tensors: Sequence[str], variant: str = "fp32") -> Head:
        """Return the head alone, in one of its VARIANTS; made when it is not in the cache.

        Raises BadArgument when there is no such variant, else what `get` raises.
        """
        if variant not in VARIANTS:
            raise BadArgument(f"a variant is {' or '.join(VARIANTS)}, not {variant[:100]!r}")
        if variant == "fp32":
            return self.get(card, tensors)
        folder, index = self._place(card, tensors, variant)
        _touch(folder)
        found = _read(folder, index, Head)
        if found is None:
            from models.variants import with_weights_as  # which loads onnx

            exact = self.get(card, tensors)
            data = with_weights_as(variant, exact.head_path.read_bytes())
            found = _keep(folder, index, card, (data,), exact.crossing, Head)
            self._trim(folder)
        return found

    def delivered(self, card: ModelCard, tensors: Sequence[str], variant: str, digest: str) -> Head | None:
        """Return the head of this digest that was delivered, None when none was."""
        folder, index = self._place(card, tensors, _delivery(variant, digest))
        _touch(folder)
        return _read(folder, {**index, "variant": variant, "head": digest}, Head)

    def has_delivered(self, identity: str, variant: str, digest: str) -> bool:
        """Whether `delivered` is likely to find the head of this partition's id: for who does not have the card yet."""
        return (self._folder / f"{identity}-{_delivery(variant, digest)}" / INDEX_FILE).exists()

    def adopt(self, card: ModelCard, tensors: Sequence[str], variant: str, data: bytes) -> Head:
        """Keep a head that was delivered; the model itself need not be here.

        Raises ModelFileError for what is not the head of this cut (`models.delivered`), UserError when the cache
        cannot be written.
        """
        from models.delivered import checked_head  # which loads onnx

        crossing = checked_head(data, card, tensors)
        folder, index = self._place(card, tensors, _delivery(variant, bytes_digest(data)))
        head = _keep(folder, {**index, "variant": variant}, card, (data,), crossing, Head)
        self._trim(folder)
        return head

    def _place(self, card: ModelCard, tensors: Sequence[str], variant: str) -> tuple[Path, dict[str, Any]]:
        """The folder of a partition's files, and how its index begins."""
        identity = partition_id(card.digest, tensors)
        index: dict[str, Any] = {"format": FORMAT, "model": card.digest, "partition": identity, "variant": variant}
        return self._folder / f"{identity}-{variant}", {**index, "fixed": _fixed(card)}

    @property
    def _folder(self) -> Path:
        return self.cache_dir / f"partitions-{FORMAT}"

    def _trim(self, keep: Path) -> None:
        trim(self._folder.glob("*/"), self.max_bytes, keep, _used)


def _delivery(variant: str, digest: str) -> str:
    """Where a head lies that somebody else made: theirs may differ."""
    return f"{variant}-{digest_hex(digest)[:16]}"


def _touch(folder: Path) -> None:
    """Note that a partition is asked for. In its access time, which the system itself may not keep."""
    index = folder / INDEX_FILE
    with contextlib.suppress(OSError):
        os.utime(index, ns=(time.time_ns(), index.stat().st_mtime_ns))


PARTS: dict[type[Head], tuple[str, ...]] = {Head: ("head",), Partition: ("head", "tail")}
"""The files of each kind."""

H = TypeVar("H", bound=Head)


def _read(folder: Path, expected: Mapping[str, Any], kind: type[H]) -> H | None:
    """Return a partition from the cache, None when it is not there, damaged, or not the expected one."""
    try:
        with (folder / INDEX_FILE).open("rb") as file:
            index = json.loads(file.read(MAX_INDEX_BYTES))
        if {key: index[key] for key in expected} != dict(expected):
            return None
        for part in PARTS[kind]:
            if file_digest(_part_path(folder, part, index[part])) != index[part]:
                return None
        return _described(folder, index, kind)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ModelFileError, TensorError):
        return None


def _fixed(card: ModelCard) -> list[Any]:
    """What of the card goes into the files: another card of the same model may fix it otherwise."""
    specs = (*card.inputs, *card.outputs)
    return [[spec.to_json() for spec in specs], [constant.to_json() for constant in card.constants]]


def _described(folder: Path, index: Mapping[str, Any], kind: type[H]) -> H:
    paths = {f"{part}_path": _part_path(folder, part, index[part]) for part in PARTS[kind]}
    return kind(
        model_digest=index["model"],
        id=index["partition"],
        variant=index["variant"],
        crossing=tuple(TensorSpec.from_json(item) for item in index["crossing"]),
        **paths,
    )


def _part_path(folder: Path, part: str, digest: str) -> Path:
    return folder / f"{part}-{digest_hex(digest)[:16]}.onnx"


def _make(folder: Path, index: dict[str, Any], card: ModelCard, tensors: Sequence[str]) -> Partition:
    from models.fixed import fixed_model
    from models.graph import exactly, split  # onnx takes a while to load and is needed only here

    model = fixed_model(card)
    head, tail = split(model, [exactly(model.graph, tensors)])
    parts = head.to_bytes(), tail.to_bytes()
    crossing = tuple(kind.spec() for kind in head.outputs)
    _check(card, model.to_bytes(), *parts)
    return _keep(folder, index, card, parts, crossing, Partition)


def _keep(
    folder: Path,
    index: dict[str, Any],
    card: ModelCard,
    parts: Sequence[bytes],
    crossing: Sequence[TensorSpec],
    kind: type[H],
) -> H:
    """Write the files of a partition, and the index last."""
    named = dict(zip(PARTS[kind], parts, strict=True))
    index |= {part: bytes_digest(data) for part, data in named.items()}
    index["crossing"] = [spec.to_json() for spec in crossing]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part, data in named.items():
            replace_file(_part_path(folder, part, index[part]), data)
        replace_file(folder / INDEX_FILE, json.dumps(index, indent=1).encode())
    except OSError as error:
        raise UserError(
            f"cannot keep the partition of model {card.name} in {folder}: {error.strerror or error}; "
            f"make room or rights there, or name another folder in {CACHE_VARIABLE}"
        ) from error
    return _described(folder, index, kind)


def _check(card: ModelCard, whole: bytes, head_data: bytes, tail_data: bytes) -> None:
    """Compare head then tail with the whole model on one seeded input.

    Bit for bit: without graph optimisations the same kernels run on the same values, so that any difference is a wrong
    cut. (With them, fusions across the cut reorder float32 sums; what results then is equal within about 1e-5.)
    """
    model, head, tail = (load_submodel(data, "cpu", optimise=False) for data in (whole, head_data, tail_data))
    if (model.inputs, model.outputs) != ((card.image,), card.outputs):
        raise ModelFileError(f"the card of model {card.name} describes other inputs or outputs than its file has")
    inputs = [np.random.default_rng(0).integers(0, 256, card.image.shape).astype(card.image.dtype)]
    for spec, expected, found in zip(model.outputs, model.run(inputs), tail.run(head.run(inputs)), strict=True):
        if expected.shape != spec.shape:  # the card has fixed an open size to what it cannot be
            raise ModelFileError(f"the card of model {card.name} describes other outputs than its file has: {spec}")
        if not np.array_equal(expected, found, equal_nan=np.issubdtype(expected.dtype, np.inexact)):
            raise CutError(f"head and tail of model {card.name} do not compute the {spec.name} that the whole computes")


def _used(folder: Path) -> float:
    """When a partition was got last, or what a crash left was written, in seconds of the wall clock."""
    index = folder / INDEX_FILE
    return index.stat().st_atime if index.exists() else folder.stat().st_mtime
