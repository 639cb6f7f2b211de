from __future__ import annotations

import dataclasses
import sys
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.card import ModelCard, Preprocessing
from models.preprocess import Preprocessor
from models.tensor import TensorSpec
from models.zoo import Zoo
from splitrtc_errors import MissingDependency, TensorError


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return Zoo().get()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (300, 300), (1, 1), (37, 1921), (1080, 1920)])
def test_a_picture_is_stretched_and_becomes_red_green_blue_planes(card: ModelCard, height: int, width: int) -> None:
    image = picture(height, width)
    made = Preprocessor(card).prepare(image)
    resized = cv2.resize(image, (300, 300), interpolation=cv2.INTER_LINEAR)
    assert made.shape == (1, 3, 300, 300)
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    for plane, channel in enumerate((2, 1, 0)):
        np.testing.assert_array_equal(made[0, plane], resized[:, :, channel].astype(np.float32))


def test_pictures_need_not_be_contiguous(card: ModelCard) -> None:
    image = picture(200, 300)[::2, ::-1]
    preprocessor = Preprocessor(card)
    expected = preprocessor.prepare(np.ascontiguousarray(image)).copy()
    np.testing.assert_array_equal(preprocessor.prepare(image), expected)


def test_the_next_call_takes_the_buffer_again(card: ModelCard) -> None:
    preprocessor = Preprocessor(card)
    first = preprocessor.prepare(picture(10, 10, seed=1))
    before = first.copy()
    second = preprocessor.prepare(picture(20, 30, seed=2))
    assert second is first
    assert not np.array_equal(before, second)
    np.testing.assert_array_equal(preprocessor.prepare(picture(10, 10, seed=1)), before)


def test_the_frame_is_left_alone(card: ModelCard) -> None:
    image = picture(300, 300)
    before = image.copy()
    Preprocessor(card).prepare(image)
    np.testing.assert_array_equal(image, before)


def test_order_mean_and_scale_of_the_card_are_applied(card: ModelCard) -> None:
    how = Preprocessing(order="BGR", mean=(10.0, 20.0, 30.0), scale=(0.5, 1.0, 2.0))
    made = Preprocessor(dataclasses.replace(card, preprocessing=how)).prepare(
        np.full((5, 5, 3), (50, 60, 70), np.uint8)
    )
    np.testing.assert_array_equal(made[0, :, 0, 0], np.array([20, 40, 80], np.float32))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(card: ModelCard, image: Any) -> None:
    with pytest.raises(TensorError, match="H x W x 3 uint8 BGR"):
        Preprocessor(card).prepare(image)


@pytest.mark.parametrize("place", ["top-left", "centre"])
@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (300, 300), (1, 1), (1, 3000), (37, 1921)])
def test_a_letterbox_keeps_the_ratio_and_pads_the_rest(card: ModelCard, height: int, width: int, place: str) -> None:
    how = Preprocessing(resize="letterbox", place=place, pad=114, order="BGR")
    preprocessor = Preprocessor(dataclasses.replace(card, preprocessing=how))
    preprocessor.prepare(picture(50, 90))  # what it leaves behind must not show
    image = picture(height, width)
    made = preprocessor.prepare(image)[0]
    shrunk = max(1, 300 * min(width, height) // max(width, height))
    inside = (300, shrunk) if width >= height else (shrunk, 300)
    x, y = ((300 - inside[0]) // 2, (300 - inside[1]) // 2) if place == "centre" else (0, 0)
    assert preprocessor.placed((width, height)) == (x, y, *inside)
    expected = np.full((300, 300, 3), 114, np.uint8)
    expected[y : y + inside[1], x : x + inside[0]] = cv2.resize(image, inside, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(made, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
def test_planes_may_come_last_and_be_integers(card: ModelCard, order: str, dtype: str) -> None:
    how = Preprocessing(layout="NHWC", order=order)
    spec = TensorSpec("image", dtype, (1, 6, 4, 3))
    made = Preprocessor(dataclasses.replace(card, preprocessing=how, inputs=(spec,))).prepare(
        np.full((5, 5, 3), (50, 60, 70), np.uint8)
    )
    assert (made.shape, made.dtype) == ((1, 6, 4, 3), np.dtype(dtype))
    assert made[0, 5, 3].tolist() == ([70, 60, 50] if order == "RGB" else [50, 60, 70])


def test_mean_and_scale_go_with_the_planes_when_these_come_last(card: ModelCard) -> None:
    how = Preprocessing(layout="NHWC", mean=(10.0, 20.0, 30.0), scale=(0.5, 1.0, 2.0))
    spec = TensorSpec("image", "float32", (1, 6, 4, 3))
    made = Preprocessor(dataclasses.replace(card, preprocessing=how, inputs=(spec,))).prepare(
        np.full((5, 5, 3), (50, 60, 70), np.uint8)
    )
    assert made[0, 0, 0].tolist() == [30.0, 40.0, 40.0]


@given(
    frame=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    size=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    how=st.builds(
        Preprocessing, resize=st.sampled_from(["stretch", "letterbox"]), place=st.sampled_from(["top-left", "centre"])
    ),
    box=st.tuples(*[st.floats(0, 1, width=32)] * 4),
)
def test_a_box_finds_its_way_into_the_input_and_back(
    card: ModelCard,
    frame: tuple[int, int],
    size: tuple[int, int],
    how: Preprocessing,
    box: tuple[float, float, float, float],
) -> None:
    spec = TensorSpec("image", "float32", (1, 3, size[1], size[0]))
    preprocessor = Preprocessor(dataclasses.replace(card, preprocessing=how, inputs=(spec,)))
    x, y, width, height = preprocessor.placed(frame)
    assert x >= 0
    assert y >= 0
    assert x + width <= size[0]
    assert y + height <= size[1]
    assert (width, height) == size or how.resize == "letterbox"
    assert width == size[0] or height == size[1]
    original = np.array([box], np.float32) * np.array(frame * 2, np.float32)
    inside = original * np.array([width, height] * 2) / np.array(frame * 2) + np.array([x, y] * 2)
    np.testing.assert_allclose(preprocessor.undo(inside.astype(np.float32), frame), original, rtol=1e-3, atol=0.6)


def test_boxes_come_back_to_the_frame_clipped(card: ModelCard) -> None:
    boxes = np.array([[0, 0, 300, 300], [30, 75, 60, 150], [-5, -5, 310, 1e30]], np.float32)
    expected = np.array([[0, 0, 640, 480], [64, 120, 128, 240], [0, 0, 640, 480]], np.float32)
    found = Preprocessor(card).undo(boxes, (640, 480))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_no_boxes_come_back_as_none(card: ModelCard) -> None:
    assert Preprocessor(card).undo(np.empty((0, 4), np.float32), (640, 480)).shape == (0, 4)


@given(
    boxes=hnp.arrays(
        np.float32, st.tuples(st.integers(0, 5), st.just(4)), elements=st.floats(-(2**70), 2**70, width=32)
    ),
    width=st.integers(1, 8000),
    height=st.integers(1, 8000),
)
def test_boxes_never_leave_the_frame(card: ModelCard, boxes: Any, width: int, height: int) -> None:
    found = Preprocessor(card).undo(boxes, (width, height))
    assert (found >= 0).all()
    assert (found <= np.array([width, height, width, height])).all()


def test_a_missing_opencv_is_named_with_its_remedy(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependency, match="apt-get install libgl1"):
        Preprocessor(card)
