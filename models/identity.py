"""Identities: SHA-256 digests of files, and partition ids.

A digest is written ``sha-256:`` and 64 lower-case hex digits everywhere: in cards, in SDP, on the control channel.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from models.tensor import is_tensor_name
from splitrtc_errors import BadArgument, ModelFileError

__all__ = [
    "DIGEST_PREFIX",
    "bytes_digest",
    "digest_hex",
    "file_digest",
    "is_digest",
    "is_partition_id",
    "partition_id",
]

DIGEST_PREFIX = "sha-256:"
_DIGEST = re.compile(r"sha-256:[0-9a-f]{64}")
_PARTITION_ID = re.compile(r"[0-9a-f]{32}")


def is_digest(text: str) -> bool:
    """Whether ``text`` is a well-formed digest."""
    return _DIGEST.fullmatch(text) is not None


def is_partition_id(text: str) -> bool:
    """Whether ``text`` is a well-formed partition id: 32 lower-case hex digits."""
    return _PARTITION_ID.fullmatch(text) is not None


def digest_hex(digest: str) -> str:
    """Return the 64 hex digits of ``digest``; BadArgument when it is malformed."""
    if not is_digest(digest):
        raise BadArgument(f"a digest is 'sha-256:' and 64 lower-case hex digits, not {digest[:100]!r}")
    return digest.removeprefix(DIGEST_PREFIX)


def bytes_digest(data: bytes | memoryview) -> str:
    """Return the digest of ``data``."""
    return DIGEST_PREFIX + hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file, read in pieces; ModelFileError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return DIGEST_PREFIX + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error


def partition_id(model_digest: str, tensors: Iterable[str]) -> str:
    """Return the id of the partition of a model at the crossing tensors of these names (docs/protocol.md, 1.4).

    The order in which the names are given does not matter. BadArgument when the digest is malformed, there is no
    name, one comes twice, or one cannot name a tensor.
    """
    given = list(tensors)
    if not given or len(set(given)) != len(given) or not all(map(is_tensor_name, given)):
        raise BadArgument("a partition needs at least one crossing tensor, each named once, in 1 to 512 bytes of UTF-8")
    names = sorted(name.encode() for name in given)
    state = hashlib.sha256(digest_hex(model_digest).encode("ascii"))
    for name in names:
        state.update(len(name).to_bytes(4, "big") + name)
    return state.hexdigest()[:32]
