from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.calibration import Calibration
from models.codecs import (
    DecodedFrame,
    EncodedFrame,
    Encoder,
    Profile,
    bits_per_element,
    is_accepted_unasked,
    make_decoder,
    make_encoder,
    needs_calibration,
    parse_profile,
    profile_ids,
)
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, UnknownModel

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "codecs.json").read_text(encoding="utf-8"))


COMPRESSED_ONLY = {f"q{bits}{suffix}": bits for bits in (7, 6, 5, 3, 2) for suffix in ("-zstd", "-snappy")}
PLAIN_OR_COMPRESSED = {
    f"{code}{suffix}": bits
    for code, bits in (("raw", None), ("q16", 16), ("q8", 8), ("q4", 4))
    for suffix in ("", "-zstd", "-snappy")
}


RANGE_CODED = {f"q{bits}-range": bits for bits in range(2, 9)}
WITH_TABLES = ("klt", "klt-light", "pca", "clusters", "avc")


SCALAR = (*PLAIN_OR_COMPRESSED, *COMPRESSED_ONLY)


def test_the_profiles_of_version_1() -> None:
    assert sorted(profile_ids()) == sorted([*PLAIN_OR_COMPRESSED, *COMPRESSED_ONLY, *RANGE_CODED, *WITH_TABLES])


@pytest.mark.parametrize("profile", profile_ids())
def test_a_profile_is_written_as_it_is_read(profile: str) -> None:
    assert parse_profile(profile) == Profile(profile)
    assert str(parse_profile(profile)) == profile


def test_a_profile_with_parameters_is_written_with_them() -> None:
    assert str(Profile("x", {"a": "1", "b": "two"})) == "x:a=1,b=two"


@pytest.mark.parametrize("profile", ["q3", "q9-zstd", "q4-lz4", "snappy", "x:level=1"])
def test_an_unknown_profile_is_refused(profile: str) -> None:
    with pytest.raises(UnknownModel, match="q4-zstd"):
        parse_profile(profile)


@pytest.mark.parametrize(
    "profile", ["", "Q4", "q4 ", "q4:", "q4:level", "q4:level=", "q4:a=1,", "q4,a=1", "q4:a=1:b=2", "x" * 129, "q4\n"]
)
def test_a_malformed_profile_is_refused(profile: str) -> None:
    with pytest.raises(BadArgument, match="name"):
        parse_profile(profile)


def test_parameters_that_a_profile_does_not_take_are_refused() -> None:
    with pytest.raises(BadArgument, match="takes no parameters, not 'level=3'"):
        parse_profile("q4-zstd:level=3,x=1")
    with pytest.raises(BadArgument, match="klt takes step, not 'x=1'"):
        parse_profile("klt:step=1,x=1")


def test_parameters_are_read() -> None:
    assert parse_profile("klt:step=1.25") == Profile("klt", {"step": "1.25"})
    assert str(parse_profile("klt-light:step=64")) == "klt-light:step=64"


@pytest.mark.parametrize(
    "profile",
    [
        "pca:k=0",
        "pca:k=1025",
        "pca:bits=9",
        "pca:bits=02",
        "clusters:size=3",
        "avc:qp=0",
        "avc:qp=52",
        "avc:refresh=301",
        "avc:refresh=1",
    ],
)
def test_numbers_out_of_range_are_refused(profile: str) -> None:
    with pytest.raises(BadArgument, match="comes twice or is out of range"):
        parse_profile(profile)


def test_only_avc_has_to_be_wanted() -> None:
    assert [name for name in profile_ids() if not is_accepted_unasked(parse_profile(name))] == ["avc"]


@pytest.mark.parametrize("step", ["0.2", "64.1", "1e0", "-1", ".5", "0.12345", "nan", "1,step=1"])
def test_steps_out_of_range_are_refused(step: str) -> None:
    with pytest.raises(BadArgument, match="comes twice or is out of range"):
        parse_profile(f"klt:step={step}")


def test_only_quantised_profiles_need_a_calibration() -> None:
    needing = [profile for profile in profile_ids() if needs_calibration(parse_profile(profile))]
    assert needing == [profile for profile in profile_ids() if not profile.startswith("raw")]


def test_bits_of_an_element() -> None:
    bits = {profile: bits_per_element(parse_profile(profile)) for profile in profile_ids()}
    # A code that is no nibble has a whole byte.
    assert bits == PLAIN_OR_COMPRESSED | dict.fromkeys([*COMPRESSED_ONLY, *RANGE_CODED, *WITH_TABLES], 8) | {
        "q4-range": 4
    }


def test_what_an_encoder_writes_its_decoder_reads() -> None:
    tensors = [TensorSpec("a", "int16", (2, 3))]
    value = np.arange(6, dtype=np.int16).reshape(2, 3)
    encoded = make_encoder(parse_profile("raw-zstd"), tensors, None, 1140).encode(1, [value])
    decoded = make_decoder(parse_profile("raw-zstd"), tensors, None).decode(1, encoded.slices)
    np.testing.assert_array_equal(decoded.tensors[0], value, strict=True)


def test_an_encoder_may_ignore_acknowledgements() -> None:
    encoder: Encoder = make_encoder(parse_profile("raw"), [TensorSpec("a", "uint8", (1,))], None, 1140)
    encoder.acknowledged(7, [True, False])
    assert encoder.encode(8, [np.ones(1, np.uint8)]) == EncodedFrame([b"\0\0\0\0\0\0\1\1"], intra=True, reference=None)


def test_listing_profiles_loads_no_numpy() -> None:
    program = (
        "import sys, models.codecs as c; c.needs_calibration(c.parse_profile('klt:step=1')); "
        "sys.exit(bool({'numpy', 'zstandard', 'constriction', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# The vectors of docs/protocol.md, section 4


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration.from_bytes(VECTORS["calibration"]["text"].encode())


def specs_of(vector: dict[str, Any]) -> list[TensorSpec]:
    return [TensorSpec.from_json(item) for item in vector["tensors"]]


def arrays(specs: Sequence[TensorSpec], elements: Sequence[str]) -> list[NDArray[Any]]:
    return [
        np.frombuffer(bytes.fromhex(text), np.dtype(spec.dtype).newbyteorder("<"))
        .astype(spec.dtype)
        .reshape(spec.shape)
        for spec, text in zip(specs, elements, strict=True)
    ]


def check_tensors(decoded: DecodedFrame, expected: Sequence[NDArray[Any]]) -> None:
    for found, value in zip(decoded.tensors, expected, strict=True):
        assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_vectors_calibration(calibration: Calibration) -> None:
    assert calibration.digest == VECTORS["calibration"]["digest"]


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["profile"])
def test_vectors_frames(vector: dict[str, Any], calibration: Calibration) -> None:
    profile, specs = parse_profile(vector["profile"]), specs_of(vector)
    assert needs_calibration(profile) is vector["calibrated"]
    used = calibration if vector["calibrated"] else None
    given = [bytes.fromhex(text) for text in vector["slices"]]
    written = make_encoder(profile, specs, used, vector["max_payload"]).encode(1, arrays(specs, vector["elements"]))
    if vector["exact"]:
        assert written == EncodedFrame(given)
    for slices in (given, written.slices):
        decoded = make_decoder(profile, specs, used).decode(1, slices)
        check_tensors(decoded, arrays(specs, vector["decoded"]))
        assert (decoded.concealed, decoded.damaged_slices) == (0, 0)


def test_vectors_cover_every_profile() -> None:
    assert {vector["profile"] for vector in VECTORS["frames"]} == set(SCALAR)


def test_vectors_concealment(calibration: Calibration) -> None:
    vector = VECTORS["concealment"]
    specs = specs_of(vector)
    decoder = make_decoder(parse_profile(vector["profile"]), specs, calibration)
    for number, frame in enumerate(vector["frames"], 1):
        decoded = decoder.decode(number, [None if text is None else bytes.fromhex(text) for text in frame["slices"]])
        check_tensors(decoded, arrays(specs, frame["decoded"]))
        assert decoded.concealed == frame["missing"] / sum(spec.elements for spec in specs)


@pytest.mark.parametrize("vector", VECTORS["bad_slices"], ids=lambda vector: vector["reason"])
def test_vectors_bad_slices(vector: dict[str, Any]) -> None:
    decoder = make_decoder(parse_profile(vector["profile"]), specs_of(vector), None)
    decoded = decoder.decode(1, [bytes.fromhex(vector["slice"])])
    assert (decoded.concealed, decoded.damaged_slices) == (1, 1)
