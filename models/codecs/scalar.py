"""The profiles raw and q2 to q16, plain or compressed: every element coded by itself (docs/protocol.md, section 4)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration, TensorCalibration
from models.codecs import snappy
from models.codecs.base import DecodedFrame, Decoder, EncodedFrame, Encoder, check_tensors
from models.codecs.quantise import Quantiser, pack_nibbles, unpack_nibbles
from models.codecs.ranges import RangeCoder
from models.codecs.slices import MAX_SLICES, MAX_TENSORS, MIN_PAYLOAD, Grain, Slice, Writer, parse_slice
from models.codecs.zstd import Compressor, Decompressor
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, CodecError

__all__ = ["ScalarDecoder", "ScalarEncoder"]

_FLOATS = ("float16", "float32", "float64")


_Decompress = Callable[[bytes | memoryview, int], bytes | memoryview]


class _Code(ABC):
    """How the elements of one tensor become bytes."""

    stored: np.dtype[Any]
    """Element type between read() and finish()."""

    @abstractmethod
    def cut(self, number: int, tensor: NDArray[Any], writer: Writer) -> Iterator[bytes]:
        """Yield the slices of tensor ``number``. CodecError when an element cannot be coded."""

    @abstractmethod
    def read(self, piece: Slice, decompress: _Decompress | None, out: NDArray[Any]) -> None:
        """Fill ``out``, the elements of a slice. CodecError when its body is malformed."""

    @abstractmethod
    def finish(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return all elements, flat and writable, in the tensor's type; ``stored`` is not used again."""

    @abstractmethod
    def unknown(self) -> NDArray[Any]:
        """Return all elements, flat, as they are assumed as long as nothing is known of them."""


class _Bytes(_Code):
    """Elements that take a number of bytes, perhaps compressed."""

    grain: Grain

    def cut(self, number: int, tensor: NDArray[Any], writer: Writer) -> Iterator[bytes]:
        """See _Code."""
        return writer.cut(number, tensor.size, self.write(tensor), self.grain)

    def read(self, piece: Slice, decompress: _Decompress | None, out: NDArray[Any]) -> None:
        """See _Code."""
        size = -(-piece.elements // self.grain.elements) * self.grain.nbytes
        body: bytes | memoryview = piece.body
        if decompress is not None:
            body = decompress(body, size)
        if len(body) != size:
            raise CodecError(f"{piece.elements} elements take {size} bytes, not {len(body)}")
        self.unpack(body, out)

    @abstractmethod
    def write(self, tensor: NDArray[Any]) -> memoryview:
        """Return all elements coded, grain after grain. CodecError when one cannot be."""

    @abstractmethod
    def unpack(self, body: bytes | memoryview, out: NDArray[Any]) -> None:
        """Fill ``out`` from a body of the right size. CodecError when it is malformed."""


class _Raw(_Bytes):
    """Elements as they are, little-endian."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self.stored = np.dtype(spec.dtype)
        self._on_wire = self.stored.newbyteorder("<")
        self.grain = Grain(1, self.stored.itemsize)

    def write(self, tensor: NDArray[Any]) -> memoryview:
        if self._spec.dtype in _FLOATS and np.isnan(tensor).any():
            raise CodecError(f"tensor {self._spec.name}: NaN cannot be coded")
        return np.ascontiguousarray(tensor, self._on_wire).reshape(-1).view(np.uint8).data

    def unpack(self, body: bytes | memoryview, out: NDArray[Any]) -> None:
        if self._spec.dtype == "bool" and np.frombuffer(body, np.uint8).max() > 1:
            raise CodecError("a bool that is neither 0 nor 1")
        elements = np.frombuffer(body, self._on_wire)
        if self._spec.dtype in _FLOATS and np.isnan(elements).any():
            raise CodecError("NaN in a slice")
        out[:] = elements

    def finish(self, stored: NDArray[Any]) -> NDArray[Any]:
        return stored

    def unknown(self) -> NDArray[Any]:
        return np.zeros(self._spec.elements, self.stored)


class _Quantised(_Bytes):
    """Codes of 2 to 8, or 16 bits of a floating-point tensor: two in a byte (4 bits), else one in one or two bytes."""

    def __init__(self, spec: TensorSpec, bits: int, calibration: TensorCalibration) -> None:
        if spec.dtype not in _FLOATS:
            raise CodecError(f"tensor {spec} is not of floating point: only the raw profiles can code it")
        self._spec = spec
        self._type = np.dtype(spec.dtype)
        self._is_nibble = bits == 4
        self._mean = calibration.mean
        self._quantiser = Quantiser(bits, spec.shape, calibration.axis, calibration.low, calibration.high)
        with np.errstate(over="ignore"):
            ends = np.concatenate((calibration.low, self._quantiser.top)).astype(self._type)
        if not np.isfinite(ends).all():
            raise CodecError(f"tensor {spec}: its calibrated range exceeds what {spec.dtype} can hold")
        self.stored = self._quantiser.stored
        self._on_wire = self.stored.newbyteorder("<")
        self._highest = 2**bits - 1
        self.grain = Grain(2, 1) if self._is_nibble else Grain(1, self.stored.itemsize)

    def codes(self, tensor: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinity, which is clamped
            values = tensor.astype(np.float32, copy=False)
        try:
            return self._quantiser.codes(values)
        except CodecError as error:
            raise CodecError(f"tensor {self._spec.name}: {error}") from error

    def write(self, tensor: NDArray[Any]) -> memoryview:
        codes = self.codes(tensor)
        if self._is_nibble:
            return pack_nibbles(codes).data
        return codes.astype(self._on_wire, copy=False).view(np.uint8).data

    def unpack(self, body: bytes | memoryview, out: NDArray[Any]) -> None:
        if self._is_nibble:
            unpack_nibbles(np.frombuffer(body, np.uint8), out)
            return
        codes = np.frombuffer(body, self._on_wire)
        if codes.max() > self._highest:
            raise CodecError(f"a code above {self._highest}")
        out[:] = codes

    def finish(self, stored: NDArray[Any]) -> NDArray[Any]:
        return self._quantiser.values(stored).astype(self._type, copy=False)

    def unknown(self) -> NDArray[Any]:
        return self._quantiser.spread(self._mean).astype(self._type)


class _RangeCoded(_Quantised):
    """Codes of 2 to 8 bits, by the range coder."""

    def __init__(self, spec: TensorSpec, bits: int, calibration: TensorCalibration) -> None:
        super().__init__(spec, bits, calibration)
        if calibration.range is None:
            raise CodecError(
                f"no range tables for tensor {spec.name}: make them with `splitrtc calibrate --profile q{bits}-range`"
            )
        inner = math.prod(spec.shape[calibration.axis + 1 :])
        channels = np.arange(spec.elements) // inner % spec.shape[calibration.axis]
        self._coder = RangeCoder(calibration.range, bits, channels)

    def cut(self, number: int, tensor: NDArray[Any], writer: Writer) -> Iterator[bytes]:
        return self._coder.cut(number, self.codes(tensor), writer.max_payload)

    def read(self, piece: Slice, decompress: _Decompress | None, out: NDArray[Any]) -> None:
        self._coder.read(piece.body, piece.first, out)


def _codes(
    tensors: Sequence[TensorSpec], bits: int | None, compression: str | None, calibration: Calibration | None
) -> list[_Code]:
    if not 1 <= len(tensors) <= MAX_TENSORS:
        raise CodecError(f"a frame has 1 to {MAX_TENSORS} tensors, not {len(tensors)}")
    if bits is None:
        return [_Raw(spec) for spec in tensors]
    if calibration is None:
        raise BadArgument(f"a profile of {bits}-bit codes needs a calibration")
    kind = _RangeCoded if compression == "range" else _Quantised
    return [kind(spec, bits, calibration.of(spec.name)) for spec in tensors]


def _compressor(compression: str | None) -> Callable[[memoryview], bytes] | None:
    if compression == "snappy":
        return snappy.compress
    return Compressor().compress if compression == "zstd" else None


def _decompressor(compression: str | None) -> _Decompress | None:
    if compression == "snappy":
        return snappy.decompress
    return Decompressor().decompress if compression == "zstd" else None


class ScalarEncoder(Encoder):
    """Encodes the scalar profiles."""

    def __init__(
        self,
        tensors: Sequence[TensorSpec],
        bits: int | None,
        compression: str | None,
        calibration: Calibration | None,
        max_payload: int,
    ) -> None:
        """Prepare for frames of ``tensors`` and payloads of at most ``max_payload`` bytes.

        ``bits`` is 2 to 8, 16, or None for elements as they are; with bits, ``calibration`` must describe every tensor.
        ``compression`` is "zstd", "snappy", "range" (up to 8 bits) or None.

        BadArgument when an argument is missing or out of range, CodecError when the tensors cannot be coded so.
        """
        if max_payload < MIN_PAYLOAD:
            raise BadArgument(f"a payload has at least {MIN_PAYLOAD} bytes, not {max_payload}")
        self._tensors = tuple(tensors)
        self._codes = _codes(tensors, bits, compression, calibration)
        self._writer = Writer(max_payload, _compressor(compression))

    def encode(self, frame_id: int, tensors: Sequence[NDArray[Any]]) -> EncodedFrame:
        """See Encoder.encode()."""
        check_tensors(self._tensors, tensors)
        cut = (
            code.cut(number, tensor, self._writer)
            for number, (code, tensor) in enumerate(zip(self._codes, tensors, strict=True))
        )
        slices = list(islice(chain.from_iterable(cut), MAX_SLICES + 1))
        if len(slices) > MAX_SLICES:
            raise CodecError(f"frame {frame_id} needs more than {MAX_SLICES} slices; use a profile with fewer bytes")
        return EncodedFrame(slices)


class ScalarDecoder(Decoder):
    """Decodes the scalar profiles. Keeps the last frame, to conceal losses in the next with it."""

    def __init__(
        self, tensors: Sequence[TensorSpec], bits: int | None, compression: str | None, calibration: Calibration | None
    ) -> None:
        """Prepare for frames of ``tensors``; arguments and errors are those of ScalarEncoder."""
        self._codes = _codes(tensors, bits, compression, calibration)
        self._shapes = [spec.shape for spec in tensors]
        self._sizes = [spec.elements for spec in tensors]
        self._last = [code.unknown() for code in self._codes]
        self._decompress = _decompressor(compression)

    def decode(
        self,
        frame_id: int,
        slices: Sequence[bytes | memoryview | None],
        intra: bool = True,
        reference: int | None = None,
    ) -> DecodedFrame:
        """See Decoder.decode()."""
        stored = [np.zeros(size, code.stored) for size, code in zip(self._sizes, self._codes, strict=True)]
        runs: list[list[tuple[int, int]]] = [[] for _ in self._codes]
        next_free = (0, 0)
        damaged = 0
        for payload in slices:
            if payload is None:
                continue
            try:
                if not intra or reference is not None:
                    raise CodecError("these profiles need no other frame")
                piece = parse_slice(payload, self._sizes)
                # Slices come in the order of their elements. So whatever a peer sends, nothing is decoded twice, and
                # of two slices that overlap the one with the lower index counts.
                if (piece.tensor, piece.first) < next_free:
                    raise CodecError("a slice that is out of order or overlaps the one before")
                stop = piece.first + piece.elements
                next_free = (piece.tensor, stop)  # also of a slice that turns out to be damaged: that takes time, too
                self._codes[piece.tensor].read(piece, self._decompress, stored[piece.tensor][piece.first : stop])
            except CodecError:
                damaged += 1
                continue
            runs[piece.tensor].append((piece.first, stop))
        missing = 0
        for number, code in enumerate(self._codes):
            values = code.finish(stored[number])
            missing += _conceal(values, runs[number], self._last[number])
            values.flags.writeable = False
            self._last[number] = values
        tensors = [values.reshape(shape) for values, shape in zip(self._last, self._shapes, strict=True)]
        return DecodedFrame(tensors, missing / sum(self._sizes), damaged)


def _conceal(values: NDArray[Any], runs: Sequence[tuple[int, int]], last: NDArray[Any]) -> int:
    """Fill everything outside ``runs``, which are in order, from ``last``; return how many elements that were."""
    missing = edge = 0
    for first, stop in (*runs, (values.size, values.size)):
        values[edge:first] = last[edge:first]
        missing += first - edge
        edge = stop
    return missing
