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

import models.information
from models.identity import bytes_digest, partition_id
from models.information import (
    MAX_BYTES,
    EndpointCapabilities,
    Information,
    IntermediateData,
    ModelInformation,
    ServiceRequirements,
    SplitPoint,
    information_bytes,
    read_information,
)
from models.tensor import ITEM_SIZES, TensorSpec
from splitrtc_errors import ModelFileError

SCHEMA = json.loads(Path(models.information.__file__).with_name("information.schema.json").read_bytes())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
DIGEST = bytes_digest(b"a model")

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
counts = st.none() | st.integers(0, 10**12)
numbers = st.none() | st.floats(0, 1e9)
shares = st.none() | st.floats(0, 100)
profile_lists = st.lists(st.sampled_from(["raw", "q4-zstd", "klt:step=1.5"]), max_size=3).map(tuple)
specs = st.builds(
    TensorSpec, texts, st.sampled_from(sorted(ITEM_SIZES)), st.lists(st.integers(1, 9), max_size=4).map(tuple)
)


def several(least: int) -> st.SearchStrategy[tuple[TensorSpec, ...]]:
    return st.lists(specs, min_size=least, max_size=3, unique_by=lambda spec: spec.name).map(tuple)


points = st.builds(
    lambda number, name, flag, data: SplitPoint.of(DIGEST, number, name, flag, data),
    st.integers(0, 4096),
    texts,
    st.sampled_from(["before", "after"]),
    st.builds(IntermediateData, several(1), st.sampled_from(["up", "down"]), profile_lists, texts),
)
everything: st.SearchStrategy[Information] = st.one_of(
    st.builds(
        ModelInformation,
        st.just(DIGEST),
        texts,
        texts,
        st.integers(1, 10**12),
        several(0),
        several(0),
        counts,
        counts,
        counts,
        shares,
        numbers,
        st.lists(points, max_size=3).map(tuple),
    ),
    st.builds(ServiceRequirements, texts, numbers, shares, shares),
    st.builds(EndpointCapabilities, st.lists(texts, max_size=3).map(tuple), profile_lists, numbers, counts, numbers),
)

IMAGE = TensorSpec("image", "float32", (1, 3, 8, 8))
FEATURES = IntermediateData((TensorSpec("b", "float32", (1, 4, 2, 2)), TensorSpec("a", "int8", (5,))), "up", ("raw",))
MODEL = ModelInformation(
    identifier=DIGEST,
    name="tiny",
    framework="ONNX IR 8, ai.onnx 17",
    size=999,
    inputs=(IMAGE,),
    outputs=(TensorSpec("scores", "float32", (1, 10)),),
    parameters=100,
    macs=2000,
    memory=4000,
    accuracy=30.5,
    target_latency=12.0,
    split_points=(SplitPoint.of(DIGEST, 0, "Conv_1", "after", FEATURES),),
)


@given(everything)
def test_what_is_written_is_read_again_and_fits_the_schema(information: Information) -> None:
    data = information_bytes(information)
    assert read_information(data) == information
    VALIDATOR.validate(json.loads(data))


def test_the_json_form_is_stable() -> None:
    assert MODEL.to_json() == {
        "format": 1,
        "kind": "model",
        "identifier": DIGEST,
        "name": "tiny",
        "framework": "ONNX IR 8, ai.onnx 17",
        "size": 999,
        "parameters": 100,
        "macs": 2000,
        "memory": 4000,
        "accuracy": 30.5,
        "target_latency": 12.0,
        "inputs": [{"name": "image", "type": "float32", "shape": [1, 3, 8, 8]}],
        "input_size": 768,
        "outputs": [{"name": "scores", "type": "float32", "shape": [1, 10]}],
        "output_size": 40,
        "split_points": [
            {
                "identifier": partition_id(DIGEST, ["a", "b"]),
                "number": 0,
                "name": "Conv_1",
                "flag": "after",
                "data": {
                    "structure": "splitrtc 1",
                    "tensors": [
                        {"name": "b", "type": "float32", "shape": [1, 4, 2, 2]},
                        {"name": "a", "type": "int8", "shape": [5]},
                    ],
                    "direction": "up",
                    "profiles": ["raw"],
                    "size": 69,
                },
            }
        ],
    }


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def changed(where: str, value: Any) -> bytes:
    """MODEL's JSON with another value at a path, as in ``split_points.0.name``; without it for None."""
    content = MODEL.to_json()
    *steps, last = [int(step) if step.isdigit() else step for step in where.split(".")]
    at: Any = content
    for step in steps:
        at = at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("format", 2, "'format' is not 1"),
        ("format", None, "'format' is missing"),
        ("kind", "other", "'kind' is model or service or endpoint"),
        ("identifier", "abc", "'identifier' is 'sha-256:'"),
        ("name", "", "'name' is a text of 1 to 512 characters"),
        ("name", "\ud800", "'name' is a text"),
        ("size", 0, "'size' is between 1"),
        ("parameters", -1, "'parameters' is between 0"),
        ("parameters", 1.5, "'parameters' is a int"),
        ("macs", 10**400, "'macs' is between 0"),
        ("target_latency", 10**400, "'target_latency' is a float"),
        ("accuracy", 100.5, "'accuracy' is between 0 and 100"),
        ("accuracy", True, "'accuracy' is a float"),
        ("input_size", 1, "'input_size' and 'output_size' are the bytes"),
        ("inputs", [IMAGE.to_json()] * 2, "each of another name"),
        ("split_points", [{}] * 5000, "at most 4096 split points"),
        ("split_points.0.identifier", 32 * "0", "split point 0: 'identifier' is not that of its model and tensors"),
        ("split_points.0.number", None, "'number' is missing"),
        ("split_points.0.flag", "within", "'flag' is before or after"),
        ("split_points.0.data.size", 70, "'size' is the bytes of the tensors, 69"),
        ("split_points.0.data.direction", "sideways", "'direction' is up or down"),
        ("split_points.0.data.profiles", ["NONE !"], "'profiles' are ids"),
        ("split_points.0.data.profiles", [3], "'profiles' is a list of at most 64 texts"),
        ("split_points.0.data.tensors", [], "'size' is the bytes"),
        ("split_points.0.data.tensors.0.shape", [1, -4], "a shape has"),
        ("split_points.0.other", 1, "unknown 'other'"),
        ("other", 1, "unknown 'other'"),
    ],
)
def test_what_is_wrong_is_said(where: str, value: Any, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        read_information(changed(where, value), "file x")
    assert str(caught.value).startswith("file x: ")


def test_a_split_point_without_tensors_is_none() -> None:
    point = MODEL.split_points[0].to_json()
    point["data"] |= {"tensors": [], "size": 0}
    with pytest.raises(ModelFileError, match="identifier"):
        SplitPoint.from_json(point, DIGEST, "point")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"format": 1, "format": 1}',
        b'{"format": NaN}',
        b"[" * 100_000,
        b" " * (MAX_BYTES + 1),
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError):
        read_information(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(everything, st.data())
def test_what_is_read_fits_the_schema_and_all_else_is_refused(information: Information, data: st.DataObject) -> None:
    content = information.to_json()
    at: Any = content
    while True:  # somewhere in it, another value
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if isinstance(at[key], dict | list) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = data.draw(json_values)
        break
    try:
        read_information(json.dumps(content).encode())
    except ModelFileError:
        return
    VALIDATOR.validate(content)


def test_reading_loads_no_heavy_library() -> None:
    code = (
        "import sys\nfrom models.information import read_information\n"
        "print(*sorted({'numpy', 'onnx', 'onnxruntime', 'jsonschema'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
