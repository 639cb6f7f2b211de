"""Components as tiles of a gray picture, and back: what the profile avc codes (docs/protocol.md, section 4.10)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import TensorCalibration
from models.codecs.channels import Channels, Rotation
from models.codecs.h264 import MACROBLOCK
from models.codecs.klt_tables import LEVEL_STEPS
from models.tensor import TensorSpec
from splitrtc_errors import CodecError

__all__ = ["Tiles"]

MAX_SIDE = 4096
"""Pixels of a picture's edge."""

_MIDDLE = 128
_GRID = 4
"""Tiles begin at multiples of it: the smallest transform of H.264 then sees one component."""


class Tiles:
    """How the components of one tensor lie in a picture, and between pixels and elements."""

    def __init__(self, spec: TensorSpec, part: TensorCalibration, components: int) -> None:
        """Take the tensor, its calibration with klt tables, and how many components to send at most.

        CodecError when they do not fit each other, or the picture would be too large.
        """
        assert part.klt is not None
        tables, transform = part.klt, part.klt.transforms[1]
        self.channels = Channels(spec, part.axis, tables.unit_bits, tables.mean)
        self._rotation = Rotation(transform.basis[0], transform.multipliers[0], transform.shift)
        self._count = min(components, self.channels.channels)
        # Some six times the spread of the widest component fit into 8 bits on either side.
        octaves = -(-int(transform.levels[0, 0].max()) // LEVEL_STEPS)
        self._step = 2 ** min(max(1 + octaves, 0), 12)
        rows, columns = self.channels.height, self.channels.width
        pitch = (-(-rows // _GRID) * _GRID, -(-columns // _GRID) * _GRID)
        across = next(
            n for n in range(1, self._count + 1) if n * pitch[1] >= -(-self._count // n) * pitch[0] or n == self._count
        )
        down = -(-self._count // across)
        self.height, self.width = (
            -(-number * size // MACROBLOCK) * MACROBLOCK for number, size in ((down, pitch[0]), (across, pitch[1]))
        )
        if max(self.height, self.width) > MAX_SIDE:
            raise CodecError(f"tensor {spec} makes a picture of {self.width}x{self.height}, more than {MAX_SIDE}")
        self._grid = (down, pitch[0], across, pitch[1])

    def check_invertible(self) -> None:
        """CodecError when the tables are of no use to an encoder."""
        _ = self._rotation.forward

    def picture(self, tensor: NDArray[Any]) -> NDArray[np.uint8]:
        """Return a tensor's components as a picture, uint8 (height, width). CodecError for NaN."""
        components = self._rotation.components(self.channels.elements(tensor), self._count)
        pixels = np.clip(np.rint(components * np.float32(64 / self._step)) + _MIDDLE, 0, 255).astype(np.uint8)
        down, tall, across, wide = self._grid
        rows, columns = self.channels.height, self.channels.width
        tiles = np.full((down * across, tall, wide), _MIDDLE, np.uint8)
        of_component = pixels.T.reshape(self._count, rows, columns)
        # What is beyond a tile's edge goes on as the edge is: it costs least.
        tiles[: self._count] = np.pad(of_component, ((0, 0), (0, tall - rows), (0, wide - columns)), "edge")
        picture = np.full((self.height, self.width), _MIDDLE, np.uint8)
        picture[: down * tall, : across * wide] = (
            tiles.reshape(down, across, tall, wide).transpose(0, 2, 1, 3).reshape(down * tall, across * wide)
        )
        return picture

    def blank(self) -> NDArray[np.uint8]:
        """Return the picture as long as nothing is known: every element at its channel's mean."""
        return np.full((self.height, self.width), _MIDDLE, np.uint8)

    def tensor(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the tensor, read-only, that a picture stands for."""
        down, tall, across, wide = self._grid
        tiles = picture[: down * tall, : across * wide].reshape(down, tall, across, wide).transpose(0, 2, 1, 3)
        rows, columns = self.channels.height, self.channels.width
        pixels = tiles.reshape(-1, tall, wide)[: self._count, :rows, :columns].reshape(self._count, -1).T
        return self.channels.tensor(self._rotation.differences(pixels.astype(np.int32) - _MIDDLE, self._step))
