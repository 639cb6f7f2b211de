"""Runs of a tensor's codes by a range coder with tables from the calibration (docs/protocol.md, section 4.7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from models.codecs.range_coder import decoder, model, written
from models.codecs.range_tables import RangeTables
from models.codecs.slices import MAX_ELEMENTS_PER_SLICE, pack_slice, room_of
from splitrtc_errors import CodecError

__all__ = ["RangeCoder"]

_SEAL = 4
"""Bytes that the range coder needs besides the bits that symbols cost, as measured; now and then it is more."""


class RangeCoder:
    """Codes one tensor's codes of 2 to 8 bits."""

    def __init__(self, tables: RangeTables, bits: int, of_element: NDArray[np.intp]) -> None:
        """Take the tables, the codes' width and the channel of each element, in C order."""
        self._weights = tables.of_bits(bits)
        self._table = tables.table[of_element]
        self._bits = 16 - np.log2(self._weights)

    def cut(self, tensor: int, codes: NDArray[np.uint8], max_payload: int) -> Iterator[bytes]:
        """Yield the slices of all elements, each as full as it can be."""
        ends = np.cumsum(self._bits[self._table, codes])
        room = room_of(max_payload)
        first, before = 0, 0.0
        while first < codes.size:
            fitting = int(np.searchsorted(ends, before + 8 * (room - _SEAL), "right"))
            count = min(max(fitting - first, 1), MAX_ELEMENTS_PER_SLICE)
            while len(body := self._write(codes[first : first + count], first)) > room:
                count -= max(1, count // 64)
            yield pack_slice(tensor, first, count, body)
            first += count
            before = float(ends[first - 1])

    def _write(self, codes: NDArray[np.uint8], first: int) -> bytes:
        coder = constriction.stream.queue.RangeEncoder()
        order, counts = self._order(first, codes.size)
        symbols = codes[order].astype(np.int32)
        start = 0
        for table in np.flatnonzero(counts):
            stop = start + counts[table]
            coder.encode(symbols[start:stop], self._model(table))
            start = stop
        return written(coder)

    def read(self, body: bytes | memoryview, first: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out``, the elements from ``first`` on, from a slice's body. CodecError when it is malformed."""
        order, counts = self._order(first, out.size)
        symbols = np.empty(out.size, np.int32)
        start = 0
        coder = decoder(body)
        try:
            for table in np.flatnonzero(counts):
                stop = start + counts[table]
                symbols[start:stop] = coder.decode(self._model(table), int(counts[table]))
                start = stop
        except AssertionError as error:  # what constriction raises when no symbol fits
            raise CodecError(f"a slice that no encoder writes: {error}") from error
        out[order] = symbols

    def _order(self, first: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """In which order a run is coded, by table and then as the elements lie; and how many use each table."""
        tables = self._table[first : first + count]
        return np.argsort(tables, kind="stable"), np.bincount(tables)

    def _model(self, table: Any) -> Any:
        return model(self._weights[table].tobytes())
