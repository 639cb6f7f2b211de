"""Decoders of the range, pca and clusters profiles in plain Python, from docs/protocol.md 4.7 to 4.9 and nothing else.

Each returns the elements of a frame that arrived whole, in C order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import zstandard

from tests.models.klt_by_the_page import Coder, clamp, unpack


def f32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def runs(slices: Sequence[bytes], tensor: int) -> Iterator[tuple[int, int, bytes]]:
    for payload in slices:
        number, first, count = struct.unpack_from(">BIH", payload)
        if number == tensor:
            yield first, count, payload[7:]


def range_coded(bits: int, shape: Sequence[int], number: int, item: dict[str, Any], slices: Sequence[bytes]) -> Any:
    """4.7."""
    highest = 2**bits - 1
    channel_table = unpack(item["range"]["table"], "B")
    tables = []
    for text in item["range"]["weights"]:
        weights = [0] * (highest + 1)
        for code, weight in enumerate(unpack(text, "H")):
            weights[(2 * code * highest + 255) // 510] += weight
        tables.append(weights)
    inner, channels = prod(shape[item["axis"] + 1 :]), shape[item["axis"]]
    codes = [0] * prod(shape)
    for first, count, body in runs(slices, number):
        coder = Coder(body)
        of = {e: channel_table[e // inner % channels] for e in range(first, first + count)}
        for table, weights in enumerate(tables):
            for e in range(first, first + count):
                if of[e] == table:
                    codes[e] = coder.symbol(weights)
    values = []
    for e, code in enumerate(codes):
        low, high = (f32(item[name][e // inner % channels]) for name in ("low", "high"))
        values.append(f32(low + f32(code * f32(f32(high - low) / highest))))
    return values


def _bytes(slices: Sequence[bytes], number: int) -> bytes:
    whole = b""
    for first, count, body in runs(slices, number):
        assert first == len(whole)
        whole += zstandard.ZstdDecompressor().decompress(body, max_output_size=count)
    return whole


def _elements(shape: Sequence[int], axis: int, table: dict[str, Any], state: dict[tuple[int, int], int]) -> list[float]:
    """From states by position and channel."""
    inner, channels, mean = prod(shape[axis + 1 :]), shape[axis], unpack(table["mean"], "h")
    found = []
    for e in range(prod(shape)):
        channel, position = e // inner % channels, e // (inner * channels) * inner + e % inner
        found.append((clamp(state[position, channel], 32767) + mean[channel]) * 2.0 ** -table["unit"])
    return found


def rotated(table: dict[str, Any], sizes: Sequence[int], step: int, channels: int) -> list[int]:
    """What the components of one position stand for."""
    basis, multipliers, shift = unpack(table["basis"], "b"), unpack(table["multipliers"], "H"), table["shift"]
    found = []
    for channel in range(channels):
        total = sum(
            clamp(size * step, 2**22) * multipliers[k] * basis[k * channels + channel] for k, size in enumerate(sizes)
        )
        found.append(clamp((total + 2 ** (shift - 1)) >> shift, 2**22) + 8 >> 4)
    return found


def pca(k: int, bits: int, shape: Sequence[int], number: int, item: dict[str, Any], slices: Sequence[bytes]) -> Any:
    """4.8."""
    channels = shape[item["axis"]]
    positions = prod(shape) // channels
    codes = struct.unpack(f"{min(k, channels) * positions}b", _bytes(slices, number))
    state = {}
    for position in range(positions):
        sizes = [min(max(size, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1) for size in codes[position::positions]]
        for channel, value in enumerate(rotated(item["pca"], sizes, 2 ** (14 - bits), channels)):
            state[position, channel] = value
    return _elements(shape, item["axis"], item["pca"], state)


def clusters(size: int, shape: Sequence[int], number: int, item: dict[str, Any], slices: Sequence[bytes]) -> Any:
    """4.9."""
    table = item["clusters"]
    channels = shape[item["axis"]]
    positions, order = prod(shape) // channels, unpack(table["order"], "H")
    book = table["books"][(2, 4, 8).index(size)]
    words, shift = unpack(book["words"], "b"), unpack(book["shift"], "B")
    indices = _bytes(slices, number)
    state = {}
    for place, channel in enumerate(order):
        group, member = divmod(place, size)
        for position in range(positions):
            index = indices[group * positions + position]
            state[position, channel] = words[(group * 256 + index) * size + member] << shift[group]
    return _elements(shape, item["axis"], table, state)


def avc(k: int, shape: Sequence[int], item: dict[str, Any], picture: Sequence[bytes]) -> Any:
    """4.10, from a picture's rows on."""
    table, axis = item["klt"], item["axis"]
    channels, after = shape[axis], shape[axis + 1 :]
    count = min(k, channels)
    height, width = prod(shape[:axis]) * prod(after[:-1]), after[-1] if after else 1
    tall, wide = -(-height // 4) * 4, -(-width // 4) * 4
    across = 1
    while across < count and across * wide < -(-count // across) * tall:
        across += 1
    second = table["transforms"][1]
    step = 2 ** min(max(1 - (-max(unpack(second["levels"], "b")[:channels]) // 3), 0), 12)
    state = {}
    for position in range(height * width):
        y, x = divmod(position, width)
        sizes = [picture[n // across * tall + y][n % across * wide + x] - 128 for n in range(count)]
        for channel, value in enumerate(rotated(second, sizes, step, channels)):
            state[position, channel] = value
    return _elements(shape, axis, table, state)
