from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, external_data_helper
from onnx.parser import parse_model

from benchmarks.architectures import external
from models.graph import Model, after, split, sweep
from models.graph.file import read_model
from models.graph.running import Runner, whole
from splitrtc_errors import ModelFileError, UserError

ROOT = Path(__file__).parents[3]

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,4] x) => (float[1,4] y) <float[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, float[4,4] v = {
  16,15,14,13,12,11,10,9,8,7,6,5,4,3,2,1}>
{ a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A model whose weights are in another file."""
    proto = parse_model(TEXT)
    for tensor in proto.graph.initializer:
        tensor.raw_data = np.array(tensor.float_data, np.float32).tobytes()
        tensor.ClearField("float_data")
    external_data_helper.convert_model_to_external_data(proto, location="weights.bin", size_threshold=0)
    onnx.save(proto, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def entry(proto: ModelProto, key: str, value: str) -> None:
    for item in proto.graph.initializer[1].external_data:
        if item.key == key:
            item.value = value
            return
    proto.graph.initializer[1].external_data.add(key=key, value=value)


def spoil(path: Path, change: Callable[[ModelProto], None]) -> None:
    proto = onnx.load(path, load_external_data=False)
    change(proto)
    path.write_bytes(proto.SerializeToString())


GOOD: bytes = parse_model(TEXT).SerializeToString()


@pytest.mark.parametrize("data", [b"", b"no model", b"\xff" * 100, GOOD[:-20], b"\x08\x08"])
def test_what_is_no_model_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(ModelFileError, match="is not an ONNX model"):
        Model.load(tmp_path / "bad.onnx")
    with pytest.raises(ModelFileError, match="the model is not an ONNX model"):
        Model.load(data)


@given(data=st.binary(max_size=200), at=st.integers(0, 400))
def test_any_bytes_are_a_model_or_refused(data: bytes, at: int) -> None:
    for mixed in (data, GOOD[:at] + data + GOOD[at + len(data) :]):
        with contextlib.suppress(ModelFileError):
            Model.load(mixed)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot read .*nothing.onnx: No such file"):
        Model.load(tmp_path / "nothing.onnx")


def test_wrong_types_are_told() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, int64[2] n) => (float[2] y) { y = Add(x, n) }'
    with pytest.raises(ModelFileError, match="the model is damaged: .*inconsistent type"):
        Model(parse_model(text))


def test_a_file_beyond_two_gigabytes_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelFileError, match="larger than 2 GB"):
        Model.load(tmp_path / "large.onnx")


def test_weights_in_other_files_are_cut_with_the_model(outside: Path, tmp_path: Path) -> None:
    model = Model.load(outside)
    x = np.ones((1, 4), np.float32)
    expected = Runner(whole(model)).run({"x": x})["y"]
    head, tail = split(model, [after(model.graph, "Relu#1")])
    (tmp_path / "parts").mkdir()
    files = [part.write(tmp_path / "parts" / name) for part, name in ((head, "head.onnx"), (tail, "tail.onnx"))]
    assert [[path.name for path in each] for each in files] == [
        ["head.onnx", "head.onnx.data"],
        ["tail.onnx", "tail.onnx.data"],
    ]
    outside.with_name("weights.bin").unlink()
    values = {"x": x}
    for path, data in files:
        assert data.stat().st_size < 2 * 4096
        onnx.checker.check_model(str(path), full_check=True)
        values = Runner(whole(Model.load(path))).run(values)
    np.testing.assert_array_equal(values["y"], expected)
    with pytest.raises(ModelFileError, match="weights are in other files"):
        head.to_bytes()


def test_every_cut_of_a_model_with_weights_in_other_files(outside: Path) -> None:
    result = sweep(Model.load(outside))
    assert result.cuts == result.verified == 3


def test_weights_in_other_files_need_the_model_s_path(outside: Path) -> None:
    with pytest.raises(ModelFileError, match="read the model from its file, not its bytes"):
        Model.load(outside.read_bytes())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../model/weights.bin", "not in the model's own folder"),
        ("location", "/etc/passwd", "not in the model's own folder"),
        ("location", "sub/../../weights.bin", "not in the model's own folder"),
        ("location", "link.bin", "not in the model's own folder"),
        ("location", "", "not in the model's own folder"),
        ("location", "nothing.bin", "should be in .*nothing.bin, which is not there"),
        ("offset", "1000000", "should be bytes 1000000 to 1000064 of"),
        ("offset", "-1", "should be bytes -1 to"),
        ("offset", "many", "offset or length in .* is no number"),
        ("length", "63", "need 64 bytes, and 63 are set aside"),
    ],
)
def test_weights_that_are_not_where_they_should_be(outside: Path, key: str, value: str, message: str) -> None:
    (outside.parent / "link.bin").symlink_to("/etc/passwd")
    spoil(outside, lambda proto: entry(proto, key, value))
    with pytest.raises(ModelFileError, match=message):
        Model.load(outside)


def test_weights_in_constants_and_bodies_are_looked_at_too(outside: Path) -> None:
    def hide(proto: ModelProto) -> None:
        tensor = TensorProto(name="hidden", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="../secret")
        node = proto.graph.node.add(op_type="Constant", output=["hidden"])
        node.attribute.append(onnx.helper.make_attribute("value", tensor))

    spoil(outside, hide)
    with pytest.raises(ModelFileError, match="the weights 'hidden' are said to be in '../secret'"):
        read_model(outside)


def test_a_part_that_cannot_be_written_leaves_nothing(outside: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on a process are POSIX's")
    head, _ = split(model := Model.load(outside), [after(model.graph, "Relu#1")])
    (tmp_path / "parts").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*head.onnx: File too large"):
            head.write(tmp_path / "parts" / "head.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "parts").iterdir())


MEASURE = """
import json, sys
from pathlib import Path
from models.graph import Model, after, split
def most(what):
    return int(Path("/proc/self/status").read_text().partition(what)[2].split()[0]) / 1024
before = most("VmRSS:")
model = Model.load(Path(sys.argv[1]))
folder = Path(sys.argv[2])
files = []
for part, name in zip(split(model, [after(model.graph, "Relu_7")]), ("head.onnx", "tail.onnx")):
    files += map(str, part.write(folder / name))
print(json.dumps({"mb": most("VmHWM:") - before, "files": files}))
"""


def test_three_gigabytes_of_weights_are_cut_in_little_memory(tmp_path: Path) -> None:
    if not hasattr(os, "SEEK_DATA") or not Path("/proc/self/status").exists():
        pytest.skip("without sparse files this takes 3 GB of disk; memory is read from Linux's /proc")
    external(tmp_path / "big.onnx", gigabytes=3.0)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "big.onnx"), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0 < found["mb"] < 300
    sizes = [Path(path).stat().st_size for path in found["files"]]
    assert sum(sizes) > 3e9
    assert sum(Path(path).stat().st_blocks * 512 for path in found["files"]) < 1e6, "holes stay holes"
    assert len(Model.load(Path(found["files"][2])).proto.graph.initializer) == 4
