"""Slices of the klt profiles: kinds of blocks and coefficients as bytes, and back (docs/protocol.md, section 4.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import constriction
import numpy as np
from numpy.typing import NDArray

from models.codecs.klt_plane import CODES, Plane, step_of
from models.codecs.klt_tables import CLASSES, ESCAPE, LEVEL_STEPS, OFFSETS, SCALES, KltTransform
from models.codecs.range_coder import decoder as _decoder
from models.codecs.range_coder import model as _model
from models.codecs.range_coder import written as _written
from splitrtc_errors import CodecError

T = TypeVar("T", int, NDArray[np.intp])

__all__ = [
    "HEADER",
    "SKIPPED",
    "STEP_SIZES",
    "Coefficients",
    "Header",
    "SliceCoder",
    "classes_of",
    "codes_of",
    "kind_of",
    "mode_of",
]

HEADER = 2 + 2 * 1
"""Bytes of the shortest header."""
SKIPPED = 0
"""Kind of a predicted frame's block that takes its reference as it is."""

_ESCAPE_BITS = 20
"""Binary digits, at most, of what a coefficient has beyond ESCAPE."""
_MIDDLE = 18
"""Class of a coefficient whose calibrated spread is one step."""

STEP_SIZES = np.array([step_of(code) for code in range(CODES)], np.int64)
"""The step of each code, in 1/64."""
_OCTAVES = np.array([(step**LEVEL_STEPS).bit_length() - 1 - 6 * LEVEL_STEPS for step in STEP_SIZES.tolist()], np.int32)
"""Of each code, by how many classes its step exceeds one."""
_OFFSETS = np.array(OFFSETS, np.int32)
_SCALES = np.array(SCALES, np.int32)


def kind_of(mode: T, scale: T, intra: bool) -> T:
    """Number a block's kind: mode 0 is intra, 1 + n predicted with gain n; ``scale`` counts SCALES."""
    return scale if intra else 1 + mode * len(SCALES) + scale


def mode_of(kinds: NDArray[np.int32], intra: bool) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return modes and scales of blocks that are not skipped: the inverse of kind_of()."""
    if intra:
        return np.zeros_like(kinds), kinds
    mode, scale = np.divmod(kinds - 1, len(SCALES))
    return mode, scale


def codes_of(step: int, offsets: NDArray[Any]) -> NDArray[np.int32]:
    """Return the codes of the steps of blocks: ``offsets`` counts OFFSETS, from the code ``step``."""
    return np.asarray(np.clip(step + _OFFSETS[offsets], 0, CODES - 1), np.int32)


def classes_of(scales: NDArray[Any], codes: NDArray[Any]) -> NDArray[np.int32]:
    """Return what is added to `KltTransform.levels` for the class of coefficients at a scale and a step's code."""
    return np.asarray(_SCALES[scales] + np.int32(_MIDDLE) - _OCTAVES[codes], np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """A run of blocks of one tensor, as one slice holds them.

    ``kinds`` and ``offsets`` are int32 (blocks,), ``symbols`` int32 (positions, components). Skipped blocks have no
    offset, and symbols that are zero. ``step`` is a code, ``transform`` a number, ``offsets`` counts OFFSETS.
    """

    tensor: int
    transform: int
    step: int
    first: int
    kinds: NDArray[np.int32]
    offsets: NDArray[np.int32]
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
        self._models: dict[tuple[KltTransform, int], Any] = {}
        """Of coefficients, by transform and table: looking them up by their weights takes longer than using them."""

    def write(self, run: Coefficients, intra: bool) -> bytes:
        """Return the slice of a run of blocks."""
        plane = self._planes[run.tensor]
        transform = plane.tables.transforms[run.transform]
        header = bytes([run.tensor << 1 | run.transform, run.step]) + _varint(run.first) + _varint(len(run.kinds))
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(run.kinds, _model(plane.tables.kinds[0 if intra else 1].tobytes()))
        coded = np.flatnonzero(_is_coded(run.kinds, intra))
        coder.encode(run.offsets[coded], _model(plane.tables.offsets[0 if intra else 1].tobytes()))
        order, counts, places = self._order(plane, transform, run, coded, intra)
        values = run.symbols.reshape(-1)[places][order]
        symbols = np.clip(values, -ESCAPE, ESCAPE) + ESCAPE
        start = 0
        for table in np.flatnonzero(counts):
            stop = start + counts[table]
            coder.encode(symbols[start:stop], self._model_of(transform, int(table)))
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
        symbols = np.zeros((int(plane.lengths(first, count).sum()), plane.channels), np.int32)
        try:
            kinds = coder.decode(_model(plane.tables.kinds[0 if intra else 1].tobytes()), count)
            coded = np.flatnonzero(_is_coded(kinds, intra))
            offsets = np.zeros(count, np.int32)
            offsets[coded] = coder.decode(_model(plane.tables.offsets[0 if intra else 1].tobytes()), len(coded))
            run = Coefficients(tensor, transform_number, step, first, kinds, offsets, symbols)
            order, counts, places = self._order(plane, transform, run, coded, intra)
            values = np.empty(len(order), np.int32)
            start = 0
            for table in np.flatnonzero(counts):
                stop = start + counts[table]
                values[start:stop] = coder.decode(self._model_of(transform, int(table)), int(counts[table]))
                start = stop
            values -= ESCAPE
            escaped = np.flatnonzero(np.abs(values) == ESCAPE)
            if escaped.size:
                values[escaped] = np.sign(values[escaped]) * _read_escapes(coder, escaped.size)
        except AssertionError as error:  # what constriction raises when no symbol fits
            raise CodecError(f"a slice that no encoder writes: {error}") from error
        unsorted = np.empty_like(values)
        unsorted[order] = values
        symbols.reshape(-1)[places] = unsorted
        return run

    def _model_of(self, transform: KltTransform, table: int) -> Any:
        """The model of a coefficient: symbols -ESCAPE to ESCAPE, counted from 0."""
        key = transform, table
        if key not in self._models:
            use, number = divmod(table, CLASSES)
            weights = transform.weights[use, number]
            self._models[key] = _model(np.concatenate((weights[:0:-1], weights)).tobytes())
        return self._models[key]

    def _order(
        self, plane: Plane, transform: KltTransform, run: Coefficients, coded: NDArray[np.intp], intra: bool
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp] | slice]:
        """In which order the coefficients of a run of blocks are coded; ``coded`` are those that are not skipped.

        Returns the order, by table and then as they lie; how many use each table; and where those of blocks that are
        not skipped lie among all.
        """
        lengths = plane.lengths(run.first, len(run.kinds))
        frequency = plane.frequency[transform.edge][plane.rows(run.first, len(run.kinds))]
        places: NDArray[np.intp] | slice = slice(None)
        if len(coded) < len(run.kinds):
            positions = np.flatnonzero(np.repeat(_is_coded(run.kinds, intra), lengths))
            frequency = frequency[positions]
            places = (positions[:, None] * plane.channels + np.arange(plane.channels)).reshape(-1)
        mode, scale = mode_of(run.kinds[coded], intra)
        shift = np.repeat(classes_of(scale, codes_of(run.step, run.offsets[coded])), lengths[coded])
        use = np.repeat(np.minimum(mode, 1), lengths[coded])
        classes = transform.levels[use, frequency] + shift[:, None]
        tables = (np.clip(classes, 0, CLASSES - 1) + use[:, None] * CLASSES).astype(np.uint8).reshape(-1)
        return np.argsort(tables, kind="stable"), np.bincount(tables, minlength=2 * CLASSES), places


def _is_coded(kinds: NDArray[np.int32], intra: bool) -> NDArray[np.bool_]:
    """Which blocks are not skipped."""
    return np.full(len(kinds), True) if intra else kinds != SKIPPED


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
