"""Calibrations: the ranges with which the tensors of a partition are quantised (docs/protocol.md, section 4.4).

Encoder and decoder hold the same file, known by its digest, so that no range travels with a frame. Ranges that fit the
tensors once and for all are as good as ranges per frame, and keep predictions between frames steady.

``splitrtc calibrate`` makes one from pictures like those that the model will see (`models.calibrate`). Of them only
ranges, means and tables go into it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from models.codecs.clusters_tables import ClustersTables
from models.codecs.klt_tables import KltTables
from models.codecs.pca_tables import PcaTables
from models.codecs.quantise import steps
from models.codecs.range_tables import RangeTables
from models.identity import bytes_digest, partition_id
from models.tensor import MAX_RANK, TensorSpec
from splitrtc_errors import BadArgument, CodecError, ModelFileError

__all__ = ["DEFAULT_PERCENTILE", "TABLES", "Calibration", "TensorCalibration", "calibration_bytes", "collect"]

FORMAT = 1
DEFAULT_PERCENTILE = 0.02
"""Percent of a channel's values that lie below its range, and as many above."""

MAX_BYTES = 2**22
MAX_TENSORS = 64
MAX_MADE_FROM = 500


TABLES: dict[str, type[KltTables] | type[RangeTables] | type[PcaTables] | type[ClustersTables]] = {
    "klt": KltTables,
    "range": RangeTables,
    "pca": PcaTables,
    "clusters": ClustersTables,
}
"""Tables that a tensor may have besides its ranges, by the member of the file that they are."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorCalibration:
    """The channels of one tensor lie along ``axis``; ``low``, ``high`` and ``mean`` are float32 (C,), read-only.

    Elements outside a range are clamped; ``mean`` stands for elements of which nothing is known, and lies within it.
    """

    name: str
    axis: int
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    mean: NDArray[np.float32]
    klt: KltTables | None = field(default=None, kw_only=True)
    """What the profiles klt, klt-light and avc need; None where the file was made without, as in all of these."""
    range: RangeTables | None = field(default=None, kw_only=True)
    """What the profiles q2-range to q8-range need."""
    pca: PcaTables | None = field(default=None, kw_only=True)
    clusters: ClustersTables | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what cannot be used to quantise, with CodecError."""
        if not 0 <= self.axis < MAX_RANK:
            raise CodecError(f"tensor {self.name}: axis {self.axis} is not between 0 and {MAX_RANK - 1}")
        if not len(self.low) == len(self.high) == len(self.mean) >= 1:
            raise CodecError(f"tensor {self.name}: low, high and mean do not have the same length, at least 1")
        try:
            for bits in (*range(2, 9), 16):
                steps(self.low, self.high, bits)
        except CodecError as error:
            raise CodecError(f"tensor {self.name}: {error}") from error
        if not ((self.low <= self.mean) & (self.mean <= self.high)).all():
            raise CodecError(f"tensor {self.name}: a channel's mean is not within its range")
        for values in (self.low, self.high, self.mean):
            values.flags.writeable = False

    def missing(self, tables: str) -> bool:
        """Whether these tables, one of TABLES, are not there."""
        return getattr(self, tables) is None


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A calibration file's content. ``digest`` is that of the file's bytes, which both sides must have in common."""

    model: str
    partition: str
    tensors: tuple[TensorCalibration, ...]
    made_from: str
    digest: str

    def of(self, name: str) -> TensorCalibration:
        """Return the part for the tensor of this name; CodecError when there is none."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise CodecError(f"the calibration of partition {self.partition} has no tensor {name[:100]!r}")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a calibration file; ModelFileError when it cannot be read or is no good."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ModelFileError(f"cannot read the calibration {path}: {error.strerror or error}") from error
        return cls.from_bytes(data, f"calibration {path}")

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "calibration") -> Self:
        """Read a calibration file's bytes strictly; ModelFileError, which starts with ``where``, says what is wrong."""
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES} bytes")
            return cls(*_read(data), bytes_digest(data))
        except (ValueError, OverflowError, RecursionError, CodecError) as error:
            raise ModelFileError(f"{where}: {error}") from error


def _read(data: bytes) -> tuple[str, str, tuple[TensorCalibration, ...], str]:
    match json.loads(data.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant):
        case {
            "format": 1,
            "model": str(model),
            "partition": str(partition),
            "tensors": list(items),
            "made_from": str(made_from),
            **others,
        } if not others and len(items) <= MAX_TENSORS and len(made_from) <= MAX_MADE_FROM:
            tensors = tuple(_read_tensor(item) for item in items)
        case _:
            raise ValueError(
                f"expected an object with format ({FORMAT}), model, partition, tensors (at most {MAX_TENSORS}) and "
                f"made_from (at most {MAX_MADE_FROM} characters), and nothing else"
            )
    names = [tensor.name for tensor in tensors]
    if sorted(names, key=str.encode) != names:
        raise ValueError("its tensors are not in the order of their names")
    if partition_id(model, names) != partition:
        raise ValueError(f"partition {partition[:100]!r} is not that of its model and tensors")
    return model, partition, tensors, made_from


def _read_tensor(item: object) -> TensorCalibration:
    match item:
        case {
            "name": str(name),
            "axis": int(axis),
            "low": list(low),
            "high": list(high),
            "mean": list(mean),
            **others,
        } if others.keys() <= TABLES.keys():
            tables: dict[str, Any] = {str(key): TABLES[str(key)].from_json(others[key], len(low)) for key in others}
            return TensorCalibration(name, axis, *(_float32(name, numbers) for numbers in (low, high, mean)), **tables)
        case _:
            raise ValueError(
                "a tensor has a name, an axis and lists low, high and mean, perhaps tables "
                f"({', '.join(TABLES)}), and nothing else"
            )


def _float32(name: str, numbers: Sequence[Any]) -> NDArray[np.float32]:
    if not all(type(number) in (int, float) for number in numbers):  # True is no number
        raise ValueError(f"tensor {name}: low, high and mean are lists of numbers")
    with np.errstate(over="ignore"):  # infinity is refused with the range
        return np.array(numbers, np.float64).astype(np.float32)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member comes twice")
    return members


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def calibration_bytes(model: str, partition: str, tensors: Sequence[TensorCalibration], made_from: str) -> bytes:
    """Return the content of a calibration file. ModelFileError when the arguments do not fit each other.

    Args:
        model: digest of the model's file.
        partition: id of the partition at the tensors.
        tensors: all of the partition, in any order.
        made_from: what the samples were, for people.
    """

    def decimals(values: NDArray[np.float32]) -> list[float]:
        return [float(str(value)) for value in values]  # the shortest that is read back as the same float32

    value = {
        "format": FORMAT,
        "model": model,
        "partition": partition,
        "tensors": [
            {"name": t.name, "axis": t.axis, "low": decimals(t.low), "high": decimals(t.high), "mean": decimals(t.mean)}
            | {key: getattr(t, key).to_json() for key in TABLES if not t.missing(key)}
            for t in sorted(tensors, key=lambda tensor: tensor.name.encode())
        ],
        "made_from": made_from,
    }
    data = json.dumps(value, ensure_ascii=False).encode() + b"\n"
    Calibration.from_bytes(data)
    return data


def collect(
    frames: Iterable[Sequence[NDArray[Any]]], tensors: Sequence[TensorSpec], percentile: float = DEFAULT_PERCENTILE
) -> tuple[TensorCalibration, ...]:
    """Determine ranges from samples, which are all held in memory.

    Args:
        frames: at least one; of each frame all the tensors, in the order of ``tensors``.
        tensors: of floating point, rank 1 or more. Channels lie along axis 1, or 0 where there is no other.
        percentile: percent of a channel's values below its range, and above; at least 0, less than 50.

    Raises:
        BadArgument: no frame, or percentile out of range.
        CodecError: a tensor cannot be quantised, or a sample is not finite.
    """
    samples = list(frames)
    if not samples or not 0 <= percentile < 50:
        raise BadArgument(f"expected at least one frame and a percentile from 0 to 50, not {percentile}")
    for spec in tensors:
        if not spec.shape or not spec.dtype.startswith("float"):
            raise CodecError(f"tensor {spec} cannot be quantised: it is not of floating point, or has no dimension")
    return tuple(_ranges(spec, [frame[number] for frame in samples], percentile) for number, spec in enumerate(tensors))


def _ranges(spec: TensorSpec, samples: Sequence[NDArray[Any]], percentile: float) -> TensorCalibration:
    axis = min(1, len(spec.shape) - 1)
    channels = spec.shape[axis]
    values = np.concatenate(
        [np.moveaxis(sample, axis, 0).reshape(channels, -1).astype(np.float64) for sample in samples], axis=1
    )
    if not np.isfinite(values).all():
        raise CodecError(f"tensor {spec.name}: a sample is not finite")
    with np.errstate(over="ignore"):  # beyond float32; infinity is refused with the range
        ends = np.percentile(values, (percentile, 100 - percentile), axis=1).astype(np.float32)
        mean = values.mean(axis=1).astype(np.float32)
    return TensorCalibration(spec.name, axis, ends[0], ends[1], np.clip(mean, ends[0], ends[1]))
