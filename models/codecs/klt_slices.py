"""Slices of the klt profiles: kinds of blocks and coefficients as bytes, and back (docs/protocol.md, section 4.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import constriction
import numpy as np
from numpy.typing import NDArray

from models.codecs.klt_plane import Plane, step_of
from models.codecs.klt_tables import CLASSES, ESCAPE, LEVEL_STEPS, SCALES, KltTransform
from models.codecs.range_coder import decoder as _decoder
from models.codecs.range_coder import model as _model
from models.codecs.range_coder import written as _written
from splitrtc_errors import CodecError

T = TypeVar("T", int, NDArray[np.intp])

__all__ = ["HEADER", "SKIPPED", "Coefficients", "Header", "SliceCoder", "classes_of", "kind_of", "mode_of"]

HEADER = 2 + 2 * 1
"""Bytes of the shortest header."""
SKIPPED = 0
"""Kind of a predicted frame's block that takes its reference as it is."""

_ESCAPE_BITS = 20
"""Binary digits, at most, of what a coefficient has beyond ESCAPE."""
_MIDDLE = 18
"""Class of a coefficient whose calibrated spread is one step."""


def kind_of(mode: T, scale: T, intra: bool) -> T:
    """Number a block's kind: mode 0 is intra, 1 + n predicted with gain n; ``scale`` counts SCALES."""
    return scale if intra else 1 + mode * len(SCALES) + scale


def mode_of(kinds: NDArray[np.int32], intra: bool) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return modes and scales of blocks that are not skipped: the inverse of kind_of()."""
    if intra:
        return np.zeros_like(kinds), kinds
    mode, scale = np.divmod(kinds - 1, len(SCALES))
    return mode, scale


def classes_of(transform: KltTransform, step: int) -> NDArray[np.int32]:
    """Return the class of each coefficient at a step in 1/64, not scaled or clamped: (2, frequencies, components)."""
    octaves = (step**LEVEL_STEPS).bit_length() - 1 - 6 * LEVEL_STEPS
    return np.asarray(transform.levels, np.int32) + np.int32(_MIDDLE - octaves)


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """A run of blocks of one tensor, as one slice holds them.

    ``kinds`` is int32 (blocks,), ``symbols`` int32 (positions, components), all zero in skipped blocks. ``step`` is a
    code, ``transform`` a number.
    """

    tensor: int
    transform: int
    step: int
    first: int
    kinds: NDArray[np.int32]
    symbols: NDArray[np.int32]


class Header(NamedTuple):
    """What a slice is about: as in Coefficients, the number of its blocks, and where its coded part begins."""

    tensor: int
    transform: int
    step: int
    first: int
    blocks: int
    start: int


class SliceCoder:
    """Writes and reads the slices of a parameter set. Keeps nothing from one to the next."""

    def __init__(self, planes: Sequence[Plane]) -> None:
        self._planes = planes

    def write(self, run: Coefficients, intra: bool) -> bytes:
        """Return the slice of a run of blocks."""
        plane = self._planes[run.tensor]
        transform = plane.tables.transforms[run.transform]
        header = bytes([run.tensor << 1 | run.transform, run.step]) + _varint(run.first) + _varint(len(run.kinds))
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(run.kinds, _model(plane.tables.kinds[0 if intra else 1].tobytes()))
        order, counts, places = self._order(plane, transform, run.step, run.first, run.kinds, intra)
        values = run.symbols.reshape(-1)[places][order]
        symbols = np.clip(values, -ESCAPE, ESCAPE) + ESCAPE
        start = 0
        for table in np.flatnonzero(counts):
            stop = start + counts[table]
            coder.encode(symbols[start:stop], _weights(transform, int(table)))
            start = stop
        excess = np.abs(values[np.abs(values) >= ESCAPE]) - (ESCAPE - 1)
        if excess.size:
            digits = np.frexp(excess)[1].astype(np.int32) - 1
            coder.encode(digits, constriction.stream.model.Uniform(32))
            some = digits > 0
            if some.any():
                sizes = (1 << digits[some]).astype(np.int32)
                coder.encode(excess[some] - sizes, constriction.stream.model.Uniform(), sizes)
        return header + _written(coder)

    def read_header(self, payload: bytes | memoryview) -> Header:
        """Read what a slice of unknown origin is about. CodecError when that is malformed."""
        if len(payload) < 4:
            raise CodecError(f"a slice has at least 4 bytes, not {len(payload)}")
        tensor, transform = divmod(payload[0], 2)
        if tensor >= len(self._planes):
            raise CodecError(f"a slice of tensor {tensor}, of {len(self._planes)}")
        first, start = _read_varint(payload, 2)
        count, start = _read_varint(payload, start)
        if not count or first + count > self._planes[tensor].blocks:
            raise CodecError(f"a slice of {count} blocks from {first}, of {self._planes[tensor].blocks}")
        return Header(tensor, transform, payload[1], first, count, start)

    def read(self, header: Header, payload: bytes | memoryview, intra: bool) -> Coefficients:
        """Read the slice that a header opens. CodecError when it is malformed. Work is bounded by the blocks' size."""
        tensor, transform_number, step, first, count, start = header
        plane = self._planes[tensor]
        transform = plane.tables.transforms[transform_number]
        coder = _decoder(payload[start:])
        try:
            kinds = coder.decode(_model(plane.tables.kinds[0 if intra else 1].tobytes()), count)
            order, counts, places = self._order(plane, transform, step, first, kinds, intra)
            values = np.empty(len(order), np.int32)
            start = 0
            for table in np.flatnonzero(counts):
                stop = start + counts[table]
                values[start:stop] = coder.decode(_weights(transform, int(table)), int(counts[table]))
                start = stop
            values -= ESCAPE
            escaped = np.flatnonzero(np.abs(values) == ESCAPE)
            if escaped.size:
                values[escaped] = np.sign(values[escaped]) * _read_escapes(coder, escaped.size)
        except AssertionError as error:  # what constriction raises when no symbol fits
            raise CodecError(f"a slice that no encoder writes: {error}") from error
        symbols = np.zeros((int(plane.lengths(first, count).sum()), plane.channels), np.int32)
        unsorted = np.empty_like(values)
        unsorted[order] = values
        symbols.reshape(-1)[places] = unsorted
        return Coefficients(tensor, transform_number, step, first, kinds, symbols)

    def _order(
        self, plane: Plane, transform: KltTransform, step: int, first: int, kinds: NDArray[np.int32], intra: bool
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp] | slice]:
        """In which order the coefficients of a run of blocks are coded.

        Returns the order, by table and then as they lie; how many use each table; and where those of blocks that are
        not skipped lie among all.
        """
        lengths = plane.lengths(first, len(kinds))
        of_position = np.repeat(kinds, lengths)
        frequency = plane.frequency[transform.edge][plane.rows(first, len(kinds))]
        places: NDArray[np.intp] | slice = slice(None)
        if not intra and not kinds.all():
            coded = np.flatnonzero(of_position != SKIPPED)
            of_position, frequency = of_position[coded], frequency[coded]
            places = (coded[:, None] * plane.channels + np.arange(plane.channels)).reshape(-1)
        mode, scale = mode_of(of_position, intra)
        use = np.minimum(mode, 1)
        classes = classes_of(transform, step_of(step))[use, frequency] + np.array(SCALES)[scale][:, None]
        tables = (np.clip(classes, 0, CLASSES - 1) + use[:, None] * CLASSES).astype(np.uint8).reshape(-1)
        return np.argsort(tables, kind="stable"), np.bincount(tables, minlength=2 * CLASSES), places


def _read_escapes(coder: Any, count: int) -> NDArray[np.int32]:
    digits = coder.decode(constriction.stream.model.Uniform(32), count)
    if digits.max() > _ESCAPE_BITS:
        raise CodecError(f"a coefficient with {digits.max()} digits beyond {ESCAPE}, more than {_ESCAPE_BITS}")
    sizes: NDArray[np.int32] = (1 << digits).astype(np.int32)
    some = digits > 0
    excess = sizes.copy()
    if some.any():
        excess[some] += coder.decode(constriction.stream.model.Uniform(), sizes[some])
    return excess + (ESCAPE - 1)


def _weights(transform: KltTransform, table: int) -> Any:
    """The model of a coefficient: symbols -ESCAPE to ESCAPE, counted from 0."""
    use, number = divmod(table, CLASSES)
    weights = transform.weights[use, number]
    return _model(np.concatenate((weights[:0:-1], weights)).tobytes())


def _varint(value: int) -> bytes:
    """Seven bits in a byte, the lowest first; the highest bit says that there are more."""
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    return bytes(data)


def _read_varint(payload: bytes | memoryview, start: int) -> tuple[int, int]:
    """Return the number and where it ends; CodecError when it is longer than three bytes or cut off."""
    value = 0
    for place, byte in enumerate(payload[start : start + 3]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, start + place + 1
    raise CodecError("a slice with a malformed number of blocks")
