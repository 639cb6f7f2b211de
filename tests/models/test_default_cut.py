from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx.numpy_helper import from_array
from onnx.parser import parse_model

from models.card import ModelCard
from models.default_cut import DEFAULT_CUT, default_cut, with_cut
from models.identity import bytes_digest
from models.zoo import Zoo
from splitrtc_errors import CutError


def test_the_smallest_tensor_of_the_first_half_is_found(shared_dir: Path) -> None:
    card = Zoo([shared_dir / "models"]).get("yolox_nano")
    assert default_cut(card) == "1204", "which is also what measurements found best"


def test_of_the_bundled_model_the_same_cut_is_found_as_its_card_recommends() -> None:
    card = Zoo().get()
    assert (default_cut(card),) == card.default_partition.tensors


def test_a_card_with_partitions_is_left_as_it_is() -> None:
    card = Zoo().get()
    assert with_cut(card) is card


def make(folder: Path, graph: str, **weights: tuple[int, ...]) -> ModelCard:
    model = parse_model(graph)
    model.graph.initializer.extend(from_array(np.ones(shape, np.float32), name) for name, shape in weights.items())
    data = model.SerializeToString()
    value = Zoo().get().to_json() | {
        "name": "net",
        "file": "net.onnx",
        "digest": bytes_digest(data),
        "size": len(data),
        "inputs": [{"name": "image", "type": "float32", "shape": [1, 3, 8, 8]}],
        "outputs": [
            {"name": "scores", "type": "float32", "shape": [1, 4, 2]},
            {"name": "boxes", "type": "float32", "shape": [1, 4, 1, 4]},
        ],
        "labels": ["cat", "dog"],
        "decoding": {
            "scheme": "ssd", "scores": "scores", "boxes": "boxes", "iou": 0.5, "score": 0.3, "display_score": 0.5,
        },
        "partitions": [],
        "profiles": ["raw"],
        "default_profile": "raw",
    }  # fmt: skip
    (folder / "net.onnx").write_bytes(data)
    (folder / "card.json").write_text(json.dumps(value), encoding="utf-8")
    return ModelCard.load(folder / "card.json")


BRANCHES = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,8,8] image) => (float[1,4,2] scores, float[1,4,1,4] boxes)
<int64[1] zero = {0}, int64[1] eight = {8}, int64[1] sixteen = {16}, int64[1] one = {1}, int64[2] flat = {1, 192},
 int64[3] score_shape = {1,4,2}, int64[4] box_shape = {1,4,1,4}>
{
  up = Relu(image)
  down = Neg(image)
  up_flat = Reshape(up, flat)
  down_flat = Reshape(down, flat)
  a = Slice(up_flat, zero, eight, one)
  b = Slice(down_flat, zero, sixteen, one)
  scores = Reshape(a, score_shape)
  boxes = Reshape(b, box_shape)
}"""


def test_a_model_that_no_single_tensor_cuts_has_to_say_where(tmp_path: Path) -> None:
    with pytest.raises(CutError, match="no tensor cuts model net alone: name the tensors of a partition in its card"):
        with_cut(make(tmp_path, BRANCHES))


CHAIN = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,8,8] image) => (float[1,4,2] scores, float[1,4,1,4] boxes)
<int64[1] zero = {0}, int64[1] eight = {8},
 int64[1] sixteen = {16}, int64[1] one = {1}, int64[2] flat = {1, 96}, int64[3] score_shape = {1,4,2},
 int64[4] box_shape = {1,4,1,4}>
{
  first = Conv(image, w1)
  second = Conv <strides = [2, 2]> (first, w2)
  third = Conv(second, w3)
  fourth = Reshape(third, flat)
  a = Slice(fourth, zero, eight, one)
  b = Slice(fourth, zero, sixteen, one)
  scores = Reshape(a, score_shape)
  boxes = Reshape(b, box_shape)
}"""


def test_what_has_more_than_half_of_the_work_before_it_is_not_taken(tmp_path: Path) -> None:
    # 768 + 1536 + 576 operations: after `second`, which is smaller than `first`, 80 % are done.
    card = with_cut(make(tmp_path, CHAIN, w1=(4, 3, 1, 1), w2=(6, 4, 2, 2), w3=(6, 6, 1, 1)))
    (cut,) = card.partitions
    assert (cut.name, cut.tensors, cut.calibration, cut.default) == (DEFAULT_CUT, ("first",), None, True)
    assert card.default_partition is cut
