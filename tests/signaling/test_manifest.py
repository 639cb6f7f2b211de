from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from referencing import Registry, Resource

import models.information
import signaling.manifest
from signaling.manifest import MAX_BYTES, MAX_FILE, File, Manifest, manifest_bytes, read_manifest
from splitrtc_errors import ModelFileError, ProtocolError
from tests.signaling.manifests import DIGEST, MANIFEST, manifests

SCHEMA = json.loads(Path(signaling.manifest.__file__).with_name("manifest.schema.json").read_bytes())
INFORMATION = json.loads(Path(models.information.__file__).with_name("information.schema.json").read_bytes())
VALIDATOR = jsonschema.Draft202012Validator(
    SCHEMA, registry=Registry().with_resource("information.schema.json", Resource.from_contents(INFORMATION))
)


@given(manifests)
def test_what_is_written_is_read_again_and_fits_the_schema(manifest: Manifest) -> None:
    data = manifest_bytes(manifest)
    assert read_manifest(data) == manifest
    VALIDATOR.validate(json.loads(data))


def test_the_json_form_is_stable() -> None:
    value = json.loads(manifest_bytes(MANIFEST))
    assert (value["format"], value["kind"], value["api"], value["state"]) == (1, "manifest", 1, "ready")
    assert value["load"] == {"sessions": 2, "max_sessions": 100, "queue_ms": 0.5}
    assert value["limits"] == {"max_offers": 16, "max_fps": 60.0, "reservation_ms": 10_000.0}
    model = value["models"][0]
    assert model["information"] == MANIFEST.models[0].information.to_json()
    assert model["whole"] == {"digest": DIGEST, "size": 1_000_000, "name": "tiny.onnx"}
    assert model["partitions"][1] == {
        "id": MANIFEST.models[0].partitions[1].id,
        "name": "late",
        "variants": [
            {"name": "fp32", "head_macs": 480_000_000, "head_ms": 25.0},
            {"name": "int8", "accuracy": 28.0},
        ],
        "tail_ms": 4.0,
        "carries_input": False,
        "profiles": [{"profile": "q4-zstd", "bytes": 6000.0}],
    }


def test_models_and_files_are_found() -> None:
    assert MANIFEST.model(DIGEST) is MANIFEST.models[0]
    assert MANIFEST.model("sha-256:" + 64 * "0") is None
    assert File(DIGEST, 1, "x").path == "/files/" + DIGEST.removeprefix("sha-256:")


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def changed(where: str, value: Any) -> bytes:
    """MANIFEST's JSON with another value at a path; without it for None."""
    content = json.loads(manifest_bytes(MANIFEST))
    *steps, last = [int(step) if step.isdigit() else step for step in where.split(".")]
    at: Any = content
    for step in steps:
        at = at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return json.dumps(content).encode()


PARTITION = "models.0.partitions.0"


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("format", 2, "'format' is not 1"),
        ("kind", "model", "'kind' is not manifest"),
        ("api", 2, "'api' is not 1"),
        ("api", True, "'api' is a int"),
        ("api", None, "'api' is missing"),
        ("state", "tired", "'state' is ready or warming"),
        ("service.name", "", "service: 'name' is a text"),
        ("load.sessions", -1, "load: 'sessions' is between 0"),
        ("load.sessions", None, "load: 'sessions' is missing"),
        ("limits.max_fps", "many", "limits: 'max_fps' is a float"),
        ("capabilities.kind", "service", "capabilities: 'kind' is endpoint"),
        ("capabilities.format", 2, "capabilities: 'format' is not 1"),
        ("capabilities.cores", 0, "'cores' is between 1"),
        ("models", [{}] * 65, "'models' has at most 64"),
        ("models", json.loads(manifest_bytes(MANIFEST))["models"] * 2, "'models' tells something twice"),
        ("models.0.information.identifier", "abc", "models 0: information: 'identifier' is"),
        ("models.0.deliver", "tail", "'deliver' is head or whole or none"),
        ("models.0.deliver", "head", "does not let out"),
        ("models.0.card", None, "'card' is missing"),
        ("models.0.card.digest", "sha-256:00", "card: 'digest' is 'sha-256:'"),
        ("models.0.card.name", "../card.json", "card: 'name' is made of letters"),
        ("models.0.card.size", 0, "card: 'size' is between 1"),
        ("models.0.card.size", MAX_FILE + 1, "card: 'size' is between 1"),
        (f"{PARTITION}.id", "xyz", "partitions 0: 'id' is 32 lower-case"),
        (f"{PARTITION}.id", 32 * "0", "is one of the model's split points"),
        (f"{PARTITION}.carries_input", 0, "'carries_input' is a bool"),
        (f"{PARTITION}.profiles.0.profile", "NONE !", "profiles 0: 'profile' is the id"),
        (f"{PARTITION}.profiles.0.f1", 1.5, "'f1' is between 0 and 1"),
        (f"{PARTITION}.profiles.1.profile", "raw", "'profiles' tells something twice"),
        (f"{PARTITION}.variants.0.head", 3, "'head' is a dict"),
        (f"{PARTITION}.variants.0.other", 3, "unknown 'other'"),
        ("other", 1, "unknown 'other'"),
    ],
)
def test_what_is_wrong_is_said(where: str, value: Any, message: str) -> None:
    with pytest.raises(ProtocolError, match=message) as caught:
        read_manifest(changed(where, value), "edge x")
    assert str(caught.value).startswith("edge x: ")


def test_with_none_no_head_leaves() -> None:
    model = MANIFEST.models[0].to_json() | {"deliver": "none"}
    del model["whole"]
    with pytest.raises(ModelFileError, match="does not let out"):
        type(MANIFEST.models[0]).from_json(model, "model")


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"format": 1, "format": 1}', b" " * (MAX_BYTES + 1)])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_manifest(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(manifests, st.data())
def test_what_is_read_fits_the_schema_and_all_else_is_refused(manifest: Manifest, data: st.DataObject) -> None:
    content = json.loads(manifest_bytes(manifest))
    at: Any = content
    while True:  # somewhere in it, another value
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if isinstance(at[key], dict | list) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = data.draw(json_values)
        break
    try:
        read_manifest(json.dumps(content).encode())
    except ProtocolError:
        return
    VALIDATOR.validate(content)


def test_reading_loads_no_heavy_library() -> None:
    code = (
        "import sys\nfrom signaling.manifest import read_manifest\n"
        "print(*sorted({'numpy', 'onnx', 'onnxruntime', 'aiohttp', 'jsonschema'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
