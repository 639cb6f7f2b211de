"""The vectors of docs/announcement.md and of docs/protocol.md section 1.6: a manifest, and the messages."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from signaling.applications import REQUESTS, read_request, read_response
from signaling.manifest import manifest_bytes, read_manifest
from splitrtc_errors import ProtocolError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "announcement.json").read_text(encoding="utf-8"))


def vectors(kind: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[kind]]


def test_the_manifest_is_read_and_written() -> None:
    manifest = read_manifest(json.dumps(VECTORS["manifest"]).encode())
    assert json.loads(manifest_bytes(manifest)) == VECTORS["manifest"]


@pytest.mark.parametrize("vector", vectors("manifests_refused"))
def test_a_manifest_that_is_wrong_is_refused(vector: dict[str, Any]) -> None:
    content = copy.deepcopy(VECTORS["manifest"])
    *steps, last = vector["path"]
    at = content
    for step in steps:
        at = at[step]
    if vector["value"] is None:
        del at[last]
    else:
        at[last] = vector["value"]
    with pytest.raises(ProtocolError):
        read_manifest(json.dumps(content).encode())


@pytest.mark.parametrize("vector", vectors("messages"))
def test_a_message_is_read_and_written(vector: dict[str, Any]) -> None:
    read = read_request if vector["type"] in REQUESTS else read_response
    assert read(vector["type"], vector["value"]).to_json() == vector["value"]


@pytest.mark.parametrize("vector", vectors("refused"))
def test_a_message_that_is_wrong_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        read_request(vector["type"], vector["value"])
