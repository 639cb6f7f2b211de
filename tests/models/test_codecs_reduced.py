"""The range profiles, pca and clusters: what only they do. What all scalar ones do, test_codecs_scalar.py checks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from models.calibration import Calibration, TensorCalibration, calibration_bytes
from models.codecs import (
    Decoder,
    Encoder,
    calibration_for,
    is_calibrated,
    make_decoder,
    make_encoder,
    parse_profile,
    ranges,
)
from models.codecs.channels import Channels, Rotation
from models.codecs.clusters_tables import ClustersTables
from models.codecs.klt_tables import MAX_CHANNELS
from models.codecs.pca_tables import PcaTables
from models.codecs.range_tables import RangeTables
from models.codecs.slices import pack_slice
from models.codecs.zstd import Compressor
from models.identity import partition_id
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, CodecError, TensorError
from tests.models import reduced_by_the_page as page
from tests.models import reduced_tables
from tests.models.reduced_tables import calibration

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "reduced.json").read_text(encoding="utf-8"))
SPEC = TensorSpec("a", "float32", (1, 5, 6, 7))
REDUCED = ("pca", "pca:k=3,bits=8", "pca:bits=2", "clusters", "clusters:size=2", "clusters:size=8")
RANGE = tuple(f"q{bits}-range" for bits in range(2, 9))


def codec(profile: str, *specs: TensorSpec, payload: int = 300, axis: int = 1) -> tuple[Encoder, Decoder]:
    parsed, tables = parse_profile(profile), calibration(*specs, axis=axis)
    return make_encoder(parsed, specs, tables, payload), make_decoder(parsed, specs, tables)


def smooth(spec: TensorSpec = SPEC, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(0, 2, spec.shape).astype(spec.dtype)


# Round trips


@pytest.mark.parametrize(("profile", "error"), [("pca:bits=8", 0.4), ("clusters:size=2", 3), ("q8-range", 0.05)])
def test_frames_come_back_nearly(profile: str, error: float) -> None:
    encoder, decoder = codec(profile, SPEC)
    frame = smooth()
    encoded = encoder.encode(1, [frame])
    assert (encoded.intra, encoded.reference) == (True, None)
    decoded = decoder.decode(1, encoded.slices)
    assert np.abs(decoded.tensors[0] - frame).mean() < error
    assert (decoded.concealed, decoded.damaged_slices) == (0, 0)
    assert not decoded.tensors[0].flags.writeable


@st.composite
def frames(draw: st.DrawFn) -> tuple[list[TensorSpec], int, list[NDArray[Any]]]:
    """One or two tensors of any shape and any values but NaN, and the axis of the channels."""
    axis = draw(st.integers(0, 2))
    specs, values = [], []
    for name in ("a", "b")[: draw(st.integers(1, 2))]:
        shape = draw(hnp.array_shapes(min_dims=axis + 1, max_dims=4, max_side=9))
        spec = TensorSpec(name, draw(st.sampled_from(("float16", "float32", "float64"))), shape)
        anything = hnp.from_dtype(np.dtype(spec.dtype), allow_nan=False)
        specs.append(spec)
        values.append(
            draw(
                hnp.arrays(spec.dtype, spec.shape, elements=anything)
                | st.just(smooth(spec))
                | anything.map(partial(np.full, spec.shape, dtype=spec.dtype))
            )
        )
    return specs, axis, values


@settings(max_examples=100)
@given(frames(), st.sampled_from((*REDUCED, *RANGE)), st.sampled_from((64, 300)), st.data())
def test_any_frame_decodes_to_something_finite_whatever_is_lost(
    given_frames: tuple[list[TensorSpec], int, list[NDArray[Any]]], profile: str, payload: int, data: st.DataObject
) -> None:
    specs, axis, values = given_frames
    encoder, decoder = codec(profile, *specs, payload=payload, axis=axis)
    slices = encoder.encode(1, values).slices
    assert max(map(len, slices)) <= payload
    kept = data.draw(st.lists(st.booleans(), min_size=len(slices), max_size=len(slices)))
    lossy = decoder.decode(1, [one if keep else None for one, keep in zip(slices, kept, strict=True)])
    assert (lossy.damaged_slices, lossy.concealed > 0) == (0, not all(kept))
    whole = decoder.decode(2, slices)
    assert (whole.damaged_slices, whole.concealed) == (0, 0)
    for spec, *found in zip(specs, lossy.tensors, whole.tensors, strict=True):
        for tensor in found:
            assert (tensor.shape, tensor.dtype.name) == (spec.shape, spec.dtype)
            assert np.isfinite(tensor).all()
    # Lost once more, the frame is as it was: nothing is left of what was concealed before.
    again = decoder.decode(3, [None] * len(slices))
    for before, after in zip(whole.tensors, again.tensors, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("profile", REDUCED)
def test_what_is_not_known_is_at_its_mean(profile: str) -> None:
    tables = calibration(SPEC).tensors[0]
    expected = tables.pca if profile.startswith("pca") else tables.clusters
    assert expected is not None
    _, decoder = codec(profile, SPEC)
    decoded = decoder.decode(1, [None])
    means = np.ldexp(expected.mean.astype(np.float32), -expected.unit_bits).reshape(1, -1, 1, 1)
    np.testing.assert_array_equal(decoded.tensors[0], np.broadcast_to(means, SPEC.shape))
    assert decoded.concealed == 1


def test_the_range_coder_takes_fewer_bytes_than_the_codes_have() -> None:
    spec = TensorSpec("a", "float32", (1, 30, 20, 20))
    frame = np.random.default_rng(1).normal(0, 0.1, spec.shape).astype(np.float32)
    encoder, _ = codec("q8-range", spec, payload=1140)
    slices = encoder.encode(1, [frame]).slices
    assert sum(map(len, slices)) < 0.8 * spec.elements
    assert all(len(one) > 1100 for one in slices[:-1])  # as full as they can be


def test_a_slice_that_grew_too_large_is_made_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_SEAL", -40)
    encoder, decoder = codec("q8-range", SPEC, payload=100)
    slices = encoder.encode(1, [smooth()]).slices
    assert max(map(len, slices)) <= 100
    assert decoder.decode(1, slices).concealed == 0


def test_codes_of_fewer_bits_add_up() -> None:
    tables = reduced_tables.range_tables(4)
    np.testing.assert_array_equal(tables.of_bits(8), tables.weights)
    for bits in range(2, 8):
        assert (tables.of_bits(bits).sum(1, dtype=np.int64) == 2**16).all()
        assert tables.of_bits(bits).shape == (3, 2**bits)


@pytest.mark.parametrize("profile", [*REDUCED, *RANGE])
def test_not_a_number_and_other_tensors_are_refused(profile: str) -> None:
    encoder, _ = codec(profile, SPEC)
    with pytest.raises(CodecError, match="tensor a: NaN"):
        encoder.encode(1, [np.full(SPEC.shape, np.nan, np.float32)])
    with pytest.raises(TensorError, match="expected"):
        encoder.encode(1, [np.zeros((1, 5, 6, 6), np.float32)])


# Hostile slices


@settings(max_examples=200)
@given(st.sampled_from((*REDUCED, *RANGE)), st.lists(st.binary(max_size=60) | st.none(), max_size=4))
def test_any_bytes_decode_to_something_finite(profile: str, slices: list[bytes | None]) -> None:
    _, decoder = codec(profile, SPEC)
    decoded = decoder.decode(1, slices)
    assert np.isfinite(decoded.tensors[0]).all()


def test_a_slice_that_no_encoder_writes_is_damaged() -> None:
    encoder, decoder = codec("q8-range", SPEC)
    (payload, *_) = encoder.encode(1, [smooth()]).slices
    assert decoder.decode(1, [payload[:7] + b"\xff" * 16]).damaged_slices == 1


def test_components_are_clamped_to_the_bits_that_they_have() -> None:
    _, decoder = codec("pca:bits=2", SPEC)
    size = 5 * 6 * 7
    found = [
        decoder.decode(number, [pack_slice(0, 0, size, Compressor().compress(byte * size))]).tensors[0]
        for number, byte in enumerate((b"\1", b"\x7f", b"\xfe", b"\x80"), 1)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])
    assert (found[0] != found[2]).any()


# What cannot be used


@pytest.mark.parametrize("profile", ["q4-range", "pca", "clusters", "klt", "avc"])
def test_a_calibration_without_tables_says_how_to_make_them(profile: str) -> None:
    ends = (np.zeros(5, np.float32), np.ones(5, np.float32), np.zeros(5, np.float32))
    bare = replace(calibration(SPEC), tensors=(TensorCalibration("a", 1, *ends),))
    parsed = parse_profile(profile)
    assert is_calibrated(parsed, calibration(SPEC))
    assert not is_calibrated(parsed, bare)
    assert len(calibration_for(parsed)) == 1
    with pytest.raises(CodecError, match=f"splitrtc calibrate --profile {profile}"):
        make_decoder(parsed, [SPEC], bare)
    with pytest.raises(BadArgument, match="calibration"):
        make_decoder(parsed, [SPEC], None)


@pytest.mark.parametrize("profile", ["pca", "clusters"])
def test_tensors_that_do_not_fit_are_refused(profile: str) -> None:
    with pytest.raises(CodecError, match="1 to 64 tensors, not 0"):
        codec(profile)
    with pytest.raises(CodecError, match="not of floating point"):
        codec(profile, TensorSpec("a", "int8", (1, 5)))
    other = TensorSpec("a", "float32", (1, 4, 6, 7))
    with pytest.raises(CodecError, match="5 calibrated channels on axis 1 do not fit"):
        make_decoder(parse_profile(profile), [other], calibration(SPEC))


def test_a_unit_that_a_type_cannot_hold_is_refused() -> None:
    with pytest.raises(CodecError, match="exceeds what float16 can hold"):
        Channels(TensorSpec("a", "float16", (1, 2)), 1, -2, np.zeros(2, np.int16))
    with pytest.raises(CodecError, match="fit the shape"):
        Channels(TensorSpec("a", "float32", (1, 2)), 2, 0, np.zeros(2, np.int16))


def test_a_transform_that_cannot_be_inverted_is_refused_by_the_encoder() -> None:
    tables = calibration(SPEC)
    pca = tables.tensors[0].pca
    assert pca is not None
    flat = replace(pca, basis=np.zeros_like(pca.basis))
    flat_tables = replace(tables, tensors=(replace(tables.tensors[0], pca=flat),))
    encoder = make_encoder(parse_profile("pca"), [SPEC], flat_tables, 300)
    with pytest.raises(CodecError, match="cannot be inverted"):
        encoder.encode(1, [smooth()])


def test_products_are_exact_in_whatever_order() -> None:
    random = np.random.default_rng(2)
    basis = random.integers(-127, 128, (200, 200)).astype(np.int8)
    rotation = Rotation(basis, random.integers(1, 2**14, 200).astype(np.uint16), 14)
    symbols = random.integers(-128, 128, (30, 200))
    found = rotation.differences(symbols, 64)
    totals = (symbols.astype(object) * 64 * rotation.multipliers.astype(object)) @ basis.astype(object)
    exact = np.array([[min(max(total + 2**13 >> 14, -(2**22)), 2**22) + 8 >> 4 for total in row] for row in totals])
    np.testing.assert_array_equal(found, exact)


# Tables


def written(tables: TensorCalibration) -> dict[str, Any]:
    model = "sha-256:" + "5" * 64
    data = calibration_bytes(model, partition_id(model, [tables.name]), [tables], "numbers")
    return dict(json.loads(data)["tensors"][0])


def test_tables_are_read_as_they_are_written() -> None:
    part = reduced_tables.tensor("a", 5, 1)
    value = written(part)
    for name, kind in (("range", RangeTables), ("pca", PcaTables), ("clusters", ClustersTables)):
        assert kind.from_json(value[name], 5).to_json() == value[name]


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("range", {"table": "AAAA"}, "a table of 3 bytes, expected 5"),
        ("range", {"table": "/////w=="}, "a table of 4 bytes"),
        ("range", {"table": "AwMDAwM="}, "number 3, of 3"),
        ("range", {"weights": []}, "range tables have"),
        ("range", {"weights": [1]}, "range tables have"),
        ("range", {"weights": ["AAAA"]}, "expected 512"),
        ("range", {"more": 1}, "range tables have"),
        ("pca", {"unit": 31}, "beyond their limits"),
        ("pca", {"shift": 0}, "beyond their limits"),
        ("pca", {"multipliers": "AAAAAAAAAAAAAA=="}, "multipliers are 1 to"),
        ("pca", {"basis": "!"}, "not base64"),
        ("pca", {"mean": None}, "pca tables have"),
        ("clusters", {"unit": -31}, "exponent"),
        ("clusters", {"order": "AAAAAAAAAAAAAA=="}, "name each of them once"),
        ("clusters", {"books": []}, "clusters tables have"),
        ("clusters", {"books": [{}, {}, {}]}, "a book has"),
    ],
)
def test_tables_that_are_no_good_are_refused(kind: str, change: dict[str, Any], reason: str) -> None:
    value = written(reduced_tables.tensor("a", 5, 1))[kind] | change
    tables: dict[str, Any] = {"range": RangeTables, "pca": PcaTables, "clusters": ClustersTables}
    with pytest.raises(CodecError, match=reason):
        tables[kind].from_json(value, 5)


def test_weights_must_add_up() -> None:
    tables = reduced_tables.range_tables(5)
    with pytest.raises(CodecError, match="their sum 65536"):
        RangeTables(tables.table, tables.weights + np.uint16(1))


def test_words_are_shifted_by_little() -> None:
    book = reduced_tables.clusters_tables(5).books[0]
    with pytest.raises(CodecError, match="at most 8 digits, not 9"):
        replace(book, shift=book.shift + np.uint8(9 - book.shift.max()))


def test_too_many_channels_are_refused() -> None:
    with pytest.raises(CodecError, match="more than 1024"):
        replace(reduced_tables.pca_tables(2), mean=np.zeros(MAX_CHANNELS + 1, np.int16))
    with pytest.raises(CodecError, match="more than 1024"):
        replace(reduced_tables.clusters_tables(2), mean=np.zeros(MAX_CHANNELS + 1, np.int16))


# The vectors of docs/protocol.md, sections 4.7 to 4.9, and the decoders that were written from it


@pytest.mark.parametrize("vector", VECTORS["streams"], ids=lambda vector: vector["profile"])
def test_vectors(vector: dict[str, Any]) -> None:
    specs = [TensorSpec.from_json(item) for item in vector["tensors"]]
    tables = Calibration.from_bytes(VECTORS["calibration"].encode())
    parsed = parse_profile(vector["profile"])
    decoder = make_decoder(parsed, specs, tables)
    for frame in vector["frames"]:
        slices = [None if text is None else bytes.fromhex(text) for text in frame["slices"]]
        decoded = decoder.decode(frame["id"], slices, frame["intra"])
        assert decoded.damaged_slices == frame["damaged"]
        for spec, tensor, text in zip(specs, decoded.tensors, frame["decoded"], strict=True):
            expected = np.frombuffer(bytes.fromhex(text), np.dtype(spec.dtype).newbyteorder("<"))
            np.testing.assert_array_equal(tensor.reshape(-1), expected)


def test_vectors_cover_every_profile() -> None:
    names = {parse_profile(vector["profile"]).name for vector in VECTORS["streams"]}
    assert names == {*RANGE, "pca", "clusters", "avc"}


@pytest.mark.parametrize("profile", [*REDUCED, *RANGE])
def test_the_decoders_by_the_page_agree(profile: str) -> None:
    specs = [TensorSpec("a", "float32", (2, 3, 4, 3)), TensorSpec("b", "float64", (4, 10))]
    tables = calibration(*specs)
    parsed = parse_profile(profile)
    slices = make_encoder(parsed, specs, tables, 90).encode(1, [smooth(spec) for spec in specs]).slices
    decoded = make_decoder(parsed, specs, tables).decode(1, slices)
    for number, (spec, part) in enumerate(zip(specs, tables.tensors, strict=True)):
        common = (spec.shape, number, written(part), slices)
        if parsed.name == "pca":
            parameters = parsed.parameters
            values = page.pca(int(parameters.get("k", 1024)), int(parameters.get("bits", 5)), *common)
        elif parsed.name == "clusters":
            values = page.clusters(int(parsed.parameters.get("size", 4)), *common)
        else:
            values = page.range_coded(int(profile[1]), *common)
        np.testing.assert_array_equal(decoded.tensors[number].reshape(-1), values)


PROGRAM = """
import hashlib
import numpy as np
from models.codecs import make_decoder, make_encoder, parse_profile
from models.tensor import TensorSpec
from tests.models.reduced_tables import calibration
spec = TensorSpec("a", "float32", (1, 64, 19, 19))
seen = hashlib.sha256()
frame = np.random.default_rng(3).normal(0, 4, spec.shape).astype(np.float32)
for profile in ("q4-range", "pca", "clusters", "avc"):
    encoder = make_encoder(parse_profile(profile), [spec], calibration(spec), 1140)
    decoder = make_decoder(parse_profile(profile), [spec], calibration(spec))
    for number in (1, 2):
        coded = encoder.encode(number, [frame])
        seen.update(b"".join(coded.slices))
        seen.update(decoder.decode(number, coded.slices, coded.intra).tensors[0].tobytes())
print(seen.hexdigest())
"""


def test_processes_agree_whatever_their_threads() -> None:
    root = Path(__file__).parents[2]
    seen = set()
    for threads in ("1", "4"):
        environment = {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(root)}
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        seen.add(ended.stdout)
    assert len(seen) == 1
