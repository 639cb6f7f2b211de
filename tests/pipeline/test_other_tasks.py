"""Models that detect nothing: their outputs come back as tensors, by a card and no code, as the whole model gives them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx.parser import parse_model

from models import ModelCard, Preprocessor
from models.fixed import load_whole
from models.identity import bytes_digest, file_digest
from pipeline.edge import Edge
from pipeline.outcome import FrameResult
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession

pytestmark = pytest.mark.usefixtures("patient_edges")

WAIT = 30.0

GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
scene (float[1,3,8,8] picture) => (float[1,3,64,64] larger, int64[1,1,8,8] classes, float brightest)
<float[4] scales = {1, 1, 8, 8}>
{
  features = Relu(picture)
  larger = Resize <mode = "linear"> (features, , scales)
  classes = ArgMax <axis = 1> (features)
  brightest = ReduceMax <keepdims = 0> (features)
}"""


def f32(name: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "type": "float32", "shape": list(shape)}


def picture(layout: str = "NCHW", mean: float = 0.0, scale: float = 1.0) -> dict[str, Any]:
    return {"resize": "stretch", "order": "RGB", "layout": layout, "mean": [mean] * 3, "scale": [scale] * 3}


def write_card(folder: Path, name: str, digest: str, size: int, **members: Any) -> Path:
    card = {
        "format": 1,
        "name": name,
        "title": name,
        "task": "tensors",
        "file": f"{name}.onnx",
        "digest": digest,
        "size": size,
        "licence": "none",
        "source": "made for tests",
        "accuracy": "none",
        "profiles": ["raw-zstd", "raw"],
        "default_profile": "raw-zstd",
        **members,
    }
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """The folder of a small model with three outputs of different types and ranks."""
    data = parse_model(GRAPH).SerializeToString()
    (tmp_path / "scene.onnx").write_bytes(data)
    outputs = [f32("larger", 1, 3, 64, 64), {"name": "classes", "type": "int64", "shape": [1, 1, 8, 8]}, f32("brightest")]
    return write_card(
        tmp_path, "scene", bytes_digest(data), len(data),
        inputs=[f32("picture", 1, 3, 8, 8)], outputs=outputs, preprocessing=picture(),
        partitions=[{"name": "features", "tensors": ["features"], "default": True}],
    )  # fmt: skip


async def play(
    folder: Path, *items: NDArray[Any], link: str | None = None, budget: float = 20.0, fps: float | None = None
) -> list[FrameResult]:
    """All frames of a whole session, both endpoints in this process."""

    async def source() -> AsyncIterator[NDArray[Any]]:
        for item in items:
            yield item
            await moved.wait()
            moved.clear()

    moved = asyncio.Event()
    if fps is not None:
        moved.set()
    results = []
    async with asyncio.timeout(WAIT), Edge(EdgeSettings("127.0.0.1:0", models=(folder,), model=(NAME(folder),))) as edge:
        bind = None if link is None else "127.0.0.1"
        asked = UeSettings(edge.url, model=NAME(folder), models=(folder,), budget=budget, timeout=20.0, link=link, bind=bind)
        async with UeSession(asked) as session, session.run(source(), every=True) as run:
            async for result in run:
                results.append(result)
                moved.set()
    return results


def NAME(folder: Path) -> str:  # noqa: N802
    return str(json.loads((folder / "card.json").read_text(encoding="utf-8"))["name"])


def whole(folder: Path, item: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What the whole model gives for a picture, or for its ready input."""
    card = ModelCard.load(folder / "card.json", (folder,))
    given = item if card.preprocessing is None else Preprocessor(card).prepare(item)
    outputs = load_whole(card, "cpu").run([given])
    return {spec.name: output for spec, output in zip(card.outputs, outputs, strict=True)}


async def test_every_output_comes_back_as_the_whole_model_gives_it(scene: Path) -> None:
    pictures = [np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8) for seed in range(3)]
    results = await play(scene, *pictures)
    assert [result.status for result in results] == ["ok"] * 3
    for result, image in zip(results, pictures, strict=True):
        assert result.tensors is not None and result.detections is None
        expected = whole(scene, image)
        assert list(result.tensors) == ["larger", "classes", "brightest"]
        for name, tensor in result.tensors.items():
            assert tensor.dtype == expected[name].dtype
            np.testing.assert_array_equal(tensor, expected[name])
