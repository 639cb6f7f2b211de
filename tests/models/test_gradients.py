"""What needs torch runs with `make calibrate-test`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from models import Calibration, PartitionStore, Zoo
from models.calibrate import Material, calibrate
from models.gradients import DRAWS, Tail, require_torch
from models.runtime import load_submodel
from models.task import Decoding
from pipeline.clip import CLIP
from splitrtc_errors import CodecError, MissingDependency, SourceError

YOLOX = """<ir_version: 8, opset_import: ["" : 17]>
tail (float[1,7,2,3] x) => (float[1,24,7] output)
<float[4] scales = {1.0, 1.0, 2.0, 2.0}, int64[3] shape = {1, 7, 24}, int64[2] parts = {4, 3}>
{
    pooled = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)
    resized = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
        (pooled, , scales)
    flat = Reshape (resized, shape)
    turned = Transpose <perm = [0, 2, 1]> (flat)
    boxes, rest = Split <axis = 2> (turned, parts)
    shares = Sigmoid (rest)
    output = Concat <axis = 2> (boxes, shares)
}"""
LINEAR = YOLOX.replace('"nearest",', '"linear",')

OTHER = """<ir_version: 8, opset_import: ["" : 17]>
other (float[1,2] x) => (float[1,2] y) { y = Erf(x) }"""


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependency, match="CPU build"):
        require_torch()


@pytest.mark.torch
def test_torch_computes_what_onnxruntime_does() -> None:
    card = Zoo().get()
    partition = PartitionStore().get(card, card.default_partition.tensors)
    tail = Tail(partition.tail_path, card.detection)
    x = np.random.default_rng(0).normal(size=partition.crossing[0].shape).astype(np.float32)
    submodel = load_submodel(partition.tail_path, "cpu")
    values = tail.run([x])
    for spec, expected in zip(submodel.outputs, submodel.run([x]), strict=True):
        np.testing.assert_allclose(values[spec.name].numpy(), expected, atol=1e-4)
    drawn = list(tail.gradients([x]))
    assert len(drawn) == DRAWS
    assert all(np.abs(gradient[0]).max() > 0 for gradient in drawn)


@pytest.mark.torch
def test_operators_that_are_not_known_are_named(tmp_path: Path) -> None:
    from onnx.parser import parse_model

    path = tmp_path / "tail.onnx"
    path.write_bytes(parse_model(OTHER).SerializeToString())
    with pytest.raises(CodecError, match="without gradients here: Erf"):
        Tail(path, Zoo().get().detection)


@pytest.mark.torch
def test_boxes_of_yolox_count_as_far_as_something_is_in_them(tmp_path: Path) -> None:
    from onnx.parser import parse_model

    path = tmp_path / "tail.onnx"
    path.write_bytes(parse_model(YOLOX).SerializeToString())
    decoding = Decoding("yolox", (("output",),), 0.3, 0.5, 0.65, (8,))
    tail = Tail(path, decoding)
    x = np.random.default_rng(0).normal(size=(1, 7, 2, 3)).astype(np.float32)
    x[0, 4] = -20  # nothing is anywhere
    (expected,) = load_submodel(path, "cpu").run([x])
    np.testing.assert_allclose(tail.run([x])["output"].numpy(), expected, atol=1e-6)
    assert all(np.abs(gradient[0]).max() < 1e-6 for gradient in tail.gradients([x]))
    x[0, 4] = 3
    for gradient in tail.gradients([x]):
        assert (np.abs(gradient[0][0]).max((1, 2)) > 1e-3).all()


@pytest.mark.torch
def test_ways_to_resize_that_are_not_known_are_told(tmp_path: Path) -> None:
    from onnx.parser import parse_model

    path = tmp_path / "tail.onnx"
    path.write_bytes(parse_model(LINEAR).SerializeToString())
    with pytest.raises(CodecError, match="Resize has gradients here with nearest"):
        Tail(path, Decoding("yolox", (("output",),), 0.3, 0.5, 0.65, (8,))).run([np.zeros((1, 7, 2, 3), np.float32)])


@pytest.mark.torch
@pytest.mark.parametrize("clip", [None, CLIP])
def test_tables_are_made_from_pictures(clip: Path | None, tmp_path: Path) -> None:
    import av
    import cv2

    images = []
    with av.open(str(CLIP)) as container:
        for number, picture in enumerate(container.decode(video=0)):
            if number % 60 == 0:
                images.append(tmp_path / f"{number}.png")
                cv2.imwrite(str(images[-1]), picture.to_ndarray(format="bgr24"))
    card = Zoo().get()
    told: list[tuple[int, int]] = []
    material = Material(images, clip, "the clip")
    data = calibrate(card, card.default_partition, material, progress=lambda done, of: told.append((done, of)))
    calibration = Calibration.from_bytes(data)
    assert calibration.made_from == "the clip"
    assert calibration.tensors[0].klt is not None
    assert told[-1][0] == told[-1][1]


@pytest.mark.torch
def test_a_clip_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    import cv2

    image = tmp_path / "a.png"
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "no.mp4").write_bytes(b"no clip")
    card = Zoo().get()
    with pytest.raises(SourceError, match="cannot read the clip"):
        calibrate(card, card.default_partition, Material([image], tmp_path / "no.mp4"))
