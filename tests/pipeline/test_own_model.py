"""A detector of one's own, with a card and no code: the example of docs/models.md, through a whole session."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.numpy_helper import from_array
from onnx.parser import parse_model

from models.identity import bytes_digest
from models.zoo import Zoo
from pipeline.edge import Edge
from pipeline.offers import points
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"

GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
helmets (float[1,3,640,640] images) => (float[1,8400,7] output)
<float[1] scale = {0.003921569}, int64[3] one = {1,1,1}>
{
  small = AveragePool <kernel_shape = [32, 32], strides = [32, 32]> (images)
  features = Mul(small, scale)
  mean = ReduceMax <keepdims = 0> (features)
  spread = Reshape(mean, one)
  output = Mul(predictions, spread)
}"""


def examples() -> list[dict[str, Any]]:
    """The cards on the page: a detector's, and one of a model that detects nothing."""
    return [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)]


@pytest.fixture
def helmets(tmp_path: Path) -> Path:
    """The folder of the page's example: in a picture with something white it finds a helmet and a vest."""
    predictions = np.zeros((1, 8400, 7), np.float32)
    predictions[0, 80 * 10 + 20] = (0.5, 0.5, np.log(4), np.log(2), 1.0, 0.9, 0)  # the first level: 80 cells in a row
    predictions[0, 6400 + 1600 + 20 * 3 + 5] = (0, 0, 0, 0, 0.8, 0, 0.75)  # the last one: 20
    model = parse_model(GRAPH)
    model.graph.initializer.append(from_array(predictions, "predictions"))
    data = model.SerializeToString()
    card = examples()[0] | {"digest": bytes_digest(data), "size": len(data)}
    (tmp_path / "card.json").write_text(json.dumps(card), encoding="utf-8")
    (tmp_path / card["file"]).write_bytes(data)
    return tmp_path


@pytest.mark.usefixtures("patient_edges")
async def test_it_is_found_in_pictures_without_a_line_of_code(helmets: Path, make_feed: Any) -> None:
    settings = EdgeSettings("127.0.0.1:0", model=("helmets",), models=(helmets,))
    feed = make_feed()
    async with Edge(settings) as edge:
        assert {point.card.name for point in edge._catalogue.points} == {"helmets"}, "it serves what it is told to"
        asked = UeSettings(edge.url, model="helmets", models=(helmets,), budget=10.0, timeout=20.0)
        async with UeSession(asked) as session:
            feed.give(np.full((480, 640, 3), 255, np.uint8), None)
            async with asyncio.timeout(20):
                (result,) = [result async for result in session.run(feed)]
    assert result.detections is not None
    assert [result.label(index) for index in result.detections.classes] == ["helmet", "vest"]
    np.testing.assert_allclose(result.detections.scores, [0.9, 0.6], rtol=1e-4)
    # 640x480 lies in the input as it is.
    np.testing.assert_allclose(result.detections.xyxy, [[148, 76, 180, 92], [144, 80, 176, 112]], atol=0.05)


PEOPLE = """<ir_version: 8, opset_import: ["" : 17]>
people (float[1,256,256,3] picture) => (float[1,256,256,1] mask)
{
  brightness = ReduceMax <axes = [3]> (picture)
  mask = Sigmoid(brightness)
}"""


@pytest.mark.usefixtures("patient_edges")
async def test_so_is_a_model_of_another_task(tmp_path: Path, make_feed: Any) -> None:
    data = parse_model(PEOPLE).SerializeToString()
    card = examples()[1] | {"digest": bytes_digest(data), "size": len(data)}
    (tmp_path / "card.json").write_text(json.dumps(card), encoding="utf-8")
    (tmp_path / card["file"]).write_bytes(data)
    feed = make_feed()
    async with Edge(EdgeSettings("127.0.0.1:0", model=("people",), models=(tmp_path,))) as edge:
        asked = UeSettings(edge.url, model="people", models=(tmp_path,), budget=10.0, timeout=20.0)
        async with UeSession(asked) as session:
            feed.give(np.full((480, 640, 3), 255, np.uint8), None)
            async with asyncio.timeout(20):
                (result,) = [result async for result in session.run(feed)]
    assert result.tensors is not None
    np.testing.assert_allclose(result.tensors["mask"], np.full((1, 256, 256, 1), 1 / (1 + np.exp(-1))), rtol=1e-5)


def test_without_a_partition_one_is_found(helmets: Path) -> None:
    card = json.loads((helmets / "card.json").read_text(encoding="utf-8"))
    (helmets / "card.json").write_text(json.dumps(card | {"partitions": []}), encoding="utf-8")
    found = points(Zoo([helmets]), model="helmets")
    assert {(point.cut.name, point.cut.tensors) for point in found} == {("smallest", ("mean",))}
