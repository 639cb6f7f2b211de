"""What every codec of intermediate data is to the rest of the program.

A pipeline holds one encoder and one decoder per parameter set and direction, hands whole frames to them and knows
nothing of what is inside: numbers, transforms, prediction from earlier frames, a video codec. All a codec may see
is here: tensors in, slices out, which slices arrived.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from splitrtc_errors import TensorError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.tensor import TensorSpec

__all__ = ["DecodedFrame", "Decoder", "EncodedFrame", "Encoder", "Profile", "check_tensors"]


def check_tensors(specs: Sequence[TensorSpec], tensors: Sequence[np.ndarray[Any, Any]]) -> None:
    """TensorError unless the tensors are those that the parameter set describes."""
    if len(tensors) != len(specs):
        raise TensorError(f"{len(specs)} tensors expected, {len(tensors)} came")
    for spec, tensor in zip(specs, tensors, strict=True):
        if tensor.shape != spec.shape or tensor.dtype != spec.dtype:
            raise TensorError(f"expected {spec}, {tensor.dtype}{list(tensor.shape)} came")


@dataclass(frozen=True, slots=True)
class Profile:
    """A way of coding intermediate data: a codec's name and its parameters (docs/protocol.md, section 4)."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parameters = ",".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.name}:{parameters}" if parameters else self.name


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One coded frame: the payloads of its units, in order.

    ``intra`` frames need no other frame. ``reference`` is the id of the frame that this one was predicted from, None
    when it is intra or when the codec's own order fixes it.
    """

    slices: list[bytes]
    intra: bool = True
    reference: int | None = None


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """One decoded frame.

    ``tensors`` are in the order, shapes and element types of the parameter set, and read-only, because the decoder
    conceals later losses with them. ``concealed`` is the share of elements (0 to 1) that had to be filled in.
    ``damaged_slices`` counts slices that were there but malformed; they are concealed like lost ones.
    """

    tensors: list[NDArray[Any]]
    concealed: float
    damaged_slices: int


class Encoder(ABC):
    """Codes the frames of one parameter set. Keeps state: one thread at a time, frames in the order of their ids."""

    @abstractmethod
    def encode(self, frame_id: int, tensors: Sequence[np.ndarray[Any, Any]]) -> EncodedFrame:
        """Code one frame.

        Args:
            frame_id: increases with every call.
            tensors: in the order of the parameter set, with its shapes and element types.

        Raises:
            TensorError: a tensor's shape or element type is not that of the parameter set, or their number is wrong.
            CodecError: a value cannot be coded, or the frame would need more slices than a frame may have.
        """

    def acknowledged(self, frame_id: int, received: Sequence[bool]) -> None:  # noqa: B027 (most codecs need none of it)
        """Take note of what the receiver's decoder got of ``frame_id``.

        Codecs that predict from earlier frames need it. It may come late, out of order, twice, or never.

        Args:
            frame_id: of any frame.
            received: which of its slices it was decoded with; none of them when it was not, and never will be:
                dropped on the way, lost, or passed over by the receiver.
        """


class Decoder(ABC):
    """Decodes the frames of one parameter set. Keeps state: one thread at a time, frames in the order of their ids."""

    needs_every_frame: ClassVar[bool] = False
    """Whether later frames are predicted from earlier ones, so that all that arrive are better decoded, in order."""

    @abstractmethod
    def decode(
        self,
        frame_id: int,
        slices: Sequence[bytes | memoryview | None],
        intra: bool = True,
        reference: int | None = None,
    ) -> DecodedFrame:
        """Decode one frame, whatever arrived of it. Never raises because of what ``slices`` contain.

        Args:
            frame_id: increases with every call, with gaps where frames were lost whole.
            slices: payloads by slice index; None where one was lost.
            intra: as the sender said of the frame.
            reference: as the sender said of the frame.
        """
