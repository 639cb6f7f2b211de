from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from models import calibration as module
from models.calibration import Calibration, TensorCalibration, calibration_bytes, collect
from models.codecs import make_decoder, make_encoder, needs_calibration, parse_profile
from models.detection import Detections, Detector
from models.identity import bytes_digest, partition_id
from models.partition import PartitionStore
from models.preprocess import Preprocessor
from models.runtime import load_submodel
from models.tensor import TensorSpec
from models.zoo import Zoo
from splitrtc_errors import BadArgument, CodecError, ModelFileError
from tests.models import klt_tables

MODEL = "sha-256:" + "5" * 64
FLOAT32_MAX = float(np.finfo(np.float32).max)


def array(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def content(**members: object) -> dict[str, Any]:
    """A good file's content, with members changed; those set to None are left out."""
    good = {
        "format": 1,
        "model": MODEL,
        "partition": partition_id(MODEL, ["a", "é"]),
        "tensors": [
            {"name": "a", "axis": 1, "low": [0, -1.5], "high": [1, 2.5e3], "mean": [0.1, 0]},
            {"name": "é", "axis": 0, "low": [3], "high": [3], "mean": [3.0]},
        ],
        "made_from": "numbers",
    }
    return {name: value for name, value in {**good, **members}.items() if value is not None}


def with_tensor(**members: object) -> dict[str, Any]:
    """A good file's content, with members of its one tensor changed; those set to None are left out."""
    good = {"name": "a", "axis": 0, "low": [0], "high": [1], "mean": [0.5]}
    tensor = {name: value for name, value in {**good, **members}.items() if value is not None}
    return content(partition=partition_id(MODEL, ["a"]), tensors=[tensor])


def read(value: object) -> Calibration:
    return Calibration.from_bytes(json.dumps(value).encode())


def test_reads_a_file() -> None:
    data = json.dumps(content(), ensure_ascii=False).encode()
    calibration = Calibration.from_bytes(data)
    assert (calibration.model, calibration.partition) == (MODEL, partition_id(MODEL, ["a", "é"]))
    assert (calibration.made_from, calibration.digest) == ("numbers", bytes_digest(data))
    assert [tensor.name for tensor in calibration.tensors] == ["a", "é"]
    first = calibration.of("a")
    assert (first.axis, first.low.tolist(), first.high.tolist()) == (1, [0, -1.5], [1, 2500])
    assert first.mean.tolist() == array(0.1, 0).tolist()
    assert {values.dtype for values in (first.low, first.high, first.mean)} == {np.dtype(np.float32)}


def test_ranges_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        read(content()).of("a").low[0] = 7


def test_a_tensor_that_is_not_there_is_named() -> None:
    with pytest.raises(CodecError, match="no tensor 'b'"):
        read(content()).of("b")


@pytest.mark.parametrize(
    "value",
    [
        [],
        content(format=2),
        content(format="1"),
        content(more=1),
        content(model=7),
        content(tensors={}),
        content(tensors=[{}] * 65),
        content(made_from="x" * 501),
        *(content(**{name: ""}) for name in ("model", "partition")),
        content(model="sha-256:" + "A" * 64),
        content(partition="0" * 32),
        content(tensors=[]),
        content(tensors=content()["tensors"][::-1]),
        content(tensors=content()["tensors"][:1] * 2),
        content(tensors=content()["tensors"][:1]),
        content(tensors=["a"]),
        *({name: value for name, value in content().items() if name != left_out} for left_out in content()),
        *(with_tensor(**{name: None}) for name in ("name", "axis", "low", "high", "mean")),
        with_tensor(more=1),
        with_tensor(name="\ud800"),
        with_tensor(axis=-1),
        with_tensor(axis=8),
        with_tensor(axis=0.5),
        with_tensor(low=0),
        with_tensor(low=[]),
        with_tensor(low=[], high=[], mean=[]),
        with_tensor(low=[0, 0]),
        with_tensor(mean=[0, 0]),
        with_tensor(low=["0"]),
        with_tensor(low=[True]),
        with_tensor(low=[[0]]),
        with_tensor(low=[None]),
        with_tensor(low=[2]),
        with_tensor(mean=[-0.1]),
        with_tensor(mean=[1.1]),
        with_tensor(high=[1e39]),
        with_tensor(high=[10**400]),
        with_tensor(low=[-FLOAT32_MAX], high=[FLOAT32_MAX]),
    ],
)
def test_files_that_are_no_good_are_refused(value: object) -> None:
    with pytest.raises(ModelFileError, match=r"^calibration: "):
        read(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"9" * 5000,
        json.dumps(with_tensor(mean=[math.nan])).encode(),
        json.dumps(with_tensor(high=[math.inf])).encode(),
        json.dumps(content()).replace('"format"', '"format": 1, "format"').encode(),
    ],
)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"^calibration: "):
        Calibration.from_bytes(data)


def test_a_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.dumps(content()).encode()
    monkeypatch.setattr(module, "MAX_BYTES", len(data) - 1)
    with pytest.raises(ModelFileError, match="larger than"):
        Calibration.from_bytes(data)
    monkeypatch.setattr(module, "MAX_BYTES", len(data))
    Calibration.from_bytes(data)


def test_loads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(json.dumps(content()).encode())
    assert Calibration.load(path).digest == bytes_digest(path.read_bytes())
    with pytest.raises(ModelFileError, match=r"cannot read the calibration .*y\.json"):
        Calibration.load(tmp_path / "y.json")
    path.write_bytes(b"{")
    with pytest.raises(ModelFileError, match=r"calibration .*x\.json"):
        Calibration.load(path)


def test_mutated_files_are_read_or_refused() -> None:
    good = json.dumps(content()).encode()
    refused = 0
    for position in range(len(good)):
        for byte in b'"}0,':
            try:
                Calibration.from_bytes(good[:position] + bytes((byte,)) + good[position + 1 :])
            except ModelFileError:
                refused += 1
    assert 0 < refused < 4 * len(good)


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-(2.0**126), 2.0**126, width=32)))
def test_writing_keeps_every_float32(values: NDArray[np.float32]) -> None:
    low, mean, high = np.sort(values, axis=0)
    tensor = TensorCalibration("a", 0, low, high, mean)
    data = calibration_bytes(MODEL, partition_id(MODEL, ["a"]), [tensor], "numbers")
    found = Calibration.from_bytes(data).of("a")
    assert [found.low.tobytes(), found.high.tobytes(), found.mean.tobytes()] == [v.tobytes() for v in (low, high, mean)]


def test_writing_sorts_the_tensors_by_name() -> None:
    tensors = [TensorCalibration(name, 0, array(0), array(1), array(0)) for name in ("é", "z", "B", "a")]
    data = calibration_bytes(MODEL, partition_id(MODEL, ["a", "B", "é", "z"]), tensors, "ünïts")
    assert [tensor.name for tensor in Calibration.from_bytes(data).tensors] == ["B", "a", "z", "é"]
    assert "ünïts".encode() in data


def test_writing_refuses_what_cannot_be_read() -> None:
    with pytest.raises(ModelFileError, match="is not that of"):
        calibration_bytes(MODEL, "0" * 32, [TensorCalibration("a", 0, array(0), array(1), array(0))], "numbers")


def test_ranges_are_percentiles_per_channel_over_all_frames() -> None:
    # Both frames together hold 0 to 10 005 once in channel 0, and the negatives in channel 1.
    numbers = np.random.default_rng(1).permutation(10_006).astype(np.float32)
    frames = [[np.stack([part, -part])[None]] for part in np.split(numbers, 2)]
    (tensor,) = collect(frames, [TensorSpec("a", "float32", (1, 2, 5003))], 20)
    assert (tensor.name, tensor.axis) == ("a", 1)
    assert tensor.low.tolist() == [2001, -8004]
    assert tensor.high.tolist() == [8004, -2001]
    assert tensor.mean.tolist() == [5002.5, -5002.5]


def test_klt_tables_are_part_of_a_tensor() -> None:
    made = klt_tables.tables(1)
    value = with_tensor(klt=made.to_json())
    calibration = read(value)
    tables = calibration.of("a").klt
    assert tables is not None
    assert tables.to_json() == made.to_json()
    written = calibration_bytes(MODEL, calibration.partition, calibration.tensors, "numbers")
    assert json.loads(written)["tensors"][0]["klt"] == made.to_json()
    with pytest.raises(ModelFileError, match="klt tables have"):
        read(with_tensor(klt={}))
    with pytest.raises(ModelFileError, match="perhaps tables"):
        read(with_tensor(more=1))


def test_several_frames_and_tensors_are_collected_each_by_itself() -> None:
    specs = [TensorSpec("a", "float32", (1, 2)), TensorSpec("b", "float64", (2,))]
    frames = [[array(i, 10 * i)[None], np.array([-i, 7.0])] for i in range(5)]
    first, second = collect(frames, specs, 0)
    assert (first.axis, second.axis) == (1, 0)
    assert (first.low.tolist(), first.high.tolist(), first.mean.tolist()) == ([0, 0], [4, 40], [2, 20])
    assert (second.low.tolist(), second.high.tolist(), second.mean.tolist()) == ([-4, 7], [0, 7], [-2, 7])


def test_a_mean_outside_the_percentiles_is_moved_to_their_edge() -> None:
    sample = np.zeros((1000, 1), np.float32)
    sample[0] = 1e6
    (tensor,) = collect([[sample]], [TensorSpec("a", "float32", (1000, 1))], 1)
    assert (tensor.low[0], tensor.high[0], tensor.mean[0]) == (0, 0, 0)


@pytest.mark.parametrize("percentile", [-1, 50, math.nan])
def test_percentiles_out_of_range_are_refused(percentile: float) -> None:
    with pytest.raises(BadArgument, match="percentile"):
        collect([[array(1)]], [TensorSpec("a", "float32", (1,))], percentile)


def test_at_least_one_frame_is_needed() -> None:
    with pytest.raises(BadArgument, match="at least one frame"):
        collect([], [TensorSpec("a", "float32", (1,))])


@pytest.mark.parametrize(("dtype", "shape"), [("int32", (1,)), ("float32", ())])
def test_tensors_that_cannot_be_quantised_are_refused(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match="tensor a .* cannot be quantised"):
        collect([[np.zeros(shape, dtype)]], [TensorSpec("a", dtype, shape)])


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_samples_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(CodecError, match="tensor a: .*finite"):
        collect([[np.array([0, value])]], [TensorSpec("a", "float64", (2,))])


# The bundled calibrations


def bundled() -> list[tuple[str, str]]:
    zoo = Zoo()
    cards = [zoo.get(name) for name in zoo.names()]
    return [(card.name, part.name) for card in cards for part in card.partitions if part.calibration is not None]


@pytest.mark.parametrize(("model", "name"), bundled())
def test_bundled_calibrations_fit_their_partitions(model: str, name: str) -> None:
    card = Zoo().get(model)
    partition = card.partition(name)
    path = card.calibration_path(partition)
    assert path is not None
    calibration = Calibration.load(path)
    assert (calibration.model, calibration.partition) == (card.digest, card.partition_id(partition))
    assert calibration.made_from == "79 COCO val2017 images"


def test_the_default_partition_can_be_coded_by_every_recommended_profile() -> None:
    card = Zoo().get()
    path = card.calibration_path(card.default_partition)
    assert path is not None
    crossing = [TensorSpec("Conv__979:0", "float32", (1, 64, 19, 19))]
    for profile in map(parse_profile, card.profiles):
        calibration = Calibration.load(path) if needs_calibration(profile) else None
        encoder = make_encoder(profile, crossing, calibration, 1140)
        assert encoder.encode(1, [np.zeros((1, 64, 19, 19), np.float32)]).slices


def agreement(expected: Detections, found: Detections) -> tuple[int, int]:
    """How many detections have a partner of the same class with an IoU of 0.5 or more, and how many there are."""
    free = set(range(len(expected)))
    pairs = 0
    for box, label in zip(found.xyxy, found.classes, strict=True):
        low, high = np.maximum(box[:2], expected.xyxy[:, :2]), np.minimum(box[2:], expected.xyxy[:, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (box, expected.xyxy)]
        overlap = shared / (areas[0] + areas[1] - shared)
        partners = [i for i in free if expected.classes[i] == label and overlap[i] >= 0.5]
        if partners:
            free.remove(max(partners, key=lambda i: overlap[i]))
            pairs += 2
    return pairs, len(expected) + len(found)


@pytest.mark.parametrize(
    ("profile", "size", "f1"),
    [
        ("q4-zstd", 9500, 0.93),
        ("q8-zstd", 23000, 0.98),
        ("klt:step=1", 6500, 0.93),
        ("klt-light:step=1", 8000, 0.93),
        ("q4-range", 9000, 0.93),
        ("pca", 9800, 0.9),
        ("clusters", 6300, 0.85),
        ("avc", 6400, 0.88),
    ],
)
def test_the_default_calibration_keeps_the_detections(profile: str, size: int, f1: float, shared_dir: Path) -> None:
    import cv2

    card = Zoo().get()
    path = card.calibration_path(card.default_partition)
    assert path is not None
    calibration = Calibration.load(path)
    partition = PartitionStore().get(card, card.default_partition.tensors)
    whole, head, tail = (load_submodel(part, "cpu") for part in (card.path, partition.head_path, partition.tail_path))
    encoder = make_encoder(parse_profile(profile), partition.crossing, calibration, 1140)
    decoder = make_decoder(parse_profile(profile), partition.crossing, calibration)
    preprocessor, detector = Preprocessor(card), Detector(card, score=0.3)
    sizes, pairs = [], []
    pictures = sorted((shared_dir / "data" / "images").glob("*.jpg"))[1::4]  # none of which it was made from
    for number, picture in enumerate(pictures, 1):
        image = cv2.imread(str(picture))
        assert image is not None
        prepared = [preprocessor.prepare(image)]
        frame = encoder.encode(number, head.run(prepared))
        decoded = decoder.decode(number, frame.slices, frame.intra, frame.reference)
        found = detector.decode(tail.run(decoded.tensors))
        sizes.append(sum(map(len, frame.slices)))
        pairs.append(agreement(detector.decode(whole.run(prepared)), found))
    assert np.mean(sizes) < size
    matched, total = np.sum(pairs, axis=0)
    assert matched / total > f1
