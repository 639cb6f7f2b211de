from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.parser import parse_model

from models import load_submodel
from splitrtc_errors import BadArgument, CutError, ModelError, ModelFileError, UnknownModel, UserError

Call = Callable[..., Any]

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,4] x) => (float[1,4] y) <int64[2] same = {1, 4}>
{ a = Relu(x) b = Neg(a) c = Reshape(b, same) y = Add(c, a) }"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A model of four nodes."""
    (tmp_path / "model.onnx").write_bytes(parse_model(TEXT).SerializeToString())
    return str(tmp_path / "model.onnx")


def test_a_model_is_split_in_two(splitrtc: Call, file: str, tmp_path: Path) -> None:
    done = splitrtc("models", "split", file, "--after", "Relu#0", "--out", str(tmp_path / "out"), "--json")
    assert (done.exit_code, done.err) == (0, "")
    value = done.json
    assert value["cuts"] == [
        {"tensors": [{"name": "a", "kind": "tensor", "type": "float32", "shape": [1, 4]}], "carries_input": False}
    ]
    assert value["verified"]
    paths = [part["files"][0] for part in value["parts"]]
    assert [Path(path).name for path in paths] == ["head.onnx", "tail.onnx"]
    assert [part["nodes"] for part in value["parts"]] == [1, 3]
    head, tail = (load_submodel(Path(path), "cpu") for path in paths)
    x = np.array([[1, -2, 3, -4]], np.float32)
    np.testing.assert_array_equal(tail.run(head.run([x]))[0], np.zeros((1, 4)))


def test_several_cuts_make_several_parts(splitrtc: Call, file: str, tmp_path: Path) -> None:
    done = splitrtc("models", "split", file, "--up-to", "Neg#1", "--after", "Relu#0", "--out", str(tmp_path))
    assert done.exit_code == 0
    assert {path.name for path in tmp_path.glob("part-*")} == {"part-1.onnx", "part-2.onnx", "part-3.onnx"}
    assert done.out.count("float32[1x4]") == 3  # a, then a and b


def test_the_table_says_that_the_picture_crosses(splitrtc: Call, file: str, tmp_path: Path) -> None:
    done = splitrtc("models", "split", file, "--before", "Relu#0", "--out", str(tmp_path))
    assert "a model input crosses" in " ".join(done.out.split())


def test_tensors_are_named_with_commas_between(splitrtc: Call, file: str, tmp_path: Path) -> None:
    done = splitrtc("models", "split", file, "--at", "a,b", "--out", str(tmp_path), "--json", "--unchecked")
    assert [tensor["name"] for tensor in done.json["cuts"][0]["tensors"]] == ["a", "b"]
    assert not done.json["verified"]


def test_the_batch_of_the_tail_is_freed(splitrtc: Call, file: str, tmp_path: Path) -> None:
    done = splitrtc("models", "split", file, "--after", "Relu#0", "--batch", "--out", str(tmp_path), "--json")
    assert done.json["parts"][1]["inputs"][0]["shape"] == ["batch", 4]
    assert onnx.load(tmp_path / "tail.onnx").graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_free_dimensions_are_fixed(splitrtc: Call, tmp_path: Path) -> None:
    (tmp_path / "free.onnx").write_bytes(parse_model(TEXT.replace("[1,4]", "[N,4]")).SerializeToString())
    words = ["models", "split", str(tmp_path / "free.onnx"), "--after", "Relu#0", "--out", str(tmp_path), "--json"]
    assert splitrtc(*words).json["cuts"][0]["tensors"][0]["shape"] == ["N", 4]
    assert splitrtc(*words, "--shape", "x=1x4", "--fix").json["cuts"][0]["tensors"][0]["shape"] == [1, 4]


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ([], BadArgument, "where to cut?"),
        (["--after", "Relu#9"], CutError, "no node 'Relu#9'"),
        (["--at", "a,q"], CutError, "no tensor 'q'"),
        (["--after", "Relu#0", "--shape", "x"], BadArgument, "a shape is NAME=1x3x320x320, not 'x'"),
        (["--after", "Relu#0", "--shape", "x=1x-4"], BadArgument, "a shape is"),
        (["--after", "Relu#0", "--shape", "q=1x4"], BadArgument, "no input q"),
        (["--after", "Relu#0", "--out", "/dev/null/x"], UserError, "cannot make the folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    splitrtc: Call, file: str, words: list[str], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    done = splitrtc("models", "split", file, "--out", str(tmp_path), *words)
    assert done.exit_code == kind.exit_code  # type: ignore[attr-defined]
    assert message in done.error
    assert done.out == ""


def test_a_model_that_is_not_there_is_told(splitrtc: Call, tmp_path: Path) -> None:
    done = splitrtc("models", "split", str(tmp_path / "no.onnx"), "--after", "x")
    assert done.exit_code == UnknownModel.exit_code
    assert "is neither a model of the zoo (deimv2_atto, " in done.error
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    assert splitrtc("models", "verify", str(tmp_path / "bad.onnx"), "--all").exit_code == ModelFileError.exit_code


def test_one_cut_is_verified(splitrtc: Call, file: str) -> None:
    done = splitrtc("models", "verify", file, "--after", "Neg#1", "--json")
    assert done.exit_code == 0
    assert (done.json["exact"], done.json["outputs"][0]["name"]) == (True, "y")
    assert "bit for bit" in splitrtc("models", "verify", file, "--after", "Neg#1", "--optimised").out


def test_real_inputs_are_read(splitrtc: Call, file: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "real.npz", x=np.ones((1, 4), np.float32))
    words = ["models", "verify", file, "--after", "Neg#1", "--inputs"]
    assert splitrtc(*words, str(tmp_path / "real.npz")).exit_code == 0
    np.savez(tmp_path / "other.npz", z=np.ones(3))
    assert "no array for the input x" in splitrtc(*words, str(tmp_path / "other.npz")).error
    assert "an .npz file is expected" in splitrtc(*words, file).error


def test_every_node_is_verified(splitrtc: Call, file: str) -> None:
    done = splitrtc("models", "verify", file, "--all", "--json", "--workers", "2")
    assert (done.exit_code, done.err) == (0, "")
    value = done.json
    assert {key: value[key] for key in ("nodes", "cuts", "verified", "exceptions", "different")} == {
        "nodes": 4,
        "cuts": 4,
        "verified": 4,
        "exceptions": [],
        "different": [],
    }
    assert value["inputs"] == {"x": [1, 4]}
    assert "4" in splitrtc("models", "verify", file, "--all").out


def test_a_sample_of_the_zoo_s_model_is_verified(splitrtc: Call) -> None:
    done = splitrtc("models", "verify", "ssdlite_mbv2_coco_300", "--all", "--sample", "3", "--json")
    assert (done.json["nodes"], done.json["cuts"], done.json["verified"]) == (227, 3, 3)


@pytest.mark.parametrize("words", [[], ["--all", "--after", "Relu#0"]])
def test_either_a_cut_or_all(splitrtc: Call, file: str, words: list[str]) -> None:
    done = splitrtc("models", "verify", file, *words)
    assert done.exit_code == BadArgument.exit_code
    assert "which cut?" in done.error


def test_parts_that_differ_are_an_error(splitrtc: Call, tmp_path: Path) -> None:
    text = TEXT.replace("b = Neg(a)", "r = RandomUniformLike(a) b = Add(a, r)")
    (tmp_path / "chance.onnx").write_bytes(parse_model(text).SerializeToString())
    done = splitrtc("models", "verify", str(tmp_path / "chance.onnx"), "--all", "--json")
    assert (done.exit_code, done.out) == (ModelError.exit_code, "")
    assert "two runs of the whole model" in done.error


@pytest.mark.parametrize("name", ["split", "verify"])
def test_each_helps_with_examples(splitrtc: Call, name: str) -> None:
    done = splitrtc("models", name, "--help")
    assert done.exit_code == 0
    assert f"  splitrtc models {name}" in done.out.partition("Examples:")[2]
    json.dumps(done.out)
