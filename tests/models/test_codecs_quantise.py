from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.codecs.quantise import Quantiser, pack_nibbles, steps, unpack_nibbles
from splitrtc_errors import CodecError

FLOAT32_MAX = float(np.finfo(np.float32).max)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
bits_of_codes = st.sampled_from([*range(2, 9), 16])


# docs/protocol.md, section 4.2, in Python's own arithmetic. A sum, difference, product or quotient of two float32
# numbers that is computed in float64 and then rounded to float32 is rounded as if once (2 * 24 + 2 <= 53).


def f32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def reference_step(low: float, high: float, bits: int) -> float:
    return f32(f32(high - low) / (2**bits - 1))


def reference_code(value: float, low: float, high: float, bits: int) -> int:
    step = reference_step(low, high, bits)
    if step == 0:
        return 0
    scaled = f32(f32(value - low) / step)
    levels = 2**bits - 1
    return round(min(max(scaled, 0.0), float(levels)))  # to even; the ends are whole, so clamping may come first


def reference_value(code: int, low: float, high: float, bits: int) -> float:
    return f32(low + f32(code * reference_step(low, high, bits)))


def array(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def codes_of(values: NDArray[np.float32], low: float, high: float, bits: int = 4) -> list[int]:
    codes: list[int] = Quantiser(bits, (1, *values.shape), 0, array(low), array(high)).codes(values[None]).tolist()
    return codes


@given(bits_of_codes, finite, finite, st.lists(st.floats(width=32, allow_nan=False)), st.data())
def test_agrees_with_the_reference_to_the_bit(
    bits: int, one: float, other: float, values: list[float], data: st.DataObject
) -> None:
    low, high = min(one, other), max(one, other)
    assume(math.isfinite(f32(high - low)) and math.isfinite(reference_value(2**bits - 1, low, high, bits)))
    # Most of those are clamped. And where two codes meet, every float32 around counts.
    values += data.draw(st.lists(st.floats(low, high, width=32), max_size=20))
    for code in range(0, 2**bits - 1, max(2**bits // 256, 1)):
        middle = np.float32(f32(low + f32((code + 0.5) * reference_step(low, high, bits))))
        values += [
            float(middle),
            float(np.nextafter(middle, array(low))[0]),
            float(np.nextafter(middle, array(high))[0]),
        ]
    quantiser = Quantiser(bits, (1, len(values)), 0, array(low), array(high))
    codes = quantiser.codes(array(*values)[None])
    assert codes.tolist() == [reference_code(value, low, high, bits) for value in values]
    expected = array(*(reference_value(code, low, high, bits) for code in codes.tolist()))
    assert quantiser.values(codes).tobytes() == expected.tobytes()
    assert quantiser.top.tobytes() == array(reference_value(2**bits - 1, low, high, bits)).tobytes()


@given(bits_of_codes, finite, finite)
def test_steps_are_refused_exactly_when_a_code_would_not_be_finite(bits: int, one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    if math.isfinite(reference_value(2**bits - 1, low, high, bits)):
        step = steps(array(low), array(high), bits)
        assert step.tobytes() == array(reference_step(low, high, bits)).tobytes()
    else:
        with pytest.raises(CodecError, match="too wide"):
            steps(array(low), array(high), bits)


def test_rounds_halves_to_even() -> None:
    assert codes_of(array(0.5, 1.5, 2.5, 3.5, 13.5, 14.5), 0, 15) == [0, 2, 2, 4, 14, 14]


def test_clamps_whatever_is_out_of_range() -> None:
    values = array(-1, -math.inf, -FLOAT32_MAX, 16, math.inf, FLOAT32_MAX)
    assert codes_of(values, 0, 15) == [0, 0, 0, 15, 15, 15]
    assert codes_of(values, -FLOAT32_MAX / 4, -FLOAT32_MAX / 8) == [15, 0, 0, 15, 15, 15]
    assert codes_of(values, 0, 255, bits=8) == [0, 0, 0, 16, 255, 255]


@pytest.mark.parametrize("high", [7.0, float(np.nextafter(np.float32(0), np.float32(1)))])
def test_a_channel_without_a_step_has_code_0_only(high: float) -> None:
    low = high if high == 7 else 0.0  # equal ends, and a difference that a division by 15 loses
    quantiser = Quantiser(4, (3,), 0, array(low, low, low), array(high, high, high))
    codes = quantiser.codes(array(low, math.inf, -math.inf))
    assert codes.tolist() == [0, 0, 0]
    assert quantiser.values(codes).tolist() == [low, low, low]


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_channels_lie_along_the_axis(axis: int) -> None:
    shape = (2, 3, 4, 5)
    values = np.arange(120, dtype=np.float32).reshape(shape) % 16
    low = np.zeros(shape[axis], np.float32)
    high = np.arange(shape[axis], dtype=np.float32) * 15  # steps of 0, 1, 2, ...
    quantiser = Quantiser(4, shape, axis, low, high)
    codes = quantiser.codes(values)
    inner = math.prod(shape[axis + 1 :])
    channels = [element // inner % shape[axis] for element in range(120)]
    assert codes.tolist() == [
        reference_code(value, 0, 15 * c, 4) for value, c in zip(values.ravel().tolist(), channels, strict=True)
    ]
    assert quantiser.values(codes).tolist() == [code * c for code, c in zip(codes.tolist(), channels, strict=True)]
    assert quantiser.spread(high).tolist() == [15.0 * c for c in channels]


def test_not_a_number_is_refused() -> None:
    with pytest.raises(CodecError, match="NaN"):
        codes_of(array(1, math.nan), 0, 15)
    with pytest.raises(CodecError, match="NaN"):
        codes_of(array(math.nan), 3, 3)


@pytest.mark.parametrize(
    ("low", "high", "reason"),
    [
        (1.0, 0.0, "low <= high"),
        (math.nan, 0.0, "finite"),
        (0.0, math.nan, "finite"),
        (-math.inf, 0.0, "finite"),
        (0.0, math.inf, "finite"),
        (-FLOAT32_MAX, FLOAT32_MAX, "too wide"),
        (-FLOAT32_MAX, FLOAT32_MAX / 1000, "too wide"),
    ],
)
def test_unusable_ranges_are_refused(low: float, high: float, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        steps(array(0, low), array(1, high), 4)


@pytest.mark.parametrize(("shape", "axis"), [((), 0), ((2,), 1), ((2,), -1), ((3, 2), 0), ((2, 3), 1)])
def test_ranges_that_do_not_fit_the_shape_are_refused(shape: tuple[int, ...], axis: int) -> None:
    with pytest.raises(CodecError, match="2 calibrated channels"):
        Quantiser(4, shape, axis, array(0, 0), array(1, 1))


def test_as_many_highs_as_lows() -> None:
    with pytest.raises(CodecError, match="do not fit"):
        Quantiser(4, (2,), 0, array(0, 0), array(1))


def test_nibbles_go_high_half_first() -> None:
    assert pack_nibbles(np.array([1, 2, 15, 0, 9], np.uint8)).tobytes() == b"\x12\xf0\x90"


@given(st.lists(st.integers(0, 15), min_size=1, max_size=50))
def test_nibbles_round_trip(codes: list[int]) -> None:
    packed = pack_nibbles(np.array(codes, np.uint8))
    assert packed.size == (len(codes) + 1) // 2
    out = np.full(len(codes), 99, np.uint8)
    unpack_nibbles(packed, out)
    assert out.tolist() == codes


def test_an_unused_half_that_is_not_zero_is_refused() -> None:
    with pytest.raises(CodecError, match="unused half"):
        unpack_nibbles(np.array([0x12, 0x31], np.uint8), np.zeros(3, np.uint8))
