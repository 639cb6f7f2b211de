"""Partitions: a model cut in two, made once and kept in a cache on disk."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.cache import CACHE_VARIABLE, default_cache_dir
from models.card import ModelCard
from models.files import replace_file
from models.identity import bytes_digest, digest_hex, file_digest, partition_id
from models.runtime import load_submodel
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, CutError, ModelFileError, TensorError, UserError

__all__ = ["SIZE_VARIABLE", "VARIANTS", "Partition", "PartitionStore"]

SIZE_VARIABLE = "SPLITRTC_CACHE_MB"
DEFAULT_MB = 2000
"""How much the partitions may take on disk."""

IN_USE_SECONDS = 60.0
"""Between getting a partition and having opened its files."""

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


def _default_max_bytes() -> int:
    text = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_MB)
    if not text.isascii() or not text.isdigit():
        raise BadArgument(f"{SIZE_VARIABLE} is a number of megabytes, not {text[:100]!r}")
    return int(text) * 10**6


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
        self.max_bytes = _default_max_bytes() if max_bytes is None else max_bytes

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
        index: dict[str, Any] = {"format": FORMAT, "model": card.digest, "partition": identity, "variant": variant}
        index["fixed"] = _fixed(card)
        _touch(folder)
        if (partition := _read(folder, index)) is None:
            partition = _make(folder, index, card, tensors)
            _trim(folder.parent, self.max_bytes, keep=folder)
        return partition


def _touch(folder: Path) -> None:
    """Note that a partition is asked for. In its access time, which the system itself may not keep."""
    index = folder / INDEX_FILE
    with contextlib.suppress(OSError):
        os.utime(index, ns=(time.time_ns(), index.stat().st_mtime_ns))


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
    from models.fixed import fixed_model
    from models.graph import exactly, split  # onnx takes a while to load and is needed only here

    model = fixed_model(card)
    head, tail = split(model, [exactly(model.graph, tensors)])
    parts = head.to_bytes(), tail.to_bytes()
    crossing = tuple(kind.spec() for kind in head.outputs)
    _check(card, model.to_bytes(), *parts)
    index |= {part: bytes_digest(data) for part, data in zip(("head", "tail"), parts, strict=True)}
    index["crossing"] = [spec.to_json() for spec in crossing]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part, data in zip(("head", "tail"), parts, strict=True):
            replace_file(_part_path(folder, part, index[part]), data)
        replace_file(folder / INDEX_FILE, json.dumps(index, indent=1).encode())
    except OSError as error:
        raise UserError(
            f"cannot keep the partition of model {card.name} in {folder}: {error.strerror or error}; "
            f"make room or rights there, or name another folder in {CACHE_VARIABLE}"
        ) from error
    return _partition(folder, index)


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


def _trim(cache: Path, limit: int, keep: Path) -> None:
    """Remove the partitions that were not used for the longest time, until the rest fits; never ``keep``.

    Nor one that was used a moment ago: whoever got it may not have opened its files yet.
    """
    found = []
    for folder in cache.glob("*/"):
        with contextlib.suppress(OSError):  # another process removes it just now
            found.append((_used(folder), sum(path.stat().st_size for path in folder.iterdir()), folder))
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if total <= limit:
            return
        if folder == keep:
            continue
        # In one step, right after looking: who asks for it meanwhile finds nothing and makes it again.
        gone = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            if time.time() - _used(folder) < IN_USE_SECONDS:
                continue
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            total -= size


def _used(folder: Path) -> float:
    """When a partition was got last, or what a crash left was written, in seconds of the wall clock."""
    index = folder / INDEX_FILE
    return index.stat().st_atime if index.exists() else folder.stat().st_mtime
