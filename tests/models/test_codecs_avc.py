from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from models.calibration import Calibration
from models.codecs import avc, make_decoder, make_encoder, parse_profile
from models.codecs.avc import AvcDecoder, AvcEncoder
from models.codecs.avc_messages import Message, pack_message, parse_message
from models.codecs.base import EncodedFrame
from models.codecs.tiles import Tiles
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, CodecError, MissingDependency, TensorError
from tests.models import reduced_by_the_page as page
from tests.models.reduced_tables import calibration

SPEC = TensorSpec("a", "float32", (1, 6, 19, 19))
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "reduced.json").read_text(encoding="utf-8"))


def codec(*specs: TensorSpec, profile: str = "avc", payload: int = 600, axis: int = 1) -> tuple[AvcEncoder, AvcDecoder]:
    parsed, tables = parse_profile(profile), calibration(*specs, axis=axis)
    encoder = make_encoder(parsed, specs, tables, payload)
    decoder = make_decoder(parsed, specs, tables)
    assert isinstance(encoder, AvcEncoder)
    assert isinstance(decoder, AvcDecoder)
    return encoder, decoder


def scene(number: int, spec: TensorSpec = SPEC) -> NDArray[Any]:
    """Something that moves."""
    random = np.random.default_rng(0)
    noise = np.random.default_rng(number).normal(0, 0.3, spec.shape)
    return (np.roll(random.normal(0, 3, spec.shape), number, -1) + noise).astype(spec.dtype)


def decode(decoder: AvcDecoder, frame_id: int, encoded: EncodedFrame, keep: Any = None) -> Any:
    slices = [one if keep is None or keep[n] else None for n, one in enumerate(encoded.slices)]
    return decoder.decode(frame_id, slices, encoded.intra, encoded.reference)


def test_frames_come_back_nearly() -> None:
    encoder, decoder = codec(SPEC, profile="avc:qp=5")
    for frame_id in range(1, 6):
        encoded = encoder.encode(frame_id, [scene(frame_id)])
        assert (encoded.intra, encoded.reference) == (frame_id == 1, None)
        assert len(encoded.slices) > 1
        assert max(map(len, encoded.slices)) <= 600
        decoded = decode(decoder, frame_id, encoded)
        assert (decoded.concealed, decoded.damaged_slices) == (0, 0)
        assert np.abs(decoded.tensors[0] - scene(frame_id)).mean() < 0.5
        assert not decoded.tensors[0].flags.writeable


def test_every_first_message_is_enough_for_its_part() -> None:
    encoder, _ = codec(SPEC, profile="avc:qp=5")
    encoded = encoder.encode(1, [scene(1)])
    for n in range(len(encoded.slices)):
        _, decoder = codec(SPEC)
        decoded = decode(decoder, 1, encoded, [m == n for m in range(len(encoded.slices))])
        assert (decoded.damaged_slices, decoded.concealed) == (0, 1 - 1 / len(encoded.slices))
        assert np.isfinite(decoded.tensors[0]).all()


@st.composite
def frames(draw: st.DrawFn) -> tuple[list[TensorSpec], int, list[NDArray[Any]]]:
    axis = draw(st.integers(0, 2))
    specs, values = [], []
    for name in ("a", "b")[: draw(st.integers(1, 2))]:
        shape = draw(hnp.array_shapes(min_dims=axis + 1, max_dims=4, max_side=12))
        spec = TensorSpec(name, draw(st.sampled_from(("float16", "float32", "float64"))), shape)
        anything = hnp.from_dtype(np.dtype(spec.dtype), allow_nan=False)
        specs.append(spec)
        values.append(
            draw(
                hnp.arrays(spec.dtype, spec.shape, elements=anything)
                | anything.map(partial(np.full, spec.shape, dtype=spec.dtype))
            )
        )
    return specs, axis, values


@settings(max_examples=30)
@given(frames(), st.sampled_from(("avc", "avc:qp=1", "avc:refresh=4", "avc:k=2,qp=51")), st.data())
def test_any_frames_decode_to_something_finite_whatever_is_lost(
    given_frames: tuple[list[TensorSpec], int, list[NDArray[Any]]], profile: str, data: st.DataObject
) -> None:
    specs, axis, values = given_frames
    encoder, decoder = codec(*specs, profile=profile, axis=axis)
    for frame_id in range(1, 5):
        encoded = encoder.encode(frame_id, values if frame_id % 2 else [-value for value in values])
        kept = data.draw(st.lists(st.booleans(), min_size=len(encoded.slices), max_size=len(encoded.slices)))
        if any(kept):
            decoded = decode(decoder, frame_id, encoded, kept)
            for spec, tensor in zip(specs, decoded.tensors, strict=True):
                assert (tensor.shape, tensor.dtype.name) == (spec.shape, spec.dtype)
                assert np.isfinite(tensor).all()
        if data.draw(st.booleans()):
            encoder.acknowledged(frame_id, kept)


def test_a_loss_is_answered_by_one_keyframe() -> None:
    encoder, decoder = codec(SPEC)
    for frame_id in range(1, 12):
        encoded = encoder.encode(frame_id, [scene(frame_id)])
        # Frames 3 and 4 are lost; that is known two frames later, when 5 and 6 are on their way.
        assert encoded.intra == (frame_id in (1, 6))
        if frame_id not in (3, 4):
            decode(decoder, frame_id, encoded)
        if frame_id > 2:
            encoder.acknowledged(frame_id - 2, [frame_id - 2 not in (3, 4)])
    whole, other = codec(SPEC)
    reference = decode(other, 1, whole.encode(1, [scene(11)])).tensors[0]
    assert np.abs(decode(decoder, 12, encoder.encode(12, [scene(11)])).tensors[0] - reference).mean() < 1


def test_with_a_wave_only_a_lost_keyframe_is_answered_by_one() -> None:
    encoder, decoder = codec(SPEC, profile="avc:refresh=4,qp=8")
    intra = []
    for frame_id in range(1, 30):
        encoded = encoder.encode(frame_id, [scene(0)])
        intra.append(encoded.intra)
        encoder.acknowledged(frame_id, [frame_id not in (1, 6)] * len(encoded.slices))
        if frame_id not in (1, 6):
            last = decode(decoder, frame_id, encoded)
    assert intra == [True, True, *[False] * 27]
    assert np.abs(last.tensors[0] - scene(0)).mean() < 0.6


def test_before_the_first_keyframe_there_is_nothing_to_decode() -> None:
    encoder, decoder = codec(SPEC)
    encoder.encode(1, [scene(1)])
    late = encoder.encode(2, [scene(2)])
    decoded = decode(decoder, 2, late)
    assert (decoded.damaged_slices, decoded.concealed) == (len(late.slices), 1)
    np.testing.assert_array_equal(decoded.tensors[0], decode(decoder, 3, late).tensors[0])


def test_slices_decode_once() -> None:
    encoder, decoder = codec(SPEC, profile="avc:qp=5")
    first, *others = encoder.encode(1, [scene(1)]).slices
    decoded = decoder.decode(1, [first, first, *others, first])
    assert decoded.damaged_slices == 2
    assert decoder.decode(2, [first], True, 1).damaged_slices == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_slices_decode_to_something_finite(data: st.DataObject) -> None:
    encoder, decoder = codec(SPEC)
    for frame_id in range(1, 4):
        encoded = encoder.encode(frame_id, [scene(frame_id)])
        slices = []
        for one in encoded.slices:
            broken = bytearray(one)
            for place in data.draw(st.lists(st.integers(0, len(one) - 1), max_size=3)):
                broken[place] = data.draw(st.integers(0, 255))
            slices.append(bytes(broken[: data.draw(st.sampled_from((len(one), len(one) // 2)))]))
        decoded = decoder.decode(frame_id, slices, encoded.intra)
        assert np.isfinite(decoded.tensors[0]).all()
        assert 0 <= decoded.concealed <= 1


def test_what_the_decoder_cannot_use_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, decoder = codec(SPEC, profile="avc:qp=5")
    encoded = encoder.encode(1, [scene(1)])
    message = parse_message(encoded.slices[0], True, [(64, 48)])
    # A picture of another parameter set than the one that came.
    unit = message.unit[:1] + b"\x88\x40\x40" + message.unit[4:]
    decoded = decoder.decode(1, [pack_message(Message(0, message.parameters, unit))])
    assert (decoded.damaged_slices, decoded.concealed) == (1, 1)
    decode(decoder, 2, encoded)
    monkeypatch.setattr(decoder, "_tiles", codec(TensorSpec("a", "float32", (1, 6, 40, 40)))[1]._tiles)
    assert not decoder._decode_picture(0, [message])


def test_nan_and_other_tensors_are_refused() -> None:
    encoder, _ = codec(SPEC)
    with pytest.raises(CodecError, match="tensor a: NaN"):
        encoder.encode(1, [np.full(SPEC.shape, np.nan, np.float32)])
    with pytest.raises(TensorError, match="expected"):
        encoder.encode(1, [])
    assert encoder.encode(2, [scene(1)]).intra


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadArgument, match="at least 600 bytes, not 599"):
        codec(SPEC, payload=599)
    with pytest.raises(CodecError, match="more than 4096"):
        codec(TensorSpec("a", "float32", (1, 6, 2, 5000)))
    encoder, _ = codec(SPEC, profile="avc:qp=1")
    monkeypatch.setattr(avc, "MAX_SLICES", 1)
    with pytest.raises(CodecError, match="use a larger qp"):
        encoder.encode(1, [scene(1)])
    monkeypatch.undo()
    assert encoder.encode(2, [scene(1)]).intra


def test_a_transform_that_cannot_be_inverted_is_refused_by_the_encoder() -> None:
    tables = calibration(SPEC)
    klt = tables.tensors[0].klt
    assert klt is not None
    flat = replace(klt.transforms[1], basis=np.zeros_like(klt.transforms[1].basis))
    part = replace(tables.tensors[0], klt=replace(klt, transforms=(klt.transforms[0], flat)))
    with pytest.raises(CodecError, match="cannot be inverted"):
        make_encoder(parse_profile("avc"), [SPEC], replace(tables, tensors=(part,)), 600)


def test_failures_of_the_library_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = codec(SPEC)

    class Broken:
        def encode(self, *_: Any) -> Any:
            raise av.error.ExternalError(1, "broken")

        open = encode

    monkeypatch.setattr(encoder, "_coders", [Broken()])
    with pytest.raises(CodecError, match="x264 failed"):
        encoder.encode(1, [scene(1)])
    with pytest.raises(MissingDependency, match="no nothing"):
        avc._context("nothing", "w")
    monkeypatch.setattr(avc, "_context", lambda name, mode: Broken())
    with pytest.raises(CodecError, match="cannot code a picture"):
        codec(SPEC)


@pytest.mark.parametrize("vector", [one for one in VECTORS["streams"] if one["profile"].startswith("avc")])
def test_vectors_by_the_page(vector: dict[str, Any]) -> None:
    """From pictures, which any decoder of H.264 returns, to elements."""
    specs = [TensorSpec.from_json(item) for item in vector["tensors"]]
    tables = Calibration.from_bytes(VECTORS["calibration"].encode())
    files = json.loads(VECTORS["calibration"])["tensors"]
    count = int(parse_profile(vector["profile"]).parameters.get("k", 1024))
    for number, (spec, item) in enumerate(zip(specs, files, strict=True)):
        size = Tiles(spec, tables.tensors[number], count)
        coder: Any = av.CodecContext.create("h264", "r")
        for frame in vector["frames"]:
            payloads = [bytes.fromhex(text) for text in frame["slices"]]
            units = b""
            for payload in payloads:
                if payload[0] == number:
                    message = parse_message(payload, frame["intra"], [(size.width, size.height)] * 2)
                    units += b"".join(b"\0\0\1" + unit for unit in (*message.parameters, message.unit))
            (picture,) = coder.decode(av.Packet(units))
            plane = picture.planes[0]
            pixels = [bytes(plane)[row * plane.line_size :][: size.width] for row in range(size.height)]
            values = page.avc(count, spec.shape, item, pixels)
            expected = np.frombuffer(bytes.fromhex(frame["decoded"][number]), np.dtype(spec.dtype).newbyteorder("<"))
            np.testing.assert_array_equal(np.array(values, spec.dtype), expected)
