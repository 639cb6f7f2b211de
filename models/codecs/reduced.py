"""The profiles pca and clusters: fewer numbers than the tensor has, each coded by itself (protocol.md, 4.8 and 4.9).

What remains of a tensor is a smaller one, of bytes, which the profile raw-zstd carries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration
from models.codecs.base import DecodedFrame, Decoder, EncodedFrame, Encoder, check_tensors
from models.codecs.channels import Channels, Rotation, calibrated_of, product
from models.codecs.clusters_tables import SIZES
from models.codecs.scalar import ScalarDecoder, ScalarEncoder
from models.tensor import TensorSpec

__all__ = ["Reduced", "ReducedDecoder", "ReducedEncoder", "clusters", "pca"]


class Reduced(ABC):
    """One tensor, and what remains of it."""

    def __init__(self, spec: TensorSpec, channels: Channels) -> None:
        self.spec = spec
        """Of what remains."""
        self.channels = channels

    @abstractmethod
    def codes(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Return what remains, of spec's shape and type, of elements (positions, channels) in the state's unit."""

    @abstractmethod
    def state(self, codes: NDArray[Any]) -> NDArray[Any]:
        """Return integers (positions, channels) from what remains, whatever that is."""


_Reduce = Callable[[Sequence[TensorSpec], Calibration | None], list[Reduced]]


class _Pca(Reduced):
    """The first components, each with the same step."""

    def __init__(self, spec: TensorSpec, channels: Channels, rotation: Rotation, components: int, bits: int) -> None:
        count = min(components, channels.channels)
        super().__init__(TensorSpec(spec.name, "int8", (count, channels.positions)), channels)
        self._rotation = rotation
        self._step = 2 ** (8 - bits)
        self._low, self._high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def codes(self, values: NDArray[np.float32]) -> NDArray[Any]:
        components = self._rotation.components(values, self.spec.shape[0])
        sizes = np.clip(np.rint(components / np.float32(self._step)), self._low, self._high)
        return np.ascontiguousarray(np.asarray(sizes, np.int8).T)

    def state(self, codes: NDArray[Any]) -> NDArray[Any]:
        return self._rotation.differences(np.clip(codes.T, self._low, self._high), 64 * self._step)


class _Clusters(Reduced):
    """The nearest word of each group of channels."""

    def __init__(self, spec: TensorSpec, channels: Channels, order: NDArray[Any], words: NDArray[np.int32]) -> None:
        super().__init__(TensorSpec(spec.name, "uint8", (len(words), channels.positions)), channels)
        self._order = order
        self._words = words
        self._squares = (words.astype(np.float32) ** 2).sum(-1)

    def codes(self, values: NDArray[np.float32]) -> NDArray[Any]:
        groups, _, size = self._words.shape
        padded = np.zeros((len(values), groups * size), np.float32)
        padded[:, : self._order.size] = values[:, self._order]
        found = np.empty((groups, len(values)), np.uint8)
        for group, words in enumerate(self._words.astype(np.float32)):
            part = padded[:, group * size : (group + 1) * size]
            found[group] = (self._squares[group] - 2 * product(part, words.T)).argmin(1)
        return found

    def state(self, codes: NDArray[Any]) -> NDArray[Any]:
        groups, _, size = self._words.shape
        chosen = self._words[np.arange(groups)[:, None], codes]
        ordered = chosen.transpose(1, 0, 2).reshape(-1, groups * size)[:, : self._order.size]
        state = np.empty_like(ordered)
        state[:, self._order] = ordered
        return np.asarray(state)


def pca(components: int, bits: int) -> _Reduce:
    """What remains is the first components (all where there are fewer), each of so many bits, 2 to 8."""

    def reduce(tensors: Sequence[TensorSpec], calibration: Calibration | None) -> list[Reduced]:
        made: list[Reduced] = []
        for spec, part in zip(tensors, calibrated_of("pca", "pca", tensors, calibration), strict=True):
            assert part.pca is not None
            channels = Channels(spec, part.axis, part.pca.unit_bits, part.pca.mean)
            rotation = Rotation(part.pca.basis, part.pca.multipliers, part.pca.shift)
            made.append(_Pca(spec, channels, rotation, components, bits))
        return made

    return reduce


def clusters(size: int) -> _Reduce:
    """What remains is an index for each group of so many channels, one of SIZES."""

    def reduce(tensors: Sequence[TensorSpec], calibration: Calibration | None) -> list[Reduced]:
        made: list[Reduced] = []
        for spec, part in zip(tensors, calibrated_of("clusters", "clusters", tensors, calibration), strict=True):
            assert part.clusters is not None
            channels = Channels(spec, part.axis, part.clusters.unit_bits, part.clusters.mean)
            book = part.clusters.books[SIZES.index(size)]
            words = book.words.astype(np.int32) << book.shift[:, None, None]
            made.append(_Clusters(spec, channels, part.clusters.order, words))
        return made

    return reduce


class ReducedEncoder(Encoder):
    """Encodes pca and clusters."""

    def __init__(
        self, tensors: Sequence[TensorSpec], reduce: _Reduce, calibration: Calibration | None, max_payload: int
    ) -> None:
        """Prepare for frames of ``tensors`` and payloads of at most ``max_payload`` bytes.

        BadArgument when an argument is missing or out of range, CodecError when the tensors cannot be coded so.
        """
        self._tensors = tuple(tensors)
        self._reduced = reduce(tensors, calibration)
        self._encoder = ScalarEncoder([one.spec for one in self._reduced], None, "zstd", None, max_payload)

    def encode(self, frame_id: int, tensors: Sequence[NDArray[Any]]) -> EncodedFrame:
        """See Encoder.encode()."""
        check_tensors(self._tensors, tensors)
        codes = [one.codes(one.channels.elements(tensor)) for one, tensor in zip(self._reduced, tensors, strict=True)]
        return self._encoder.encode(frame_id, codes)


class ReducedDecoder(Decoder):
    """Decodes pca and clusters."""

    def __init__(self, tensors: Sequence[TensorSpec], reduce: _Reduce, calibration: Calibration | None) -> None:
        """Prepare for frames of ``tensors``; arguments and errors are those of ReducedEncoder."""
        self._reduced = reduce(tensors, calibration)
        self._decoder = ScalarDecoder([one.spec for one in self._reduced], None, "zstd", None)

    def decode(
        self,
        frame_id: int,
        slices: Sequence[bytes | memoryview | None],
        intra: bool = True,
        reference: int | None = None,
    ) -> DecodedFrame:
        """See Decoder.decode()."""
        found = self._decoder.decode(frame_id, slices, intra, reference)
        tensors = [
            one.channels.tensor(one.state(codes)) for one, codes in zip(self._reduced, found.tensors, strict=True)
        ]
        return DecodedFrame(tensors, found.concealed, found.damaged_slices)
