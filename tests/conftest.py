"""What every test gets: a cache of its own, Hypothesis's profile, and a check that nothing is left running."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from pipeline.clip import CLIP

ROOT = Path(__file__).resolve().parent.parent
GRACE = 1.0
"""How long a thread or a task that was told to end may take to do it, in seconds."""

# Time limits per example would make a slow machine fail; the same examples each time make a failure one to repeat.
settings.register_profile(
    "suite", max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES") or 20_000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the tests cache away from the user's own; all tests (and what they start) share it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITRTC_CACHE", str(folder / "splitrtc-cache"))
        patch.setenv("MPLCONFIGDIR", str(folder / "matplotlib"))
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # tests start a hundred processes
        yield


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    """Fail a test that leaves a thread running. It is set up first, so it looks after all other fixtures ended."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    deadline = time.monotonic() + GRACE
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    names = [thread.name for thread in left if thread.is_alive()]
    assert not names, f"threads left running: {names}"


@pytest.fixture(autouse=True)
def _no_leaked_tasks(request: pytest.FixtureRequest, _no_leaked_threads: None) -> None:
    """Fail an asynchronous test that leaves a task running; for others there is no loop to look at."""
    if request.node.get_closest_marker("asyncio") is not None:
        request.getfixturevalue("_task_check")


@pytest.fixture
async def _task_check() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=GRACE)
    names = [repr(task) for task in left if not task.done()]
    assert not names, f"tasks left running: {names}"


@pytest.fixture(scope="session")
def clip_path() -> Path:
    """The bundled clip."""
    return CLIP


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Models and pictures that must not be committed: a folder ``shared`` beside the repository, where there is one."""
    path = ROOT.parent / "shared"
    if not (path / "models").is_dir():
        pytest.skip("no folder 'shared' with further models and pictures beside the repository")
    return path


TINY = """<ir_version: 8, opset_import: ["" : 17]>
tiny (float[1,3,2,2] image) => (float[1,2,2] scores, float[1,2,1,4] boxes)
<float[1] scale = {0.003921569}, float[1,4] mask = {1, 0, 0, 1}, int64[2] sizes = {4, 8},
 int64[3] score_shape = {1,2,2}, int64[4] box_shape = {1,2,1,4}>
{
  early = Mul(image, scale)
  late = Relu(early)
  flat = Flatten(late)
  first, rest = Split <axis = 1> (flat, sizes)
  masked = Mul(first, mask)
  scores = Reshape(masked, score_shape)
  boxes = Reshape(rest, box_shape)
}"""


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """The folder of a further model, "tiny", with its card: in a white picture it finds one cat and one dog."""
    from onnx.parser import parse_model

    from models import Zoo
    from models.identity import bytes_digest

    data = parse_model(TINY).SerializeToString()
    card = Zoo().get().to_json()
    card |= {
        "name": "tiny",
        "file": "tiny.onnx",
        "digest": bytes_digest(data),
        "size": len(data),
        "inputs": [{"name": "image", "type": "float32", "shape": [1, 3, 2, 2]}],
        "outputs": [
            {"name": "scores", "type": "float32", "shape": [1, 2, 2]},
            {"name": "boxes", "type": "float32", "shape": [1, 2, 1, 4]},
        ],
        "decoding": {**card["decoding"], "scores": "scores", "boxes": "boxes"},
        "labels": ["cat", "dog"],
        "partitions": [
            {"name": "early", "tensors": ["early"], "default": True},
            {"name": "late", "tensors": ["late"], "default": False},
        ],
    }
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "tiny.onnx").write_bytes(data)
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


SCENE = """<ir_version: 8, opset_import: ["" : 17]>
scene (float[1,3,8,8] picture) => (float[1,3,64,64] larger, int64[1,1,8,8] classes, float brightest)
<float[4] scales = {1, 1, 8, 8}>
{
  features = Relu(picture)
  larger = Resize <mode = "linear"> (features, , scales)
  classes = ArgMax <axis = 1> (features)
  brightest = ReduceMax <keepdims = 0> (features)
}"""


@pytest.fixture
def write_tensors_card() -> Callable[..., Path]:
    """A function that writes the card of a model that detects nothing; its file is to lie beside it."""

    def write(folder: Path, file: Path, **members: Any) -> Path:
        from models.identity import file_digest

        card = {
            "format": 1,
            "name": file.stem,
            "title": file.stem,
            "task": "tensors",
            "file": file.name,
            "digest": file_digest(file),
            "size": file.stat().st_size,
            "licence": "none",
            "source": "made for tests",
            "accuracy": "none",
            "partitions": [],
            "profiles": ["raw-zstd"],
            "default_profile": "raw-zstd",
            **members,
        }
        (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def scene(tmp_path: Path, write_tensors_card: Callable[..., Path]) -> Path:
    """The folder of a further model, "scene", with its card: it gives three tensors of different types and ranks."""
    from onnx.parser import parse_model

    folder = tmp_path / "scene"
    folder.mkdir()
    file = folder / "scene.onnx"
    file.write_bytes(parse_model(SCENE).SerializeToString())
    return write_tensors_card(
        folder,
        file,
        inputs=[{"name": "picture", "type": "float32", "shape": [1, 3, 8, 8]}],
        outputs=[
            {"name": "larger", "type": "float32", "shape": [1, 3, 64, 64]},
            {"name": "classes", "type": "int64", "shape": [1, 1, 8, 8]},
            {"name": "brightest", "type": "float32", "shape": []},
        ],
        preprocessing={"resize": "stretch", "order": "RGB", "layout": "NCHW", "mean": [0, 0, 0], "scale": [1, 1, 1]},
        partitions=[{"name": "features", "tensors": ["features"], "default": True}],
    )
