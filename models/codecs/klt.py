"""The profiles klt and klt-light: rotated channels, predicted from earlier frames (docs/protocol.md, section 4.6)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration
from models.codecs.base import DecodedFrame, Decoder, EncodedFrame, Encoder
from models.codecs.klt_choice import Chooser, Chosen
from models.codecs.klt_plane import CODES, Plane, step_of
from models.codecs.klt_slices import HEADER, Coefficients, SliceCoder
from models.codecs.klt_state import Content, State
from models.codecs.mirror import KEPT_STATES, Mirror
from models.codecs.slices import MAX_SLICES, MAX_TENSORS, MIN_PAYLOAD
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, CodecError, TensorError

__all__ = ["KltDecoder", "KltEncoder"]

_OCTAVE = 16
"""Codes of steps to an octave."""
_SEAL = 1
"""Bytes that the range coder needs besides the bits that symbols cost, as measured; now and then it is more."""
_CALM_SHARE = 0.3
"""Share of blocks skipped from which on the content counts as calm."""
_MANY_LOST = 0.02
"""Share of slices lost above which moving content is predicted only from frames that are known to be complete: a wrong
reference costs more there than an older one."""
_MEMORY = 1 / 100
"""Weight of a frame in the share of slices lost."""


def planes_of(tensors: Sequence[TensorSpec], calibration: Calibration | None) -> list[Plane]:
    """Return the planes of a parameter set's tensors; BadArgument or CodecError when there are no tables for them."""
    if not 1 <= len(tensors) <= MAX_TENSORS:
        raise CodecError(f"a frame has 1 to {MAX_TENSORS} tensors, not {len(tensors)}")
    if calibration is None:
        raise BadArgument("the klt profiles need a calibration")
    planes = []
    for spec in tensors:
        calibrated = calibration.of(spec.name)
        if calibrated.klt is None:
            raise CodecError(f"no klt tables for tensor {spec.name}: make them with `splitrtc calibrate --profile klt`")
        planes.append(Plane(spec, calibrated.axis, calibrated.klt))
    return planes


def code_of(step: float) -> int:
    """Return the code of the step that is nearest to this one."""
    return min(range(CODES), key=lambda code: abs(step_of(code) / 64 - step))


class KltEncoder(Encoder):
    """Encodes klt and klt-light."""

    def __init__(
        self,
        tensors: Sequence[TensorSpec],
        step: float,
        light: bool,
        calibration: Calibration | None,
        max_payload: int,
    ) -> None:
        """Prepare for frames of ``tensors`` and payloads of at most ``max_payload`` bytes.

        Args:
            tensors: as make_encoder() has them.
            step: between two sizes of a coefficient, in units of the tail's sensitivity.
            light: without DCT.
            calibration: with klt tables for every tensor.
            max_payload: bytes.

        Raises:
            BadArgument: an argument is missing or out of range.
            CodecError: the tensors cannot be coded so.
        """
        if max_payload < MIN_PAYLOAD:
            raise BadArgument(f"a payload has at least {MIN_PAYLOAD} bytes, not {max_payload}")
        self._tensors = tuple(tensors)
        self._planes = planes_of(tensors, calibration)
        self._transform = int(light)
        self._choosers = [Chooser(plane, self._transform) for plane in self._planes]
        for plane in self._planes:
            plane.tables.check_invertible()
        self._coder = SliceCoder(self._planes)
        self._code = code_of(step)
        # A predicted frame's units have one more field, the reference; its size is for the caller to know.
        self._max_payload = max_payload
        self._mirror = Mirror()
        self._lost = 0.0
        """Share of slices that the receiver missed of late."""
        self._calm = False

    def encode(self, frame_id: int, tensors: Sequence[NDArray[Any]]) -> EncodedFrame:
        """See Encoder.encode()."""
        if len(tensors) != len(self._tensors):
            raise TensorError(f"{len(self._tensors)} tensors expected, {len(tensors)} came")
        for spec, tensor in zip(self._tensors, tensors, strict=True):
            if tensor.shape != spec.shape or tensor.dtype != np.dtype(spec.dtype):
                raise TensorError(f"expected {spec}, {tensor.dtype}{list(tensor.shape)} came")
        values = [plane.elements(tensor) for plane, tensor in zip(self._planes, tensors, strict=True)]
        found = self._mirror.best(frame_id, certain=True) if self._lost > _MANY_LOST and not self._calm else None
        reference, state = found or self._mirror.best(frame_id) or (None, None)
        slices, content = self._code_frame(frame_id, values, state)
        self._mirror.sent(frame_id, content, reference)
        self._calm = content.skipped >= _CALM_SHARE
        return EncodedFrame(slices, reference is None, reference)

    def acknowledged(self, frame_id: int, received: Sequence[bool]) -> None:
        """See Encoder.acknowledged()."""
        if self._mirror.acknowledged(frame_id, received):
            self._lost += _MEMORY * (received.count(False) / len(received) - self._lost)

    def _code_frame(
        self, frame_id: int, values: Sequence[NDArray[np.float32]], reference: State | None
    ) -> tuple[list[bytes], Content]:
        slices: list[bytes] = []
        pieces: list[Coefficients] = []
        for number, tensor in enumerate(values):
            for data, piece in self._cut(number, tensor, None if reference is None else reference[number]):
                slices.append(data)
                pieces.append(piece)
                if len(slices) > MAX_SLICES:
                    raise CodecError(f"frame {frame_id} needs more than {MAX_SLICES} slices; use a wider step")
        return slices, Content(self._planes, pieces, reference is None)

    def _cut(
        self, number: int, values: NDArray[np.float32], reference: NDArray[np.int16] | None
    ) -> Iterator[tuple[bytes, Coefficients]]:
        """Yield the slices of a tensor, each as full as it can be."""
        plane = self._planes[number]
        room = 8 * (self._max_payload - HEADER - _SEAL)
        choices: dict[int, Chosen] = {}
        first, code = 0, self._code
        while first < plane.blocks:
            if code not in choices:
                choices[code] = self._choosers[number].choose(values, reference, code)
            chosen = choices[code]
            fitting = int(np.searchsorted(np.cumsum(chosen.bits[first:]), room, "right"))
            # A block that is too much for a slice gets one of its own, with a wider step.
            count = max(1, fitting) if code == self._code else 1
            data = b""
            while count and not data:
                piece = Coefficients(
                    number,
                    self._transform,
                    code,
                    first,
                    chosen.kinds[first : first + count],
                    chosen.offsets[first : first + count],
                    chosen.symbols[plane.rows(first, count)],
                )
                data = self._coder.write(piece, reference is None) if fitting else b""
                if not 0 < len(data) <= self._max_payload:
                    data, count = b"", count - 1
            if data:
                yield data, piece
                first, code = first + count, self._code
            elif code + _OCTAVE < CODES:
                code += _OCTAVE
            else:
                raise CodecError(f"a block does not fit in a slice of {self._max_payload} bytes at any step")


class KltDecoder(Decoder):
    """Decodes klt and klt-light."""

    needs_every_frame = True

    def __init__(self, tensors: Sequence[TensorSpec], calibration: Calibration | None) -> None:
        """Prepare for frames of ``tensors``; arguments and errors are those of KltEncoder."""
        self._planes = planes_of(tensors, calibration)
        self._coder = SliceCoder(self._planes)
        self._states: OrderedDict[int, State] = OrderedDict()
        self._elements = sum(plane.positions * plane.channels for plane in self._planes)

    def decode(
        self,
        frame_id: int,
        slices: Sequence[bytes | memoryview | None],
        intra: bool = True,
        reference: int | None = None,
    ) -> DecodedFrame:
        """See Decoder.decode()."""
        pieces: list[Coefficients | None] = [None] * len(slices)
        next_free = (0, 0)
        damaged = decoded = 0
        for index, payload in enumerate(slices):
            if payload is None:
                continue
            try:
                if intra != (reference is None):
                    raise CodecError("a frame is either intra or predicted from another one")
                header = self._coder.read_header(payload)
                # So whatever a peer sends, no block is decoded twice, not even in vain.
                if (header.tensor, header.first) < next_free:
                    raise CodecError("a slice that is out of order or overlaps the one before")
                next_free = (header.tensor, header.first + header.blocks)
                piece = self._coder.read(header, payload, intra)
            except CodecError:
                damaged += 1
                continue
            pieces[index] = piece
            decoded += piece.symbols.size
        latest = next(reversed(self._states.values()), None)
        base = None if reference is None else self._newest(reference)
        state = Content(self._planes, pieces, intra).onto(base, latest)
        self._states[frame_id] = state
        if len(self._states) > KEPT_STATES:
            self._states.popitem(last=False)
        tensors = [plane.tensor(part) for plane, part in zip(self._planes, state, strict=True)]
        return DecodedFrame(tensors, 1 - decoded / self._elements, damaged)

    def _newest(self, reference: int) -> State | None:
        """The state after the newest frame up to ``reference``: of that one, unless it never came."""
        return next((state for frame_id, state in reversed(self._states.items()) if frame_id <= reference), None)
