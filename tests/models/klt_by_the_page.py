"""A decoder of the klt profiles in plain Python, written from docs/protocol.md section 4.6 and from nothing else."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

D = (-6, -4, -2, 0, 2, 4, 6, 8)
G = {
    1: ((1024,),),
    2: ((724, 724), (724, -724)),
    3: ((591, 591, 591), (724, 0, -724), (418, -836, 418)),
    4: ((512, 512, 512, 512), (669, 277, -277, -669), (512, -512, -512, 512), (277, -669, 669, -277)),
}
ALL = 2**64 - 1


class Malformed(Exception):
    """A slice that counts as lost."""


def unpack(text: str, code: str) -> list[int]:
    data = base64.b64decode(text, validate=True)
    return list(struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))


def clamp(value: int, limit: int) -> int:
    return max(-limit, min(limit, value))


def clamp0(value: int, limit: int) -> int:
    return max(0, min(limit, value))


class Coder:
    """The range coder."""

    def __init__(self, data: bytes) -> None:
        data += bytes(-len(data) % 4)
        self.words = [int.from_bytes(data[i : i + 4], "big") for i in range(0, len(data), 4)][::-1]
        self.lower, self.range = 0, ALL
        self.point = (self.word() << 32) + self.word()

    def word(self) -> int:
        return self.words.pop() if self.words else 0

    def symbol(self, weights: Sequence[int]) -> int:
        factor = 2**24 // sum(weights)
        scale = self.range >> 24
        q = (self.point - self.lower & ALL) // scale
        if q >= 2**24:
            raise Malformed
        before = 0
        for symbol, weight in enumerate(weights):
            if q < before + weight * factor:
                return self.narrow(symbol, scale, before, weight * factor)
            before += weight * factor
        raise AssertionError

    def equally(self, count: int) -> int:
        scale = self.range >> 24
        q = (self.point - self.lower & ALL) // scale
        if q >= 2**24:
            raise Malformed
        weight = 2**24 // count
        return self.narrow(q // weight, scale, q // weight * weight, weight)

    def narrow(self, symbol: int, scale: int, before: int, weight: int) -> int:
        self.lower = self.lower + scale * before & ALL
        self.range = scale * weight
        if self.range < 2**32:
            self.lower = self.lower << 32 & ALL
            self.range = self.range << 32 & ALL
            self.point = (self.point << 32) + self.word() & ALL
        return symbol


class Tensor:
    """A tensor's tables and blocks."""

    def __init__(self, shape: Sequence[int], axis: int, klt: dict[str, Any]) -> None:
        self.channels = shape[axis]
        outer = inner = 1
        for size in shape[:axis]:
            outer *= size
        for size in shape[axis + 1 : -1]:
            inner *= size
        width = shape[-1] if axis < len(shape) - 1 else 1
        self.outer, self.inner, self.height, self.width = outer, inner, outer * inner, width
        self.unit, self.mean = klt["unit"], unpack(klt["mean"], "h")
        self.kinds = [unpack(text, "H") for text in klt["kinds"]]
        self.offsets = [unpack(text, "H") for text in klt["offsets"]]
        self.transforms = [
            {
                "edge": t["edge"],
                "shift": t["shift"],
                "basis": unpack(t["basis"], "b"),
                "multipliers": unpack(t["multipliers"], "H"),
                "levels": unpack(t["levels"], "b"),
                "weights": unpack(t["weights"], "H"),
            }
            for t in klt["transforms"]
        ]
        # Of each block its height, width, and positions as (row, column).
        self.blocks = [
            [(y, x) for y in range(top, min(top + 4, self.height)) for x in range(left, min(left + 4, width))]
            for top in range(0, self.height, 4)
            for left in range(0, width, 4)
        ]

    def blank(self) -> dict[tuple[int, int, int], int]:
        return {(y, x, c): 0 for y in range(self.height) for x in range(self.width) for c in range(self.channels)}

    def elements(self, state: dict[tuple[int, int, int], int]) -> list[float]:
        """All elements in C order."""
        return [
            (state[o * self.inner + r, x, c] + self.mean[c]) * 2.0**-self.unit
            for o in range(self.outer)
            for c in range(self.channels)
            for r in range(self.inner)
            for x in range(self.width)
        ]


class Decoder:
    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.states: list[tuple[int, list[dict[tuple[int, int, int], int]]]] = []

    def decode(
        self, frame_id: int, slices: Sequence[bytes | None], intra: bool, reference: int | None
    ) -> list[list[float]]:
        blank = [tensor.blank() for tensor in self.tensors]
        latest = self.states[-1][1] if self.states else blank
        base = blank
        for decoded, state in self.states:
            if reference is not None and decoded <= reference:
                base = state
        new = [dict(state) for state in latest]
        free = (0, 0)
        for data in slices:
            if data is None or intra != (reference is None):
                continue
            try:
                number, transform, c, first, count, coded = self.header(data)
                if (number, first) < free:
                    continue
                free = (number, first + count)
                self.slice(new[number], base[number], number, transform, c, first, count, Coder(coded), intra)
            except Malformed:
                continue
        self.states = [*self.states, (frame_id, new)][-16:]
        return [tensor.elements(state) for tensor, state in zip(self.tensors, new, strict=True)]

    def header(self, data: bytes) -> tuple[int, int, int, int, int, bytes]:
        numbers, at = [], 2
        for _ in range(2):
            value = 0
            for place in range(3):
                if at >= len(data):
                    raise Malformed
                value |= (data[at] & 127) << 7 * place
                at += 1
                if data[at - 1] < 128:
                    break
            else:
                raise Malformed
            numbers.append(value)
        first, count = numbers
        number, transform = data[0] >> 1, data[0] & 1
        if number >= len(self.tensors) or not count or first + count > len(self.tensors[number].blocks):
            raise Malformed
        return number, transform, data[1], first, count, data[at:]

    def slice(
        self,
        new: dict[tuple[int, int, int], int],
        base: dict[tuple[int, int, int], int],
        number: int,
        transform: int,
        c: int,
        first: int,
        count: int,
        coder: Coder,
        intra: bool,
    ) -> None:
        tensor = self.tensors[number]
        t = tensor.transforms[transform]
        n = tensor.channels
        frequencies = t["edge"] ** 2
        kinds = [coder.symbol(tensor.kinds[0 if intra else 1]) for _ in range(count)]
        codes = [
            None
            if kind == 0 and not intra
            else clamp0(c + 8 * coder.symbol(tensor.offsets[0 if intra else 1]) - 16, 255)
            for kind in kinds
        ]
        steps = [0 if code is None else (16 + code % 16) << code // 16 for code in codes]
        queues: list[list[tuple[int, int, int]]] = [[] for _ in range(80)]
        modes = []
        for block, kind, step in zip(tensor.blocks[first : first + count], kinds, steps, strict=True):
            octaves = (step**3).bit_length() - 1 - 18
            mode, scale = (0, kind) if intra else (3, 0) if kind == 0 else divmod(kind - 1, 8)
            modes.append(mode)
            use = min(mode, 1)
            for y, x in block if mode < 3 else ():
                f = 0 if t["edge"] == 1 else 4 * (y % 4) + x % 4
                for k in range(n):
                    level = t["levels"][(use * frequencies + f) * n + k] + 18 - octaves + D[scale]
                    queues[40 * use + clamp0(level, 39)].append((y, x, k))
        values: dict[tuple[int, int, int], int] = {}
        escaped = []
        for table, queue in enumerate(queues):
            row = t["weights"][17 * table : 17 * table + 17]
            weights = row[:0:-1] + row
            for place in queue:
                values[place] = coder.symbol(weights) - 16
                if abs(values[place]) == 16:
                    escaped.append(place)
        digits = [coder.equally(32) for _ in escaped]
        if max(digits, default=0) > 20:
            raise Malformed
        for place, d in zip(escaped, digits, strict=True):
            e = coder.equally(2**d) if d else 0
            values[place] = (15 + 2**d + e) * (1 if values[place] > 0 else -1)
        for block, mode, step in zip(tensor.blocks[first : first + count], modes, steps, strict=True):
            difference = self.difference(tensor, t, block, values, step) if mode < 3 else {}
            for y, x in block:
                for channel in range(n):
                    place = (y, x, channel)
                    if mode == 3:
                        new[place] = base[place]
                    else:
                        gain = 0 if mode == 0 else (256, 154)[mode - 1]
                        new[place] = clamp((base[place] * gain + 128 >> 8) + difference[place], 32767)

    def difference(
        self,
        tensor: Tensor,
        t: dict[str, Any],
        block: list[tuple[int, int]],
        values: dict[tuple[int, int, int], int],
        step: int,
    ) -> dict[tuple[int, int, int], int]:
        n, s = tensor.channels, t["shift"]
        parts = {}
        for y, x in block:
            f = 0 if t["edge"] == 1 else 4 * (y % 4) + x % 4
            scaled = [clamp(values[y, x, k] * step, 2**22) * t["multipliers"][f * n + k] for k in range(n)]
            for channel in range(n):
                total = sum(scaled[k] * t["basis"][(f * n + k) * n + channel] for k in range(n) if scaled[k])
                parts[y, x, channel] = clamp(total + 2 ** (s - 1) >> s, 2**22)
        if t["edge"] == 1:
            return {place: part + 8 >> 4 for place, part in parts.items()}
        (top, left), (bottom, right) = block[0], block[-1]
        rows, columns = G[bottom - top + 1], G[right - left + 1]
        return {
            (y, x, channel): sum(
                rows[a - top][y - top] * columns[b - left][x - left] * parts[a, b, channel] for a, b in block
            )
            + 2**23
            >> 24
            for y, x in block
            for channel in range(n)
        }
