from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.identity import bytes_digest, digest_hex, file_digest, is_digest, is_partition_id, partition_id
from splitrtc_errors import BadArgument, ModelFileError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "partition_id.json").read_text(encoding="utf-8"))
DIGEST = "sha-256:" + "0123456789abcdef" * 4


def test_bytes_digest_is_sha256() -> None:
    assert bytes_digest(b"abc") == "sha-256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_file_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = bytes(range(256)) * 5000  # more than one piece
    path.write_bytes(data)
    assert file_digest(path) == bytes_digest(data)


def test_file_digest_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="nowhere: No such file"):
        file_digest(tmp_path / "nowhere")


def test_digest_hex_returns_the_digits() -> None:
    assert digest_hex(DIGEST) == "0123456789abcdef" * 4
    assert is_digest(DIGEST)


@pytest.mark.parametrize(
    "text",
    ["", DIGEST[:-1], DIGEST + "0", DIGEST.upper(), DIGEST.replace("sha-256:", ""), DIGEST + "\n", " " + DIGEST],
)
def test_malformed_digests_are_refused(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(BadArgument, match="64 lower-case hex digits"):
        digest_hex(text)


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda vector: vector["about"])
def test_partition_id_agrees_with_the_vectors(vector: dict[str, object]) -> None:
    assert partition_id(vector["model"], vector["tensors"]) == vector["partition"]  # type: ignore[arg-type]


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["reason"])
def test_bad_vectors_have_no_partition_id(vector: dict[str, object]) -> None:
    with pytest.raises(BadArgument):
        partition_id(vector["model"], vector["tensors"])  # type: ignore[arg-type]


def test_partition_id_is_made_as_the_protocol_says() -> None:
    # Written out from docs/protocol.md 1.4, apart from the code.
    names = ["b", "é", "a/0"]
    message = digest_hex(DIGEST).encode()
    for name in (b"a/0", b"b", "é".encode()):
        message += bytes([0, 0, 0, len(name)]) + name
    assert partition_id(DIGEST, names) == hashlib.sha256(message).hexdigest()[:32]


@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), min_size=1, max_size=6, unique=True
    )
)
def test_partition_id_does_not_depend_on_the_order(names: list[str]) -> None:
    identity = partition_id(DIGEST, names)
    assert identity == partition_id(DIGEST, reversed(names))
    assert is_partition_id(identity)


def test_partition_ids_differ_when_names_run_into_each_other() -> None:
    assert partition_id(DIGEST, ["ab", "c"]) != partition_id(DIGEST, ["a", "bc"])


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32])
def test_malformed_partition_ids(text: str) -> None:
    assert not is_partition_id(text)
