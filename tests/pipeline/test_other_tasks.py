"""Models that detect nothing: with a card and no code, their outputs come back as the whole model gives them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx.parser import parse_model

from models import ModelCard, PartitionStore, Preprocessor, load_submodel
from models.default_cut import with_cut
from models.fixed import load_whole
from pipeline.edge import Edge
from pipeline.outcome import FrameResult
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from splitrtc_errors import BadArgument, ModelFileError, SourceError

pytestmark = pytest.mark.usefixtures("patient_edges")

WAIT = 60.0

WriteCard = Callable[..., Path]


def f32(name: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "type": "float32", "shape": list(shape)}


def picture(layout: str, mean: float = 0.0, scale: float = 1.0) -> dict[str, Any]:
    return {"resize": "stretch", "order": "RGB", "layout": layout, "mean": [mean] * 3, "scale": [scale] * 3}


def cut(*tensors: str) -> list[dict[str, Any]]:
    return [{"name": "cut", "tensors": list(tensors), "default": True}]


async def play(
    folder: Path,
    *items: NDArray[Any],
    link: str | None = None,
    budget: float = 30.0,
    sinks: tuple[Any, ...] = (),
    enough: Callable[[FrameResult], bool] = lambda _: False,
) -> tuple[list[FrameResult], Edge]:
    """What becomes of all frames of a whole session, both endpoints in this process; and the edge, ended.

    Each frame comes when the one before has ended.
    """
    ended = asyncio.Event()

    async def source() -> AsyncIterator[NDArray[Any]]:
        for item in items:
            yield item
            await ended.wait()
            ended.clear()

    results = []
    settings = EdgeSettings("127.0.0.1:0", model=(folder.name,), models=(folder,), workers=1)
    async with asyncio.timeout(WAIT), Edge(settings) as edge:
        asked = UeSettings(edge.url, model=folder.name, models=(folder,), budget=budget, timeout=20.0, link=link)
        async with UeSession(asked) as session, session.run(source(), every=True, sinks=sinks) as run:
            async for result in run:
                results.append(result)
                if enough(result):
                    break
                ended.set()
    return results, edge


def whole(folder: Path, item: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What the whole model gives for a picture, or for its ready input."""
    card = ModelCard.load(folder / "card.json", (folder,))
    given = item if card.preprocessing is None else Preprocessor(card).prepare(item)
    outputs = load_whole(card, "cpu").run([given])
    return {spec.name: output for spec, output in zip(card.outputs, outputs, strict=True)}


async def first_whole(folder: Path, *items: NDArray[Any]) -> FrameResult:
    """The first frame that comes back whole: of thousands of units, a socket that is full loses some."""
    results, _ = await play(folder, *items, enough=lambda result: result.status == "ok")
    assert results[-1].status == "ok"
    return results[-1]


def assert_as_the_whole(folder: Path, result: FrameResult) -> None:
    assert (result.status, result.detections, result.share_returned) == ("ok", None, 1.0)
    assert result.tensors is not None
    assert result.answered
    expected = whole(folder, result.frame.image)
    assert list(result.tensors) == list(expected)
    for name, tensor in result.tensors.items():
        assert tensor.dtype == expected[name].dtype
        np.testing.assert_array_equal(tensor, expected[name])


def pictures(count: int) -> list[NDArray[np.uint8]]:
    return [np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8) for seed in range(count)]


@pytest.mark.parametrize("profile", ["raw", "raw-zstd", "raw-snappy"])
async def test_every_output_comes_back_as_the_whole_model_gives_it(scene: Path, profile: str) -> None:
    card = json.loads((scene / "card.json").read_text(encoding="utf-8"))
    (scene / "card.json").write_text(json.dumps(card | {"output_profile": profile}), encoding="utf-8")
    results, edge = await play(scene, *pictures(3))
    assert len(results) == 3
    for result in results:
        assert_as_the_whole(scene, result)
        assert result.timings.total is not None
    assert edge.outcomes["ok"] == 3


async def test_of_a_frame_with_lost_units_the_rest_is_given(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.connection.FRAMES_WAITED_FOR", 3.0)  # then there is no more to come
    results, _ = await play(scene, *pictures(8), link="loss=5%,seed=3", budget=1.0)
    returned = [result for result in results if result.status == "incomplete"]
    assert len(results) == 8
    assert returned, "of 44 units a frame, some are lost"
    for result in returned:
        expected = whole(scene, result.frame.image)
        assert result.tensors is not None
        if result.share_received == 1.0:
            assert 0 < result.share_returned < 1
            same = sum(int((tensor == expected[name]).sum()) for name, tensor in result.tensors.items())
            assert same >= round(result.share_returned * sum(tensor.size for tensor in expected.values()))


async def test_a_model_may_take_its_ready_input(tmp_path: Path, write_tensors_card: WriteCard) -> None:
    folder = tmp_path / "sound"
    folder.mkdir()
    graph = """<ir_version: 8, opset_import: ["" : 17]> sound (float[16] wave) => (float loudness)
    { power = Mul(wave, wave)
      loudness = ReduceMean <keepdims = 0> (power) }"""
    (folder / "sound.onnx").write_bytes(parse_model(graph).SerializeToString())
    ends = {"inputs": [f32("wave", 16)], "outputs": [f32("loudness")]}
    write_tensors_card(folder, folder / "sound.onnx", **ends, partitions=cut("power"))
    lines, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    waves = [np.linspace(0, level, 16, dtype=np.float32) for level in (1, 2)]
    results, _ = await play(folder, *waves, sinks=(lines, video))
    for result in results:
        assert_as_the_whole(folder, result)
    records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [(record["width"], record["detections"]) for record in records] == [(0, None)] * 2
    (figures,) = records[0]["tensors"]
    mean = pytest.approx(float(np.mean(waves[0] ** 2)))
    assert figures == {"name": "loudness", "type": "float32", "shape": [], "min": mean, "max": mean, "mean": mean}
    assert not video.exists(), "there is nothing to draw on, which ends that sink alone"
    with pytest.raises(SourceError, match=r"gave float32 \(8,\); expected wave float32\[16\]"):
        await play(folder, waves[0][:8])


async def test_a_file_is_no_source_for_ready_inputs(tmp_path: Path, write_tensors_card: WriteCard) -> None:
    folder = tmp_path / "sound"
    folder.mkdir()
    graph = '<ir_version: 8, opset_import: ["" : 17]> s (float[4] x) => (float[4] z) { y = Abs(x) z = Neg(y) }'
    (folder / "sound.onnx").write_bytes(parse_model(graph).SerializeToString())
    ends = {"inputs": [f32("x", 4)], "outputs": [f32("z", 4)]}
    write_tensors_card(folder, folder / "sound.onnx", **ends, partitions=cut("y"))
    async with Edge(EdgeSettings("127.0.0.1:0", model=("sound",), models=(folder,), workers=1)) as edge:
        async with UeSession(UeSettings(edge.url, model="sound", models=(folder,), timeout=20.0)) as session:
            with pytest.raises(BadArgument, match="takes no pictures, but x float32"):
                session.run("testsrc")


BIG = """<ir_version: 8, opset_import: ["" : 17]> big (float[1,3,8,8] picture) => (float[1,3,512,512] larger)
<float[4] scales = {1, 1, 64, 64}>
{ features = Relu(picture)
  larger = Resize <mode = "linear"> (features, , scales) }"""


@pytest.fixture
def big(tmp_path: Path, write_tensors_card: WriteCard) -> Path:
    """The folder of a model of which an output takes 2 760 units."""
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "big.onnx").write_bytes(parse_model(BIG).SerializeToString())
    ends = {"inputs": [f32("picture", 1, 3, 8, 8)], "outputs": [f32("larger", 1, 3, 512, 512)]}
    how = picture("NCHW")
    return write_tensors_card(folder, folder / "big.onnx", **ends, preprocessing=how, partitions=cut("features"))


async def test_an_output_of_megabytes_comes_back_whole(big: Path) -> None:
    assert_as_the_whole(big, await first_whole(big, *pictures(12)))


async def test_an_output_that_takes_too_long_is_dropped_and_counted(big: Path) -> None:
    results, edge = await play(big, *pictures(4), link="rtt=10,rate=8M", budget=0.3)
    assert {result.status for result in results} <= {"lost", "incomplete", "late", "skipped"}
    assert len(results) == 4
    assert "lost" in {result.status for result in results}
    assert edge.outcomes["outputs_expired"] + edge.outcomes["outputs_replaced"] + edge.outcomes["outputs_closed"] >= 3


async def test_an_output_that_no_frame_holds_is_refused_at_the_start(big: Path) -> None:
    card = json.loads((big / "card.json").read_text(encoding="utf-8"))
    card["outputs"] = [f32("larger", 1, 3, 1024, 1024)]
    (big / "card.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ModelFileError, match="have 12582912 bytes, and a frame holds 4669440: try another"):
        await play(big)


STATE = [f32("input", 1, 512), f32("state", 2, 1, 128), {"name": "sr", "type": "int64", "shape": []}]

MODELS: dict[str, dict[str, Any]] = {
    "movenet-lightning": {
        "inputs": [{"name": "input:0", "type": "int32", "shape": [1, 192, 192, 3]}],
        "outputs": [f32("Identity:0", 1, 1, 17, 3)],
        "preprocessing": picture("NHWC"),
    },
    "selfie": {
        "inputs": [f32("input_1:0", 1, 256, 256, 3)],
        "outputs": [f32("activation_10:0", 1, 256, 256, 1)],
        "preprocessing": picture("NHWC", scale=1 / 255),
    },
    "mobilenet_v2_quant": {
        "inputs": [f32("input", 1, 3, 224, 224)],
        "outputs": [f32("output", 1, 1000)],
        "preprocessing": picture("NCHW", 118, 0.017),
    },
    "super_resolution": {
        "inputs": [f32("input", 1, 1, 224, 224)],
        "outputs": [f32("output", 1, 1, 672, 672)],
        "partitions": cut("15"),
    },
    "silero_vad": {
        "inputs": STATE,
        "outputs": [f32("output", 1, 1), f32("stateN", 2, 1, 128)],
        "constants": [{"name": "state", "values": [0]}, {"name": "sr", "values": [16000]}],
        "partitions": cut("output", "stateN"),
    },
}
"""Pose, segmentation, classification, super-resolution, speech."""


@pytest.mark.parametrize("name", MODELS)
async def test_models_of_other_tasks(
    shared_dir: Path, tmp_path: Path, write_tensors_card: WriteCard, name: str
) -> None:
    file = shared_dir / "models" / f"{name}.onnx"
    if not file.exists():
        pytest.skip(f"no {file.name} there")
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(file, folder)
    write_tensors_card(folder, folder / file.name, **MODELS[name])
    card = ModelCard.load(folder / "card.json")
    noise = np.random.default_rng(0)
    items: list[NDArray[Any]] = [noise.integers(0, 256, (240, 320, 3), np.uint8) for _ in range(12)]
    if card.preprocessing is None:
        items = [noise.random(card.image.shape, np.float32) for _ in range(12)]
    result = await first_whole(folder, *items)
    assert result.tensors is not None
    # Bit for bit what the same two parts give without a network between them; fusions across the cut reorder sums.
    partition = PartitionStore().get(card, with_cut(card).default_partition.tensors)
    head, tail = (load_submodel(path, "cpu") for path in (partition.head_path, partition.tail_path))
    given = result.frame.image if card.preprocessing is None else Preprocessor(card).prepare(result.frame.image)
    expected = whole(folder, result.frame.image)
    for output, (name, tensor) in zip(tail.run(head.run([given])), result.tensors.items(), strict=True):
        np.testing.assert_array_equal(tensor, output)
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-4, atol=1e-5)
