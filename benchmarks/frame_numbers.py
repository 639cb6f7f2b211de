"""Numbers drawn into pictures, a model that reads them, and a link that notes what goes over it.

With these the matching of results to frames is put to the test: a number that is found must be the one in its picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from models import Zoo
from models.identity import bytes_digest
from pipeline.outcome import FrameResult
from rtc import relay

__all__ = ["camera", "drawn", "is_rtp", "is_srtp", "number_found", "number_in", "watched_link", "write_reader"]

BITS = 12
BAR = 16
"""Width of a bar in the model's input: a macroblock, so that the video encoder does not mistake one for another."""
WIDTH, HEIGHT = BAR * BITS, 32
READER = """<ir_version: 8, opset_import: ["" : 17]>
reader (float[1,3,32,192] image) => (float[1,1,2] scores, float[1,1,1,4] boxes)
<float half = {127}, float[1,1,1,2] corner = {0, 0}, float[1,1,1,1] one = {1}, float[1,1,2] sure = {0, 1},
 int64[3] score_shape = {1,1,1}, float size = {4096},
 float[12,1] weights = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048}>
{
  colours = AveragePool <kernel_shape = [32,16], strides = [32,16]> (image)
  grey = ReduceMean <axes = [1], keepdims = 1> (colours)
  is_set = Greater (grey, half)
  bits = Cast <to = 1> (is_set)
  number = MatMul (bits, weights)
  above = Add (number, one)
  right = Div (above, size)
  boxes = Concat <axis = 3> (corner, one, right)
  plain = Reshape (number, score_shape)
  nothing = Sub (plain, plain)
  scores = Add (nothing, sure)
}"""
"""Reads a number from twelve black or white bars; the box that it finds is as wide as the number is large."""


def drawn(number: int) -> NDArray[np.uint8]:
    """A picture of a number, twice as large as the model's input."""
    bars = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    return np.ascontiguousarray(np.broadcast_to(np.repeat(bars, 2 * BAR)[None, :, None], (2 * HEIGHT, 2 * WIDTH, 3)))


def number_in(picture: NDArray[np.uint8]) -> int:
    """The number that was drawn."""
    bits = (picture[0, BAR :: 2 * BAR, 0] > 127).tolist()
    return sum(bit << place for place, bit in enumerate(bits))


def number_found(result: FrameResult) -> int:
    """The number that the model read."""
    assert result.detections is not None
    ((_, _, right, _),) = result.detections.xyxy
    return round(float(right) / (2 * WIDTH) * (1 << BITS)) - 1


async def camera(frames: int, fps: float = 80.0) -> AsyncIterator[NDArray[np.uint8]]:
    """Numbers that have nothing to do with how frames are counted."""
    for index in range(frames):
        yield drawn((index * 997 + 100) % 2**BITS)
        await asyncio.sleep(1 / fps)


def write_reader(folder: Path) -> None:
    """Make a folder of the model "reader", with its card."""
    from onnx.parser import parse_model

    data = parse_model(READER).SerializeToString()
    card = Zoo().get().to_json()
    card |= {
        "name": "reader",
        "file": "reader.onnx",
        "digest": bytes_digest(data),
        "size": len(data),
        "inputs": [{"name": "image", "type": "float32", "shape": [1, 3, HEIGHT, WIDTH]}],
        "outputs": [
            {"name": "scores", "type": "float32", "shape": [1, 1, 2]},
            {"name": "boxes", "type": "float32", "shape": [1, 1, 1, 4]},
        ],
        "preprocessing": {"resize": "stretch", "order": "RGB", "layout": "NCHW", "mean": [0, 0, 0], "scale": [1, 1, 1]},
        "decoding": {**card["decoding"], "scores": "scores", "boxes": "boxes"},
        "labels": ["nothing", "number"],
        "partitions": [{"name": "grey", "tensors": ["grey"], "default": True}],
    }
    folder.mkdir()
    (folder / "reader.onnx").write_bytes(data)
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")


@contextlib.contextmanager
def watched_link(lose: int = 0) -> Iterator[list[bytes]]:
    """What reaches emulated links meanwhile; the first RTP packets, so many, are lost on their way."""
    seen: list[bytes] = []
    left = lose
    receive = relay._Port.datagram_received

    def note(port: Any, data: bytes, addr: Any) -> None:
        nonlocal left
        seen.append(data)
        if left and is_rtp(data):
            left -= 1
        else:
            receive(port, data, addr)

    with mock.patch.object(relay._Port, "datagram_received", note):
        yield seen


def is_srtp(data: bytes) -> bool:
    """RTP or RTCP, by the first byte (RFC 7983)."""
    return 128 <= data[0] <= 191


def is_rtp(data: bytes) -> bool:
    """RTP, by the second byte, too (RFC 5761)."""
    return is_srtp(data) and not 192 <= data[1] <= 223
