from __future__ import annotations

import base64
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from models.calibration import Calibration, TensorCalibration
from models.codecs import Decoder, EncodedFrame, Encoder, is_calibrated, klt, make_decoder, make_encoder, parse_profile
from models.codecs.klt import KltDecoder, code_of
from models.codecs.klt_choice import MAX_SYMBOL, Chooser
from models.codecs.klt_plane import STATE_MAX, Plane, step_of
from models.codecs.klt_slices import Coefficients, SliceCoder
from models.codecs.klt_tables import CLASSES, ESCAPE, OFFSETS, KltTables
from models.codecs.mirror import KEPT_STATES
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, CodecError, TensorError
from tests.models import klt_by_the_page as page
from tests.models.klt_tables import calibration, tables

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "klt.json").read_text(encoding="utf-8"))
SPEC = TensorSpec("a", "float32", (1, 3, 7, 9))


def codec(*specs: TensorSpec, profile: str = "klt", payload: int = 1134, axis: int = 1) -> tuple[Encoder, Decoder]:
    tables = calibration(*specs, axis=axis)
    return (
        make_encoder(parse_profile(profile), specs, tables, payload),
        make_decoder(parse_profile(profile), specs, tables),
    )


def smooth(spec: TensorSpec = SPEC, scale: float = 4.0, seed: int = 0) -> NDArray[Any]:
    """A frame such as a model makes: most of it in few frequencies."""
    noise = np.random.default_rng(seed).normal(size=spec.shape)
    return np.asarray(scale * (noise + noise.mean(-1, keepdims=True) * 3), spec.dtype)


def decode(decoder: Decoder, frame_id: int, frame: EncodedFrame, keep: Sequence[bool] | None = None) -> Any:
    slices = [s if keep is None or keep[i] else None for i, s in enumerate(frame.slices)]
    return decoder.decode(frame_id, slices, frame.intra, frame.reference)


# Round trips


@pytest.mark.parametrize("profile", ["klt:step=0.5", "klt-light:step=0.5"])
def test_frames_come_back_nearly(profile: str) -> None:
    encoder, decoder = codec(SPEC, profile=profile, payload=200)
    for frame_id in range(1, 6):
        frame = smooth(seed=frame_id)
        encoded = encoder.encode(frame_id, [frame])
        assert (encoded.intra, encoded.reference) == (frame_id == 1, frame_id - 1 or None)
        assert max(map(len, encoded.slices)) <= 200
        decoded = decode(decoder, frame_id, encoded)
        assert (decoded.concealed, decoded.damaged_slices) == (0, 0)
        assert np.abs(decoded.tensors[0] - frame).mean() < 0.25
        assert not decoded.tensors[0].flags.writeable


def test_a_frame_that_stands_still_costs_next_to_nothing() -> None:
    encoder, decoder = codec(SPEC)
    frame = smooth()
    first = decode(decoder, 1, encoder.encode(1, [frame]))
    again = encoder.encode(2, [frame])
    assert sum(map(len, again.slices)) <= 16
    np.testing.assert_allclose(decode(decoder, 2, again).tensors[0], first.tensors[0], atol=1.5)


@st.composite
def frames(draw: st.DrawFn) -> tuple[list[TensorSpec], int, list[list[NDArray[Any]]]]:
    """Some frames of one or two tensors of any shape and any finite values, and the axis of the channels."""
    axis = draw(st.integers(0, 2))
    specs = []
    for name in ("a", "b")[: draw(st.integers(1, 2))]:
        shape = draw(hnp.array_shapes(min_dims=axis + 1, max_dims=4, max_side=9))
        specs.append(TensorSpec(name, draw(st.sampled_from(("float16", "float32", "float64"))), shape))
    values = [
        [
            draw(
                hnp.arrays(spec.dtype, spec.shape, elements=hnp.from_dtype(np.dtype(spec.dtype), allow_nan=False))
                | st.just(smooth(spec))
                | hnp.from_dtype(np.dtype(spec.dtype), allow_nan=False).map(partial(np.full, spec.shape))
            )
            for spec in specs
        ]
        for _ in range(draw(st.integers(1, 3)))
    ]
    return specs, axis, values


@settings(max_examples=60)
@given(frames(), st.sampled_from(("klt", "klt-light:step=0.25", "klt:step=64")), st.sampled_from((64, 300)))
def test_any_frames_come_back_finite_and_within_the_state(
    given_frames: tuple[list[TensorSpec], int, list[list[NDArray[Any]]]], profile: str, payload: int
) -> None:
    specs, axis, values = given_frames
    encoder, decoder = codec(*specs, profile=profile, payload=payload, axis=axis)
    for frame_id, tensors in enumerate(values, 1):
        encoded = encoder.encode(frame_id, tensors)
        assert max(map(len, encoded.slices)) <= payload
        decoded = decode(decoder, frame_id, encoded)
        assert (decoded.concealed, decoded.damaged_slices) == (0, 0)
        for spec, tensor in zip(specs, decoded.tensors, strict=True):
            assert (tensor.shape, tensor.dtype) == (spec.shape, spec.dtype)
            assert np.isfinite(tensor).all()


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e30, -64.0, 0.0])
def test_extremes_are_clamped_to_the_state(value: float) -> None:
    encoder, decoder = codec(SPEC, profile="klt-light:step=0.25")
    tensor = decode(decoder, 1, encoder.encode(1, [np.full(SPEC.shape, value, np.float32)])).tensors[0]
    unit, mean = 512, tables(3).mean.astype(np.float64)
    expected = np.clip(value, (mean - STATE_MAX) / unit, (mean + STATE_MAX) / unit)
    np.testing.assert_allclose(tensor, np.broadcast_to(expected.reshape(1, 3, 1, 1), SPEC.shape), atol=0.6)


def test_nan_is_refused() -> None:
    encoder, _ = codec(SPEC)
    frame = smooth()
    frame[0, 1, 2, 3] = math.nan
    with pytest.raises(CodecError, match="tensor a: NaN"):
        encoder.encode(1, [frame])


def test_a_wider_step_takes_fewer_bytes() -> None:
    frame = smooth()
    sizes = [
        sum(map(len, codec(SPEC, profile=f"klt:step={step}")[0].encode(1, [frame]).slices)) for step in (0.5, 1, 2, 4)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.5 * sizes[3]


def test_slices_add_little() -> None:
    spec = TensorSpec("a", "float32", (1, 16, 16, 16))
    frame = smooth(spec)
    whole = codec(spec, payload=10**6)[0].encode(1, [frame]).slices
    cut = codec(spec, payload=1134)[0].encode(1, [frame]).slices
    assert len(whole) == 1 < len(cut)
    assert sum(map(len, cut)) - len(whole[0]) <= 10 * len(cut)


def test_steps_have_codes() -> None:
    assert [step_of(code) for code in (0, 1, 16, 255)] == [16, 17, 32, 31 << 15]
    assert [code_of(step_of(code) / 64) for code in range(256)] == list(range(256))


def test_what_does_not_fit_is_refused() -> None:
    encoder, _ = codec(SPEC)
    with pytest.raises(TensorError, match="1 tensors expected, 2 came"):
        encoder.encode(1, [smooth(), smooth()])
    with pytest.raises(TensorError, match="float64"):
        encoder.encode(1, [smooth().astype(np.float64)])
    with pytest.raises(BadArgument, match="64 bytes"):
        codec(SPEC, payload=63)
    with pytest.raises(BadArgument, match="need a calibration"):
        KltDecoder([SPEC], None)
    with pytest.raises(CodecError, match="1 to 64 tensors"):
        KltDecoder([], calibration(SPEC))
    integers = TensorSpec("a", "int8", (1, 3, 7, 9))
    with pytest.raises(CodecError, match="not of floating point"):
        KltDecoder([integers], calibration(integers))
    with pytest.raises(CodecError, match="do not fit the shape"):
        KltDecoder([TensorSpec("a", "float32", (1, 4, 7, 9))], calibration(SPEC))
    with pytest.raises(CodecError, match="what float16 can hold"):
        Plane(TensorSpec("a", "float16", (3,)), 0, tables(3, unit=-2))


def test_a_calibration_without_tables_says_how_to_make_them() -> None:
    ends = np.ones(3, np.float32)
    plain = Calibration("m", "p", (TensorCalibration("a", 1, -ends, ends, 0 * ends),), "x", "d")
    with pytest.raises(CodecError, match="splitrtc calibrate"):
        KltDecoder([SPEC], plain)
    assert not is_calibrated(parse_profile("klt"), plain)
    assert is_calibrated(parse_profile("q4"), plain)
    assert is_calibrated(parse_profile("klt"), calibration(SPEC))
    assert not is_calibrated(parse_profile("klt"), None)
    assert is_calibrated(parse_profile("raw"), None)


def test_a_frame_of_too_many_slices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(klt, "MAX_SLICES", 2)
    encoder, _ = codec(SPEC, payload=64, profile="klt:step=0.25")
    with pytest.raises(CodecError, match="frame 1 needs more than 2 slices"):
        encoder.encode(1, [smooth()])


# Loss


def test_every_subset_of_slices_decodes() -> None:
    first, second = smooth(seed=1), smooth(seed=2)
    count = len(codec(SPEC, payload=64, profile="klt:step=0.5")[0].encode(1, [first]).slices)
    assert count >= 3
    for kept in product((True, False), repeat=count):
        encoder, decoder = codec(SPEC, payload=64, profile="klt:step=0.5")
        decoded = decode(decoder, 1, encoder.encode(1, [first]), kept)
        assert np.isfinite(decoded.tensors[0]).all()
        assert (decoded.concealed == 0) == all(kept)
        assert (decoded.concealed == 1) == (not any(kept))
        encoder.acknowledged(1, kept)
        after = encoder.encode(2, [second])
        assert after.intra == (not any(kept))
        # Whatever was lost, one acknowledgement later both sides agree.
        assert np.abs(decode(decoder, 2, after).tensors[0] - second).mean() < 1


def test_what_is_missing_stays_as_it_was() -> None:
    encoder, decoder = codec(SPEC, payload=130, profile="klt:step=1")
    before = decode(decoder, 1, encoder.encode(1, [smooth()])).tensors[0]
    np.testing.assert_array_equal(decoder.decode(2, [None, None], True).tensors[0], before)
    np.testing.assert_array_equal(decoder.decode(3, [None], False, 2).tensors[0], before)


# Steps of blocks


def test_a_block_that_matters_more_gets_a_finer_step() -> None:
    spec = TensorSpec("a", "float32", (1, 3, 4, 12))
    part = calibration(spec).tensors[0]
    assert part.klt is not None
    unit = 2.0**part.klt.unit_bits
    # Half an octave for each four of channel 0 above its mean.
    salience = np.array([1 / 4 / unit, 0, 0], np.float32)
    plane = Plane(spec, 1, replace(part.klt, salience=salience))
    frame = plane.tensor(plane.blank()).copy()
    frame[0, 0, :, :4] -= 40
    frame[0, 0, :, 8:] += 4
    chosen = Chooser(plane, 0).choose(plane.elements(frame), None, 40)
    assert [OFFSETS[place] for place in chosen.offsets] == [OFFSETS[-1], 0, -8]


# Hostile slices


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "at least 4 bytes"),
        (b"\0\0\0", "at least 4 bytes"),
        (b"\2\0\0\1", "of tensor 1, of 1"),
        (b"\0\0\0\0", "0 blocks from 0"),
        (b"\0\0\6\1", "1 blocks from 6"),
        (b"\0\0\0\7", "7 blocks from 0"),
        (b"\0\0\x80\x80\x80\0", "malformed number"),
        (b"\0\0\x80\x80", "malformed number"),
    ],
)
def test_malformed_headers(payload: bytes, reason: str) -> None:
    coder = SliceCoder([Plane(SPEC, 1, tables(3))])
    with pytest.raises(CodecError, match=reason):
        coder.read_header(payload)
    decoded = make_decoder(parse_profile("klt"), [SPEC], calibration(SPEC)).decode(1, [payload])
    assert (decoded.concealed, decoded.damaged_slices) == (1, 1)


def test_a_slice_that_no_encoder_writes_is_damaged() -> None:
    _, decoder = codec(SPEC)
    decoded = decoder.decode(1, [b"\0\0\0\6" + b"\xff" * 40])
    assert (decoded.concealed, decoded.damaged_slices) == (1, 1)


def test_a_coefficient_that_is_too_wide_is_damage() -> None:
    coder = SliceCoder([Plane(SPEC, 1, tables(3))])
    symbols = np.zeros((16, 3), np.int32)
    symbols[0, 0] = 2**21 + 16
    data = coder.write(Coefficients(0, 1, 0, 0, np.zeros(1, np.int32), np.zeros(1, np.int32), symbols), intra=True)
    with pytest.raises(CodecError, match="21 digits"):
        coder.read(coder.read_header(data), data, intra=True)
    symbols[0, 0] = -MAX_SYMBOL
    data = coder.write(Coefficients(0, 1, 0, 0, np.zeros(1, np.int32), np.zeros(1, np.int32), symbols), intra=True)
    np.testing.assert_array_equal(coder.read(coder.read_header(data), data, intra=True).symbols, symbols)


def test_blocks_are_decoded_once() -> None:
    encoder, decoder = codec(SPEC, payload=64, profile="klt:step=0.5")
    first, second, third, *_ = encoder.encode(1, [smooth()]).slices
    assert decoder.decode(1, [first, second, third]).damaged_slices == 0
    assert decoder.decode(2, [first, first, second, third]).damaged_slices == 1
    assert decoder.decode(3, [second, first, third]).damaged_slices == 1
    # Blocks of a damaged slice count as taken, or a peer could have the same ones decoded in vain all over again.
    header = first[:4]
    decoded = decoder.decode(4, [header + b"\xff" * 40, first, second, third])
    assert decoded.damaged_slices == 2


@pytest.mark.parametrize(("intra", "reference"), [(True, 1), (False, None)])
def test_a_frame_is_intra_or_has_a_reference(intra: bool, reference: int | None) -> None:
    encoder, decoder = codec(SPEC)
    slices = encoder.encode(1, [smooth()]).slices
    assert decoder.decode(2, slices, intra, reference).damaged_slices == len(slices)


@given(st.lists(st.binary(max_size=60), max_size=4), st.booleans())
def test_any_bytes_decode_to_something_finite(slices: list[bytes], intra: bool) -> None:
    _, decoder = codec(SPEC)
    decoded = decoder.decode(1, slices, intra, None if intra else 3)
    assert np.isfinite(decoded.tensors[0]).all()
    assert 0 <= decoded.concealed <= 1


@given(st.data())
def test_mutated_slices_decode_to_something_finite(data: st.DataObject) -> None:
    encoder, decoder = codec(SPEC, payload=130, profile="klt:step=1")
    for frame_id in (1, 2):
        frame = encoder.encode(frame_id, [smooth(seed=frame_id)])
        slices = []
        for piece in frame.slices:
            mutated = bytearray(piece)
            for _ in range(data.draw(st.integers(0, 3))):
                mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
            slices.append(bytes(mutated[: data.draw(st.integers(0, len(mutated)))]))
        decoded = decoder.decode(frame_id, slices, frame.intra, frame.reference)
        assert np.isfinite(decoded.tensors[0]).all()


# Tables


def test_tables_are_read_as_they_are_written() -> None:
    made = tables(5)
    read = KltTables.from_json(json.loads(json.dumps(made.to_json())), 5)
    assert read.to_json() == made.to_json()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unit": 31}, "a unit of"),
        ({"unit": "9"}, "klt tables have"),
        ({"more": 1}, "klt tables have"),
        ({"mean": "?"}, "not base64"),
        ({"mean": "AAAA"}, "a table of 3 bytes, expected 6"),
        ({"kinds": ["AAAAAAAAAAAAAAAAAAAAAA==", "AAAA"]}, "a table of 3 bytes"),
        ({"offsets": ["AAAA", "AAAA"]}, "a table of 3 bytes, expected 12"),
        ({"salience": "AAAA"}, "a table of 3 bytes, expected 12"),
        ({"salience": "AADAfwAAwH8AAMB/"}, "not finite"),
        ({"transforms": []}, "klt tables have"),
        ({"transforms": [1, 2]}, "a transform has"),
    ],
)
def test_tables_that_are_no_good_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        KltTables.from_json(tables(3).to_json() | change, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"edge": 2}, "a transform has"),
        ({"shift": 25}, "shift 25"),
        ({"shift": 0}, "shift 0"),
        ({"more": 0}, "a transform has"),
        ({"multipliers": "AAAAAAAA"}, "multipliers are 1"),
        ({"weights": "AAAA"}, "a table of 3 bytes"),
    ],
)
def test_transforms_that_are_no_good_are_refused(change: dict[str, Any], reason: str) -> None:
    value = tables(3).to_json()
    value["transforms"][1] |= change
    with pytest.raises(CodecError, match=reason):
        KltTables.from_json(value, 3)


def test_tables_must_add_up() -> None:
    good = tables(3)
    heavy = good.transforms[1].weights.copy()
    heavy[0, 0, 0] += 1
    value = good.to_json()
    value["transforms"][1]["weights"] = base64.b64encode(heavy.tobytes()).decode()
    with pytest.raises(CodecError, match="their sum 65536"):
        KltTables.from_json(value, 3)
    value = good.to_json()
    value["offsets"][1] = base64.b64encode(np.ones(6, np.uint16).tobytes()).decode()
    with pytest.raises(CodecError, match="their sum 65536"):
        KltTables.from_json(value, 3)
    value = good.to_json()
    value["kinds"][0] = base64.b64encode(np.ones(8, np.uint16).tobytes()).decode()
    with pytest.raises(CodecError, match="their sum 65536"):
        KltTables.from_json(value, 3)
    value = good.to_json()
    value["transforms"].reverse()
    with pytest.raises(CodecError, match="two transforms"):
        KltTables.from_json(value, 3)


def test_a_transform_that_cannot_be_inverted_is_refused_by_the_encoder() -> None:
    value = tables(3).to_json()
    value["transforms"][1]["basis"] = base64.b64encode(bytes(9)).decode()
    broken = Calibration(
        "m",
        "p",
        (TensorCalibration("a", 1, *(np.zeros(3, np.float32) for _ in range(3)), klt=KltTables.from_json(value, 3)),),
        "x",
        "d",
    )
    with pytest.raises(CodecError, match="cannot be inverted"):
        make_encoder(parse_profile("klt"), [SPEC], broken, 1134)
    make_decoder(parse_profile("klt"), [SPEC], broken)


def test_too_many_channels_are_refused() -> None:
    good = tables(3).transforms[1]
    with pytest.raises(CodecError, match="1025 channels"):
        replace(good, basis=np.zeros((1, 1, 1025), np.int8))


# The same everywhere

HASH = """
import hashlib, sys
import numpy as np
from models.codecs import make_decoder, make_encoder, parse_profile
from models.tensor import TensorSpec
from tests.models.klt_tables import calibration
spec = TensorSpec("a", "float32", (1, 24, 19, 19))
random = np.random.default_rng(1)
digest = hashlib.sha256()
for profile in ("klt:step=1", "klt-light:step=1"):
    encoder = make_encoder(parse_profile(profile), [spec], calibration(spec), 1134)
    decoder = make_decoder(parse_profile(profile), [spec], calibration(spec))
    frame = random.normal(size=spec.shape)
    for frame_id in range(1, 9):
        frame = (0.8 * frame + random.normal(size=spec.shape)).astype(np.float32)
        coded = encoder.encode(frame_id, [frame])
        kept = [bool(random.random() < 0.8) for _ in coded.slices]
        if any(kept):
            slices = [s if k else None for s, k in zip(coded.slices, kept)]
            digest.update(decoder.decode(frame_id, slices, coded.intra, coded.reference).tensors[0].tobytes())
        if frame_id % 2:
            encoder.acknowledged(frame_id, kept)
        for piece in coded.slices:
            digest.update(piece)
print(digest.hexdigest())
"""


def test_processes_agree_whatever_their_threads() -> None:
    root = Path(__file__).parents[2]
    found = set()
    for threads in ("1", "4"):
        environment = {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(root)}
        ended = subprocess.run(
            [sys.executable, "-c", HASH], capture_output=True, text=True, check=False, env=environment, cwd=root
        )
        assert ended.returncode == 0, ended.stderr
        found.add(ended.stdout)
    assert len(found) == 1


# The vectors of docs/protocol.md, section 4.6, and the decoder that was written from it


def vector_parts(vector: dict[str, Any]) -> tuple[list[TensorSpec], Calibration]:
    return [TensorSpec.from_json(item) for item in vector["tensors"]], Calibration.from_bytes(
        vector["calibration"].encode()
    )


@pytest.mark.parametrize("vector", VECTORS["streams"], ids=lambda vector: vector["name"])
def test_vectors_decode_to_what_they_say(vector: dict[str, Any]) -> None:
    specs, tables = vector_parts(vector)
    decoder = make_decoder(parse_profile(vector["profile"]), specs, tables)
    file = json.loads(vector["calibration"])["tensors"]
    other = page.Decoder(
        [page.Tensor(spec.shape, item["axis"], item["klt"]) for spec, item in zip(specs, file, strict=True)]
    )
    for frame in vector["frames"]:
        slices = [None if text is None else bytes.fromhex(text) for text in frame["slices"]]
        decoded = decoder.decode(frame["id"], slices, frame["intra"], frame["reference"])
        by_the_page = other.decode(frame["id"], slices, frame["intra"], frame["reference"])
        assert decoded.damaged_slices == frame["damaged"]
        for spec, tensor, text, values in zip(specs, decoded.tensors, frame["decoded"], by_the_page, strict=True):
            expected = np.frombuffer(bytes.fromhex(text), np.dtype(spec.dtype).newbyteorder("<"))
            np.testing.assert_array_equal(tensor.reshape(-1), expected)
            np.testing.assert_array_equal(np.array(values, spec.dtype), expected)


@pytest.mark.parametrize("profile", ["klt:step=1", "klt-light:step=2", "klt:step=0.25"])
def test_the_decoder_by_the_page_agrees(profile: str) -> None:
    specs = [TensorSpec("a", "float32", (2, 3, 5, 6)), TensorSpec("b", "float64", (4, 2))]
    tables = calibration(*specs)
    encoder = make_encoder(parse_profile(profile), specs, tables, 90)
    decoder = make_decoder(parse_profile(profile), specs, tables)
    other = page.Decoder(
        [
            page.Tensor(spec.shape, part.axis, part.klt.to_json())
            for spec, part in zip(specs, tables.tensors, strict=True)
            if part.klt
        ]
    )
    random = np.random.default_rng(2)
    values = [smooth(spec, 30.0) for spec in specs]
    for frame_id in range(1, 8):
        values = [(v + random.normal(size=v.shape)).astype(v.dtype) for v in values]
        frame = encoder.encode(frame_id, values)
        slices = [piece if random.random() < 0.8 else None for piece in frame.slices]
        decoded = decoder.decode(frame_id, slices, frame.intra, frame.reference)
        expected = other.decode(frame_id, slices, frame.intra, frame.reference)
        for tensor, elements in zip(decoded.tensors, expected, strict=True):
            np.testing.assert_array_equal(tensor.reshape(-1), np.array(elements, tensor.dtype))


def test_classes_and_sizes_are_those_of_the_page() -> None:
    assert (CLASSES, ESCAPE) == (40, 16)


def test_a_decoder_keeps_the_states_of_sixteen_frames() -> None:
    encoder, decoder = codec(SPEC)
    first = encoder.encode(1, [smooth()])
    again = encoder.encode(2, [smooth()])
    expected = decode(decoder, 1, first).tensors[0]
    for frame_id in range(2, KEPT_STATES + 1):
        decoder.decode(frame_id, [None])
    kept = decoder.decode(100, again.slices, False, 1).tensors[0]
    np.testing.assert_allclose(kept, expected, atol=1.5)
    forgotten = decoder.decode(101, again.slices, False, 1).tensors[0]
    assert np.abs(forgotten - expected).max() > 1.5  # predicted from a blank


def test_long_numbers_of_blocks() -> None:
    spec = TensorSpec("a", "float32", (1, 1, 4, 4 * 300))
    encoder, decoder = codec(spec, payload=64)
    frame = np.asarray(np.random.default_rng(0).normal(size=spec.shape) * 9, np.float32)
    encoded = encoder.encode(1, [frame])
    assert any(piece[2] > 127 for piece in encoded.slices)
    assert decode(decoder, 1, encoded).concealed == 0


def test_a_block_that_fits_at_no_step_is_refused() -> None:
    spec = TensorSpec("a", "float32", (1, 200, 4, 4))
    made = tables(200)
    weights = np.full((2, CLASSES, ESCAPE + 1), 1985, np.uint16)
    weights[..., 0] = 65536 - 32 * 1985
    heavy = [replace(transform, weights=weights) for transform in made.transforms]
    ends = np.zeros(200, np.float32)
    part = TensorCalibration("a", 1, ends, ends, ends, klt=replace(made, transforms=(heavy[0], heavy[1])))
    encoder = make_encoder(parse_profile("klt"), [spec], Calibration("m", "p", (part,), "x", "d"), 64)
    with pytest.raises(CodecError, match="64 bytes at any step"):
        encoder.encode(1, [np.zeros(spec.shape, np.float32)])


def test_where_many_slices_are_lost_only_complete_frames_are_references() -> None:
    encoder, _ = codec(SPEC, payload=64, profile="klt:step=0.5")
    sent = {}
    for frame_id in range(1, 20):
        sent[frame_id] = encoder.encode(frame_id, [smooth(seed=frame_id)])
        if frame_id < 19:
            # Of every third frame all slices but one are lost. The answers come at once, and twice.
            received = [index == 0 or frame_id % 3 != 0 for index in range(len(sent[frame_id].slices))]
            encoder.acknowledged(frame_id, received)
            encoder.acknowledged(frame_id, received)
    assert [sent[frame_id].reference for frame_id in (2, 3, 4)] == [1, 2, 3]
    assert [sent[frame_id].reference for frame_id in (17, 18, 19)] == [16, 17, 17]
