from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from onnx.parser import parse_model

from models.cache import default_cache_dir
from models.card import ModelCard
from models.identity import bytes_digest, file_digest
from models.partition import Partition, PartitionStore
from models.runtime import load_submodel
from models.tensor import TensorSpec
from models.zoo import Zoo
from splitrtc_errors import BadArgument, CutError, ModelFileError, UserError

ROOT = Path(__file__).parents[2]

TINY = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,2,2] image) => (float[1,2,2] scores, float[1,2,1,4] boxes)
<int64[2] sizes = {4, 8}, int64[3] score_shape = {1,2,2}, int64[4] box_shape = {1,2,1,4}>
{
  a = Mul(image, image)
  MIDDLE
  flat = Flatten(b)
  first, rest = Split <axis = 1> (flat, sizes)
  scores = Reshape(first, score_shape)
  boxes = Reshape(rest, box_shape)
}"""


def tiny(directory: Path, middle: str = "b = Neg(a)", text: str = TINY, **members: object) -> ModelCard:
    """A model of a few nodes with its card in a folder of its own."""
    data = parse_model(text.replace("MIDDLE", middle)).SerializeToString()
    card = {
        **Zoo().get().to_json(),
        "name": "tiny",
        "file": "tiny.onnx",
        "digest": bytes_digest(data),
        "size": len(data),
        "inputs": [{"name": "image", "type": "float32", "shape": [1, 3, 2, 2]}],
        "outputs": [
            {"name": "scores", "type": "float32", "shape": [1, 2, 2]},
            {"name": "boxes", "type": "float32", "shape": [1, 2, 1, 4]},
        ],
        "labels": ["cat", "dog"],
        "partitions": [{"name": "early", "tensors": ["a"], "default": True}],
        **members,
    }
    card["decoding"] = {**Zoo().get().detection.to_json(), "scores": "scores", "boxes": "boxes"}
    directory.mkdir()
    (directory / "tiny.onnx").write_bytes(data)
    (directory / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return ModelCard.load(directory / "card.json")


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return tiny(tmp_path / "tiny")


@pytest.fixture
def store(tmp_path: Path) -> PartitionStore:
    return PartitionStore(tmp_path / "cache")


def files(store: PartitionStore) -> list[Path]:
    return sorted(path for path in store.cache_dir.rglob("*") if path.is_file())


def assert_whole(card: ModelCard, partition: Partition) -> None:
    """Head then tail compute what the whole model does."""
    image = np.random.default_rng(5).random(card.inputs[0].shape, np.float32) * np.float32(255)
    head, tail = load_submodel(partition.head_path, "cpu"), load_submodel(partition.tail_path, "cpu")
    assert head.outputs == tail.inputs == partition.crossing
    assert (head.inputs, tail.outputs) == (card.inputs, card.outputs)
    whole = load_submodel(card.path, "cpu").run([image])
    for expected, found in zip(whole, tail.run(head.run([image])), strict=True):
        # Fused across the cut, the whole sums in another order.
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_partition_is_made_and_described(card: ModelCard, store: PartitionStore) -> None:
    partition = store.get(card, ["a"])
    assert partition.id == card.partition_id(card.default_partition)
    assert (partition.model_digest, partition.variant, partition.tensors) == (card.digest, "fp32", ("a",))
    assert partition.crossing == (TensorSpec("a", "float32", (1, 3, 2, 2)),)
    assert_whole(card, partition)


def test_the_second_time_it_comes_from_the_cache(card: ModelCard, store: PartitionStore) -> None:
    made = store.get(card, ["a"])
    before = {path: path.stat().st_mtime_ns for path in files(store)}
    card.path.unlink()  # so that it cannot be made again
    assert PartitionStore(store.cache_dir).get(card, ["a"]) == made
    assert {path: path.stat().st_mtime_ns for path in files(store)} == before


def test_partitions_of_one_model_live_beside_each_other(card: ModelCard, store: PartitionStore) -> None:
    first, second = store.get(card, ["a"]), store.get(card, ["b"])
    assert first.id != second.id
    assert store.get(card, ["a"]) == first
    assert store.get(card, ["b"]) == second


@pytest.mark.parametrize("name", ["bottleneck_7", "bottleneck_12"])
def test_the_bundled_partitions(name: str) -> None:
    card = Zoo().get()
    recommended = card.partition(name)
    partition = PartitionStore().get(card, recommended.tensors)
    channels = {"bottleneck_7": 64, "bottleneck_12": 96}[name]
    assert partition.crossing == (TensorSpec(recommended.tensors[0], "float32", (1, channels, 19, 19)),)
    assert partition.head_path.stat().st_size < card.size / 10
    assert_whole(card, partition)


def change_index(**members: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **members}))

    return change


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("head-*.onnx", flip),
        ("tail-*.onnx", flip),
        ("head-*.onnx", Path.unlink),
        ("tail-*.onnx", lambda path: path.write_bytes(b"")),
        ("index.json", Path.unlink),
        ("index.json", lambda path: path.write_bytes(b"{")),
        ("index.json", lambda path: path.write_bytes(b"[]")),
        ("index.json", lambda path: path.write_bytes(b"[" * 100_000)),
        ("index.json", lambda path: path.write_bytes(b'"' + bytes(2**21))),
        ("index.json", lambda path: path.write_bytes(b"\xff")),
        ("index.json", change_index(format=0)),
        ("index.json", change_index(model="sha-256:" + "0" * 64)),
        ("index.json", change_index(head="../../etc/passwd")),
        ("index.json", change_index(tail=5)),
        ("index.json", change_index(crossing=[{"name": "a"}])),
        ("index.json", change_index(crossing=None)),
    ],
)
def test_a_damaged_partition_is_made_again(
    card: ModelCard, store: PartitionStore, name: str, damage: Callable[[Path], None]
) -> None:
    made = store.get(card, ["a"])
    damage(next(store.cache_dir.rglob(name)))
    assert store.get(card, ["a"]) == made
    card.path.unlink()
    assert store.get(card, ["a"]) == made, "the repair was kept"
    assert_files_are_whole(store)


def assert_files_are_whole(store: PartitionStore) -> None:
    """Every index names files that are there with the right digest, and no draft was left."""
    names = set()
    for path in store.cache_dir.rglob("index.json"):
        index = json.loads(path.read_text())
        names.add(path)
        for part in ("head", "tail"):
            file = path.with_name(f"{part}-{index[part].removeprefix('sha-256:')[:16]}.onnx")
            assert file_digest(file) == index[part]
            names.add(file)
    assert set(files(store)) == names


def python(code: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


FILL = """
import sys
from pathlib import Path
from models import ModelCard, PartitionStore, load_submodel
card, store = ModelCard.load(Path(sys.argv[1])), PartitionStore(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for tensor in "ab" * 10:
    partition = store.get(card, [tensor])
    load_submodel(partition.head_path, "cpu"), load_submodel(partition.tail_path, "cpu")
    # Others read it meanwhile: what they see must be whole, or be made again.
    if sys.argv[3] == "spoil":
        (partition.head_path.parent / "index.json").write_text("{")
"""


def test_processes_may_fill_and_spoil_one_cache_at_once(card: ModelCard, store: PartitionStore) -> None:
    assert card.directory is not None
    what = ["fill", "fill", "spoil"]
    workers = [python(FILL, card.directory / "card.json", store.cache_dir, each) for each in what]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        _, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors
    partitions = [store.get(card, [tensor]) for tensor in "ab"]
    assert_files_are_whole(store)
    for partition in partitions:
        assert_whole(card, partition)


def test_a_warm_start_needs_neither_onnx_nor_the_model() -> None:
    card = Zoo().get()
    PartitionStore().get(card, card.default_partition.tensors)
    done = python(
        """
import sys
from models import PartitionStore, Zoo, load_submodel
card = Zoo().get()
partition = PartitionStore().get(card, card.default_partition.tensors)
load_submodel(partition.head_path).warm_up()
sys.exit(f"loaded: {heavy}" if (heavy := {"onnx", "cv2"} & set(sys.modules)) else 0)
"""
    )
    _, errors = done.communicate(timeout=60)
    assert done.returncode == 0, errors


def age(store: PartitionStore, partition: Partition, seconds: float) -> None:
    """Let a partition have been asked for some time ago."""
    index = partition.head_path.parent / "index.json"
    then = time.time() - seconds
    os.utime(index, (then, then))


def test_the_partitions_not_used_for_longest_make_room(card: ModelCard, store: PartitionStore) -> None:
    first = store.get(card, ["a"])
    size = sum(path.stat().st_size for path in files(store))
    store.max_bytes = size + 10
    age(store, first, 3600)
    second = store.get(card, ["b"])
    assert {path.parent for path in files(store)} == {second.head_path.parent}
    assert not list(store.cache_dir.glob("*/.*")), "nothing is left of it"
    age(store, second, 3600)
    assert store.get(card, ["b"]) == second  # which is now used again
    store.max_bytes = 0
    third = store.get(card, ["a"])
    assert third == first
    assert {path.parent for path in files(store)} == {second.head_path.parent, third.head_path.parent}, (
        "what was got a moment ago may not be open yet"
    )
    assert_whole(card, store.get(card, ["b"]))


def test_what_a_crash_left_goes_too(card: ModelCard, store: PartitionStore) -> None:
    left = store.cache_dir / "partitions-2" / "crashed"
    left.mkdir(parents=True)
    (left / "head.onnx").write_bytes(bytes(1000))
    os.utime(left, (0, 0))
    store.max_bytes = 100
    made = store.get(card, ["a"])
    assert {path.parent for path in files(store)} == {made.head_path.parent}


TRIM = """
import sys
from pathlib import Path
from models import ModelCard, PartitionStore, cache, load_submodel
card, store = ModelCard.load(Path(sys.argv[1])), PartitionStore(Path(sys.argv[2]), max_bytes=1)
cache.IN_USE_SECONDS = 1.0
print("ready", flush=True)
sys.stdin.readline()
for tensor in "ab" * 20:
    found = store.get(card, [tensor])
    load_submodel(found.head_path, "cpu"), load_submodel(found.tail_path, "cpu")
"""


def test_processes_may_make_room_in_one_cache_at_once(card: ModelCard, store: PartitionStore) -> None:
    assert card.directory is not None
    workers = [python(TRIM, card.directory / "card.json", store.cache_dir) for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        _, errors = worker.communicate("go\n", timeout=60)
        assert worker.returncode == 0, errors
    assert_files_are_whole(store)


@pytest.mark.parametrize(("text", "expected"), [("5", 5_000_000), ("", 2_000_000_000), ("0", 0)])
def test_the_bound_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, text: str, expected: int) -> None:
    monkeypatch.setenv("SPLITRTC_CACHE_MB", text)
    assert PartitionStore().max_bytes == expected


def test_a_bound_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITRTC_CACHE_MB", "-3")
    with pytest.raises(BadArgument, match="SPLITRTC_CACHE_MB is a number of megabytes, not '-3'"):
        PartitionStore()


def test_a_free_batch_is_fixed_to_what_the_card_says(tmp_path: Path, store: PartitionStore) -> None:
    text = TINY.replace("float[1,3,2,2] image", "float[N,3,2,2] image")
    card = tiny(tmp_path / "tiny", text=text)
    assert store.get(card, ["a"]).crossing == (TensorSpec("a", "float32", (1, 3, 2, 2)),)


def test_a_cache_that_cannot_be_made_is_one_clear_error(card: ModelCard, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot keep the partition of model tiny in .*SPLITRTC_CACHE") as caught:
        PartitionStore(tmp_path / "file" / "cache").get(card, ["a"])
    assert type(caught.value) is UserError
    assert "Not a directory" in str(caught.value)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(card: ModelCard, store: PartitionStore) -> None:
    resource = pytest.importorskip("resource", reason="limits on a process are POSIX's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # a write beyond it fails, as on a full disk
    try:
        with pytest.raises(UserError, match="File too large; make room"):
            store.get(card, ["a"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not files(store)
    assert_whole(card, store.get(card, ["a"]))


def test_a_wrong_model_file_is_refused(card: ModelCard, store: PartitionStore) -> None:
    flip(card.path)
    with pytest.raises(ModelFileError, match="is not the file of model tiny"):
        store.get(card, ["a"])
    assert not files(store)


def test_a_card_that_does_not_describe_its_model_is_refused(tmp_path: Path, store: PartitionStore) -> None:
    card = tiny(tmp_path / "tiny", inputs=[{"name": "image", "type": "float32", "shape": [1, 3, 4, 1]}])
    with pytest.raises(ModelFileError, match=r"the card of model tiny says .*, its file has the shape \[1, 3, 2, 2\]"):
        store.get(card, ["a"])


def test_parts_that_compute_something_else_are_refused(tmp_path: Path, store: PartitionStore) -> None:
    # Not a wrong cut, but what it looks like: the model is random.
    card = tiny(tmp_path / "tiny", middle="noise = RandomUniformLike(a) b = Add(a, noise)")
    with pytest.raises(CutError, match="do not compute the scores that the whole computes"):
        store.get(card, ["a"])
    assert not files(store)


def test_results_that_are_not_numbers_compare_as_equal(tmp_path: Path, store: PartitionStore) -> None:
    card = tiny(tmp_path / "tiny", middle="zero = Sub(a, a) b = Div(zero, zero)")
    assert store.get(card, ["a"]).tensors == ("a",)


def test_cuts_and_variants_are_checked(card: ModelCard, store: PartitionStore) -> None:
    with pytest.raises(CutError, match="no tensor 'q'"):
        store.get(card, ["q"])
    with pytest.raises(BadArgument, match="a variant is fp32 or fp16 or int8, not 'int4'"):
        store.head(card, ["a"], "int4")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPLITRTC_CACHE", str(tmp_path))
    assert PartitionStore().cache_dir == tmp_path
    monkeypatch.setenv("SPLITRTC_CACHE", "")
    assert default_cache_dir() == platformdirs.user_cache_path("splitrtc")
