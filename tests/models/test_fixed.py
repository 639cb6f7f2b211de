from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.parser import parse_model

from models.card import ModelCard
from models.fixed import fixed_model, load_whole
from models.graph import Model
from models.identity import bytes_digest
from models.partition import PartitionStore
from models.runtime import load_submodel
from models.zoo import Zoo
from splitrtc_errors import ModelFileError

OPEN = """<ir_version: 8, opset_import: ["" : 17]>
open (float[N,3,2,2] image, int64[M,2] sizes) => (int64[N,P] labels, float[N,Q,4] boxes, float[N,R] scores)
<float[1] scale = {0.003921569}, float[1] quarter = {0.25}, int64[4] twice = {1, 1, 2, 2},
 int64[3] box_shape = {1, 3, 4}, int64[2] pair = {0, 0}>
{
  early = Mul(image, scale)
  late = Relu(early)
  boxes_flat = Reshape(late, box_shape)
  real = Cast <to = 1> (sizes)
  both = Concat <axis = 1> (real, real)
  boxes = Mul(boxes_flat, both)
  scores = ReduceMean <axes = [2], keepdims = 0> (boxes_flat)
  zeros = Sub(scores, scores)
  labels = Cast <to = 7> (zeros)
}"""


def make(folder: Path, **changes: Any) -> ModelCard:
    """A card, with its file, of a model whose batch is open, and which wants the size of the picture."""
    data = parse_model(OPEN).SerializeToString()
    value = Zoo().get().to_json() | {
        "name": "open",
        "file": "open.onnx",
        "digest": bytes_digest(data),
        "size": len(data),
        "inputs": [
            {"name": "image", "type": "float32", "shape": [1, 3, 2, 2]},
            {"name": "sizes", "type": "int64", "shape": [1, 2]},
        ],
        "constants": [{"name": "sizes", "values": [2, 2]}],
        "outputs": [
            {"name": "labels", "type": "int64", "shape": [1, 3]},
            {"name": "boxes", "type": "float32", "shape": [1, 3, 4]},
            {"name": "scores", "type": "float32", "shape": [1, 3]},
        ],
        "decoding": {
            "scheme": "detr", "labels": "labels", "boxes": "boxes", "scores": "scores", "score": 0, "display_score": 0,
        },
        "labels": ["cat"],
        "partitions": [{"name": "late", "tensors": ["late"], "default": True}],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open.onnx").write_bytes(data)
    (folder / "card.json").write_text(json.dumps(value | changes), encoding="utf-8")
    return ModelCard.load(folder / "card.json")


def test_a_model_without_open_ends_is_left_as_it_is() -> None:
    card = Zoo().get()
    assert fixed_model(card).to_bytes() == Model.load(card.path).to_bytes()


def test_open_sizes_and_constants_are_fixed(tmp_path: Path) -> None:
    card = make(tmp_path)
    whole = load_whole(card, "cpu")
    assert whole.inputs == (card.image,)
    assert whole.outputs == card.outputs
    image = np.full((1, 3, 2, 2), 255, np.float32)
    labels, boxes, scores = whole.run([image])
    assert boxes.tolist() == [[[2.0] * 4] * 3]
    assert scores.tolist() == [[1.0] * 3]
    assert labels.tolist() == [[0] * 3]
    onnx.checker.check_model(fixed_model(card).proto, full_check=True)


def test_a_constant_goes_to_the_side_that_uses_it_and_does_not_cross(tmp_path: Path) -> None:
    card = make(tmp_path / "model")
    partition = PartitionStore(tmp_path / "cache").get(card, ["late"])
    assert partition.tensors == ("late",)
    assert [spec.shape for spec in partition.crossing] == [(1, 3, 2, 2)]
    head, tail = (onnx.load(path) for path in (partition.head_path, partition.tail_path))
    assert "sizes" in {tensor.name for tensor in tail.graph.initializer}
    assert "sizes" not in {tensor.name for tensor in head.graph.initializer}


def test_another_constant_makes_another_partition_of_the_same_id(tmp_path: Path) -> None:
    store = PartitionStore(tmp_path / "cache")
    features = np.ones((1, 3, 2, 2), np.float32)
    for size in (2, 4, 2):
        card = make(tmp_path / "model", constants=[{"name": "sizes", "values": [size, size]}])
        _, boxes, _ = load_submodel(store.get(card, ["late"]).tail_path, "cpu").run([features])
        assert boxes[0, 0, 0] == size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"constants": []}, "one input"),
        ({"constants": [{"name": "sizes", "values": [2, 2, 2]}]}, "a constant fills an input"),
        ({"constants": [{"name": "sizes", "values": [2, 2.5]}]}, "a constant fills an input"),
        ({"constants": [{"name": "sizes", "values": [2, 2**40]}]}, "a constant fills an input"),
        (
            {"constants": [{"name": "sizes", "values": [2, 2]}, {"name": "boxes", "values": [2] * 12}]},
            "a constant fills an input",
        ),
        ({"constants": [{"name": "sizes", "values": [2, 2]}] * 2}, "no two constants have the same name"),
        ({"constants": [{"name": "sizes", "values": ["2", 2]}]}, "a constant: 'values' is a list of finite numbers"),
        ({"constants": [{"name": "sizes", "values": [2, 2], "more": 1}]}, "a constant: unknown 'more'"),
    ],
)
def test_constants_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        make(tmp_path, **changes)


def test_a_card_of_other_ends_is_refused(tmp_path: Path) -> None:
    image = {"name": "picture", "type": "float32", "shape": [1, 3, 2, 2]}
    sizes = {"name": "sizes", "type": "int64", "shape": [1, 2]}
    with pytest.raises(ModelFileError, match="describes other inputs than its file has"):
        fixed_model(make(tmp_path, inputs=[image, sizes]))
    with pytest.raises(ModelFileError, match=r"says .*\[1x3x2x4\], its file has the shape \[0, 3, 2, 2\]"):
        fixed_model(make(tmp_path, inputs=[{**image, "name": "image", "shape": [1, 3, 2, 4]}, sizes]))


def test_sizes_that_the_graph_contradicts_are_refused(tmp_path: Path) -> None:
    outputs = [
        {"name": "labels", "type": "int64", "shape": [1, 5]},
        {"name": "boxes", "type": "float32", "shape": [1, 5, 4]},
        {"name": "scores", "type": "float32", "shape": [1, 5]},
    ]
    card = make(tmp_path, outputs=outputs)
    with pytest.raises(ModelFileError):
        PartitionStore(tmp_path / "cache").get(card, ["late"])


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    data = b"no model"
    (tmp_path / "open.onnx").write_bytes(data)
    card = make(tmp_path, digest=bytes_digest(data), size=len(data))
    card.path.write_bytes(data)
    with pytest.raises(ModelFileError, match="is not an ONNX model"):
        fixed_model(card)


@pytest.mark.parametrize("name", ["deimv2_atto", "deimv2_femto"])
def test_a_published_model_with_open_ends_runs_and_computes_the_same(name: str, shared_dir: Path) -> None:
    import onnxruntime

    card = Zoo([shared_dir / "models"]).get(name)
    width, height = card.image_size
    image = np.random.default_rng(0).random(card.image.shape).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(card.verified_path(), options)
    expected = session.run(None, {"images": image, "orig_target_sizes": np.array([[width, height]])})
    for wanted, found in zip(expected, load_whole(card, "cpu", optimise=False).run([image]), strict=True):
        np.testing.assert_array_equal(wanted, found)
