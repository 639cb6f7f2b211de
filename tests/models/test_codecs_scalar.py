from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from models.calibration import Calibration, TensorCalibration
from models.codecs import DecodedFrame, Decoder, Encoder, make_decoder, make_encoder, parse_profile, profile_ids, snappy
from models.codecs.quantise import Quantiser
from models.codecs.slices import MAX_SLICES
from models.codecs.zstd import Compressor
from models.tensor import ITEM_SIZES, TensorSpec
from splitrtc_errors import BadArgument, CodecError, TensorError
from tests.models.reduced_tables import range_tables

RAW = tuple(profile for profile in profile_ids() if profile.startswith("raw"))
QUANTISED = tuple(profile for profile in profile_ids() if profile.startswith("q"))
FLOATS = ("float16", "float32", "float64")
FLOAT32_MAX = float(np.finfo(np.float32).max)


def calibration(*tensors: TensorCalibration) -> Calibration:
    return Calibration("sha-256:" + "0" * 64, "0" * 32, tensors, "numbers", "sha-256:" + "1" * 64)


def ranges(
    name: str, low: Sequence[float], high: Sequence[float], mean: Sequence[float], axis: int = 0
) -> TensorCalibration:
    ends = (np.array(values, np.float32) for values in (low, high, mean))
    return TensorCalibration(name, axis, *ends, range=range_tables(len(low)))


def codec(
    profile: str, tensors: Sequence[TensorSpec], calibrated: Calibration | None = None, max_payload: int = 1140
) -> tuple[Encoder, Decoder]:
    parsed = parse_profile(profile)
    return make_encoder(parsed, tensors, calibrated, max_payload), make_decoder(parsed, tensors, calibrated)


def piece(first: int, elements: int, body: bytes, tensor: int = 0) -> bytes:
    return struct.pack(">BIH", tensor, first, elements) + body


@st.composite
def tensor_specs(draw: st.DrawFn, dtypes: Sequence[str]) -> list[TensorSpec]:
    """One to three tensors of rank 1 to 5, some of them larger than a small slice."""
    shapes = st.one_of(
        hnp.array_shapes(min_dims=1, max_dims=5, max_side=4), st.tuples(st.integers(1, 3), st.integers(50, 150))
    )
    return [
        TensorSpec(name, draw(st.sampled_from(dtypes)), draw(shapes))
        for name in ("a", "b", "c")[: draw(st.integers(1, 3))]
    ]


@st.composite
def calibrations(draw: st.DrawFn, specs: Sequence[TensorSpec]) -> Calibration:
    """Any ranges that the tensors' types and float32 can hold, some of them empty."""
    tensors = []
    for spec in specs:
        axis = draw(st.integers(0, len(spec.shape) - 1))
        limit = 60000.0 if spec.dtype == "float16" else float(np.float32(FLOAT32_MAX / 3))
        numbers = hnp.arrays(np.float32, spec.shape[axis], elements=st.floats(-limit, limit, width=32))
        low, mean, high = np.sort(np.stack([draw(numbers), draw(numbers), draw(numbers)]), axis=0)
        if draw(st.booleans()):
            high = mean = low.copy()
        ends = (low.copy(), high.copy(), mean.copy())
        tensors.append(TensorCalibration(spec.name, axis, *ends, range=range_tables(len(low))))
    return calibration(*tensors)


def values_of(spec: TensorSpec) -> st.SearchStrategy[NDArray[Any]]:
    """Anything but NaN, infinity included."""
    elements = hnp.from_dtype(np.dtype(spec.dtype), allow_nan=False)
    return hnp.arrays(spec.dtype, spec.shape, elements=elements)


def quantised(spec: TensorSpec, value: NDArray[Any], bits: int, part: TensorCalibration) -> NDArray[Any]:
    """What is left of a tensor by the arithmetic alone, which test_codecs_quantise.py checks."""
    quantiser = Quantiser(bits, spec.shape, part.axis, part.low, part.high)
    with np.errstate(over="ignore"):
        values = value.astype(np.float32)
    return quantiser.values(quantiser.codes(values)).astype(spec.dtype).reshape(spec.shape)


def check_losses(
    specs: Sequence[TensorSpec],
    frames: Sequence[Sequence[bytes]],
    expected: Sequence[Sequence[NDArray[Any]]],
    unknown: Sequence[NDArray[Any]],
    decoder: Decoder,
    data: st.DataObject,
) -> None:
    """Decode frames with any subset of their slices; what is missing must be as it was in the frame before."""
    shown = [values.copy() for values in unknown]
    total = sum(spec.elements for spec in specs)
    for number, (slices, tensors) in enumerate(zip(frames, expected, strict=True), 1):
        kept = data.draw(st.lists(st.booleans(), min_size=len(slices), max_size=len(slices)))
        received = 0
        for payload, keep in zip(slices, kept, strict=True):
            if keep:
                tensor, first, elements = struct.unpack_from(">BIH", payload)
                shown[tensor].reshape(-1)[first : first + elements] = tensors[tensor].reshape(-1)[
                    first : first + elements
                ]
                received += elements
        decoded = decoder.decode(
            number, [payload if keep else None for payload, keep in zip(slices, kept, strict=True)]
        )
        for found, value in zip(decoded.tensors, shown, strict=True):
            np.testing.assert_array_equal(found, value, strict=True)
        assert decoded.concealed == pytest.approx(1 - received / total)
        assert decoded.damaged_slices == 0


@given(st.sampled_from(RAW), st.data())
def test_raw_profiles_keep_every_element_of_every_slice_that_arrives(profile: str, data: st.DataObject) -> None:
    specs = data.draw(tensor_specs(tuple(ITEM_SIZES)))
    encoder, decoder = codec(profile, specs, max_payload=data.draw(st.integers(64, 300)))
    frames = [[data.draw(values_of(spec)) for spec in specs] for _ in range(2)]
    coded = [encoder.encode(number, tensors).slices for number, tensors in enumerate(frames)]
    unknown = [np.zeros(spec.shape, spec.dtype) for spec in specs]
    check_losses(specs, coded, frames, unknown, decoder, data)


@given(st.sampled_from(QUANTISED), st.data())
def test_quantised_profiles_decode_to_finite_values_whatever_is_lost(profile: str, data: st.DataObject) -> None:
    specs = data.draw(tensor_specs(FLOATS))
    calibrated = data.draw(calibrations(specs))
    limit = data.draw(st.integers(64, 300))
    encoder, decoder = codec(profile, specs, calibrated, limit)
    frames = [[data.draw(values_of(spec)) for spec in specs] for _ in range(2)]
    coded = [encoder.encode(number, tensors).slices for number, tensors in enumerate(frames)]
    assert all(len(payload) <= limit for slices in coded for payload in slices)
    bits = int(profile[1:].partition("-")[0])
    expected = [
        [quantised(spec, value, bits, calibrated.of(spec.name)) for spec, value in zip(specs, tensors, strict=True)]
        for tensors in frames
    ]
    assert all(np.isfinite(value).all() for tensors in expected for value in tensors)
    unknown = []
    for spec in specs:
        part = calibrated.of(spec.name)
        shape = [1] * len(spec.shape)
        shape[part.axis] = -1
        unknown.append(np.broadcast_to(part.mean.reshape(shape), spec.shape).astype(spec.dtype))
    check_losses(specs, coded, expected, unknown, decoder, data)


def test_tensors_need_not_be_contiguous() -> None:
    specs = [TensorSpec("a", "float32", (3, 4))]
    value = np.arange(12, dtype=np.float32).reshape(4, 3).T
    assert not value.flags.c_contiguous
    encoder, decoder = codec("raw", specs)
    np.testing.assert_array_equal(decoder.decode(1, encoder.encode(1, [value]).slices).tensors[0], value)
    encoder, decoder = codec("q4", specs, calibration(ranges("a", [0] * 4, [15] * 4, [7] * 4, axis=1)))
    np.testing.assert_array_equal(decoder.decode(1, encoder.encode(1, [value]).slices).tensors[0], value)


def test_decoded_tensors_cannot_be_changed_behind_the_decoders_back() -> None:
    encoder, decoder = codec("raw", [TensorSpec("a", "uint8", (4,))])
    decoded = decoder.decode(1, encoder.encode(1, [np.arange(4, dtype=np.uint8)]).slices)
    with pytest.raises(ValueError, match="read-only"):
        decoded.tensors[0][0] = 9


def test_a_later_frame_leaves_an_earlier_one_alone() -> None:
    encoder, decoder = codec("raw", [TensorSpec("a", "uint8", (4,))])
    first = decoder.decode(1, encoder.encode(1, [np.arange(4, dtype=np.uint8)]).slices)
    decoder.decode(2, encoder.encode(2, [np.zeros(4, np.uint8)]).slices)
    assert first.tensors[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("profile", [*RAW, *QUANTISED])
def test_not_a_number_is_refused_and_named(profile: str) -> None:
    encoder, _ = codec(profile, [TensorSpec("a", "float32", (2,))], calibration(ranges("a", [0, 0], [1, 1], [0, 0])))
    with pytest.raises(CodecError, match="tensor a: NaN"):
        encoder.encode(1, [np.array([0, math.nan], np.float32)])


@pytest.mark.parametrize(
    "tensors",
    [
        [],
        [np.zeros(3, np.float32)] * 2,
        [np.zeros(4, np.float32)],
        [np.zeros((3, 1), np.float32)],
        [np.zeros(3, np.float64)],
        [np.zeros(3, ">f4")],
    ],
)
def test_tensors_that_are_not_those_of_the_parameter_set_are_refused(tensors: list[NDArray[Any]]) -> None:
    encoder, _ = codec("raw", [TensorSpec("a", "float32", (3,))])
    with pytest.raises(TensorError, match="expected"):
        encoder.encode(1, tensors)


def test_a_frame_of_too_many_slices_is_refused() -> None:
    for elements in (57 * MAX_SLICES, 57 * MAX_SLICES + 1):
        encoder, _ = codec("raw", [TensorSpec("a", "uint8", (elements,))], max_payload=64)
        value = np.zeros(elements, np.uint8)
        if elements <= 57 * MAX_SLICES:
            assert len(encoder.encode(1, [value]).slices) == MAX_SLICES
        else:
            with pytest.raises(CodecError, match="frame 1 needs more than 4096 slices"):
                encoder.encode(1, [value])


def test_payloads_that_are_too_small_are_refused() -> None:
    with pytest.raises(BadArgument, match="at least 64 bytes, not 63"):
        make_encoder(parse_profile("raw"), [TensorSpec("a", "uint8", (1,))], None, 63)


@pytest.mark.parametrize("count", [0, 65])
def test_the_number_of_tensors_is_limited(count: int) -> None:
    with pytest.raises(CodecError, match=f"1 to 64 tensors, not {count}"):
        make_decoder(parse_profile("raw"), [TensorSpec(f"t{i}", "uint8", (1,)) for i in range(count)], None)


def test_quantising_needs_a_calibration_of_every_tensor() -> None:
    specs = [TensorSpec("a", "float32", (1,))]
    with pytest.raises(BadArgument, match="calibration"):
        make_decoder(parse_profile("q8"), specs, None)
    with pytest.raises(CodecError, match="no tensor 'a'"):
        make_decoder(parse_profile("q8"), specs, calibration(ranges("b", [0], [1], [0])))


def test_quantising_needs_floating_point() -> None:
    with pytest.raises(CodecError, match=r"a int32\[1\] is not of floating point"):
        codec("q8", [TensorSpec("a", "int32", (1,))], calibration(ranges("a", [0], [1], [0])))


@pytest.mark.parametrize(("low", "high"), [(0.0, 65536.0), (-65536.0, 0.0)])
def test_ranges_beyond_float16_are_refused_for_it(low: float, high: float) -> None:
    part = calibration(ranges("a", [low], [high], [0]))
    with pytest.raises(CodecError, match="exceeds what float16 can hold"):
        codec("q8", [TensorSpec("a", "float16", (1,))], part)
    codec("q8", [TensorSpec("a", "float32", (1,))], part)


# Hostile slices. The tensors are 6 elements that count up, then 2.

SPECS = [TensorSpec("a", "uint8", (6,)), TensorSpec("b", "uint8", (2,))]
WHOLE = [piece(0, 6, bytes(range(1, 7))), piece(0, 2, b"\7\10", tensor=1)]


def decode_raw(*slices: bytes | None) -> DecodedFrame:
    return make_decoder(parse_profile("raw"), SPECS, None).decode(1, slices)


def elements(decoded: DecodedFrame) -> list[int]:
    return [value for tensor in decoded.tensors for value in tensor.tolist()]


def test_whole_slices() -> None:
    decoded = decode_raw(*WHOLE)
    assert elements(decoded) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (decoded.concealed, decoded.damaged_slices) == (0, 0)


@pytest.mark.parametrize(
    ("slices", "expected", "damaged"),
    [
        pytest.param([], [0, 0, 0, 0, 0, 0, 0, 0], 0, id="no slices"),
        pytest.param([None, WHOLE[1]], [0, 0, 0, 0, 0, 0, 7, 8], 0, id="lost"),
        pytest.param([b"", WHOLE[1]], [0, 0, 0, 0, 0, 0, 7, 8], 1, id="empty"),
        pytest.param([WHOLE[0][:-1], WHOLE[1]], [0, 0, 0, 0, 0, 0, 7, 8], 1, id="body too short"),
        pytest.param([WHOLE[0] + b"x", WHOLE[1]], [0, 0, 0, 0, 0, 0, 7, 8], 1, id="body too long"),
        pytest.param([piece(0, 7, bytes(7)), WHOLE[1]], [0, 0, 0, 0, 0, 0, 7, 8], 1, id="beyond the end"),
        pytest.param([piece(0, 2, b"\1\2"), piece(4, 2, b"\5\6")], [1, 2, 0, 0, 5, 6, 0, 0], 0, id="gap"),
        pytest.param([WHOLE[0], WHOLE[0], WHOLE[1]], [1, 2, 3, 4, 5, 6, 7, 8], 1, id="twice"),
        pytest.param([piece(0, 3, b"\1\2\3"), piece(2, 2, b"xx")], [1, 2, 3, 0, 0, 0, 0, 0], 1, id="overlap"),
        pytest.param([piece(0, 6, b"x"), *WHOLE], [0, 0, 0, 0, 0, 0, 7, 8], 2, id="again after a damaged one"),
        pytest.param([piece(3, 1, b"\4"), piece(0, 3, b"xxx")], [0, 0, 0, 4, 0, 0, 0, 0], 1, id="backwards"),
        pytest.param([WHOLE[1], WHOLE[0]], [0, 0, 0, 0, 0, 0, 7, 8], 1, id="tensors backwards"),
        pytest.param([piece(0, 1, b"", tensor=2)] * 9, [0] * 8, 9, id="no such tensor"),
    ],
)
def test_what_does_not_fit_is_concealed(slices: list[bytes | None], expected: list[int], damaged: int) -> None:
    decoded = decode_raw(*slices)
    assert elements(decoded) == expected
    assert decoded.concealed == expected.count(0) / 8
    assert decoded.damaged_slices == damaged


@pytest.mark.parametrize(("intra", "reference"), [(False, None), (False, 1), (True, 1)])
def test_these_profiles_refer_to_no_other_frame(intra: bool, reference: int | None) -> None:
    decoder = make_decoder(parse_profile("raw"), SPECS, None)
    decoder.decode(1, WHOLE)
    decoded = decoder.decode(2, [piece(0, 6, bytes(6)), None], intra, reference)
    assert elements(decoded) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (decoded.concealed, decoded.damaged_slices) == (1, 1)


@pytest.mark.parametrize(
    ("profile", "dtype", "body"),
    [
        ("raw", "bool", b"\0\2"),
        ("raw", "float32", struct.pack("<2f", 1, math.nan)),
        ("raw", "float16", struct.pack("<2e", math.nan, 1)),
        ("raw-zstd", "uint8", b"ab"),
        ("raw-snappy", "uint8", b"ab"),
        ("q4", "float32", b"\x12\x34"),
        ("q3-zstd", "float32", Compressor().compress(b"\x07\x08")),
        ("q2-snappy", "float32", snappy.compress(b"\x04\x03")),
        ("q8-zstd", "float32", b"\x12\x34"),
    ],
)
def test_bodies_that_no_encoder_writes_are_concealed(profile: str, dtype: str, body: bytes) -> None:
    part = calibration(ranges("a", [1], [2], [1.5]))
    decoder = make_decoder(parse_profile(profile), [TensorSpec("a", dtype, (1, 2))], part)
    decoded = decoder.decode(1, [piece(0, 2, body)])
    assert decoded.tensors[0].tolist() == [[1.5, 1.5] if profile.startswith("q") else [0, 0]]
    assert (decoded.concealed, decoded.damaged_slices) == (1, 1)


def test_the_unused_half_of_a_last_byte_is_zero() -> None:
    part = calibration(ranges("a", [0] * 3, [15] * 3, [7] * 3))
    decoder = make_decoder(parse_profile("q4"), [TensorSpec("a", "float32", (3,))], part)
    assert decoder.decode(1, [piece(0, 3, b"\x12\x31")]).damaged_slices == 1
    assert decoder.decode(2, [piece(0, 3, b"\x12\x30")]).tensors[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("profile", RAW + QUANTISED)
def test_mutated_frames_never_raise_and_stay_within_range(profile: str) -> None:
    dice = random.Random(1)
    specs = [TensorSpec("a", "float32", (1, 3, 10, 7)), TensorSpec("b", "float16", (90,))]
    part = calibration(
        ranges("a", [-1, 0, 2], [1, 0, 9], [0, 0, 3], axis=1), ranges("b", [-4] * 90, [4] * 90, [1] * 90)
    )
    encoder, decoder = codec(profile, specs, part, max_payload=100)
    tensors = [np.array([dice.gauss(0, 3) for _ in range(spec.elements)], spec.dtype) for spec in specs]
    good = encoder.encode(0, [value.reshape(spec.shape) for value, spec in zip(tensors, specs, strict=True)]).slices
    damaged = 0
    for frame_id in range(1, 400):
        slices: list[bytes | memoryview | None] = []
        for payload in dice.choices(good, k=len(good)) if dice.random() < 0.2 else good:
            broken = bytearray(payload)
            for _ in range(dice.randint(0, 3)):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            slices.append(memoryview(broken)[: dice.choice((len(broken), dice.randint(0, len(broken))))])
        decoded = decoder.decode(frame_id, slices)
        damaged += decoded.damaged_slices
        assert 0 <= decoded.concealed <= 1
        for value, spec in zip(decoded.tensors, specs, strict=True):
            assert (value.shape, value.dtype) == (spec.shape, np.dtype(spec.dtype))
            assert not np.isnan(value).any()
        if profile.startswith("q"):
            assert all(abs(value).max() <= 9 for value in decoded.tensors)
    assert damaged > 100
