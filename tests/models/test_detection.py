from __future__ import annotations

import dataclasses
import json
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.card import ModelCard
from models.detection import (
    MAX_DETECTIONS,
    Detections,
    Detector,
    pack_detections,
    parse_detections,
    to_supervision,
)
from models.detection.candidates import MAX_CANDIDATES, suppress
from models.preprocess import Preprocessor
from models.runtime import load_submodel
from models.zoo import Zoo
from splitrtc_errors import MissingDependency, ProtocolError, TensorError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "detections.json").read_text(encoding="utf-8"))
ANCHORS, CLASSES = 1917, 90


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return Zoo().get()


def outputs(*boxes: tuple[int, int, float, tuple[float, float, float, float]]) -> list[Any]:
    """The model's outputs for these (anchor, class, score, (y1, x1, y2, x2) from 0 to 1)."""
    scores = np.zeros((1, ANCHORS, CLASSES), np.float32)
    places = np.zeros((1, ANCHORS, 1, 4), np.float32)
    for anchor, label, score, place in boxes:
        scores[0, anchor, label] = score
        places[0, anchor, 0] = place
    return [scores, places]


def made(*items: tuple[int, float, tuple[float, float, float, float]]) -> Detections:
    """Detections from (class, score, box)."""
    return Detections(
        np.array([box for _, _, box in items], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in items], np.float32),
        np.array([label for label, _, _ in items], np.int64),
    )


def as_items(detections: Detections) -> list[tuple[int, float, list[float]]]:
    return list(zip(detections.classes.tolist(), detections.scores.tolist(), detections.xyxy.tolist(), strict=True))


def assert_types(detections: Detections) -> None:
    assert detections.xyxy.dtype == np.float32
    assert detections.scores.dtype == np.float32
    assert detections.classes.dtype == np.int64


def test_boxes_are_turned_into_pixels_of_the_models_input(card: ModelCard) -> None:
    found = Detector(card).decode(outputs((7, 16, 0.5, (0.25, 0.5, 0.75, 1.25)), (9, 0, 0.75, (-0.5, 0, 0.5, 0.5))))
    assert as_items(found) == [(0, 0.75, [0.0, -150.0, 150.0, 150.0]), (16, 0.5, [150.0, 75.0, 375.0, 225.0])]
    assert_types(found)


def test_scores_below_the_cards_are_left_out(card: ModelCard) -> None:
    raw = outputs((0, 0, 0.3, (0, 0, 0.1, 0.1)), (1, 1, 0.29, (0, 0, 1, 1)), (2, 2, np.nan, (0, 0, 1, 1)))
    assert as_items(Detector(card).decode(raw))[0][0] == 0
    assert len(Detector(card).decode(raw)) == 1
    assert len(Detector(card, score=0.2).decode(raw)) == 2
    assert len(Detector(card, score=0.9).decode(raw)) == 0


def test_a_worse_box_of_the_same_class_goes_one_of_another_class_stays(card: ModelCard) -> None:
    raw = outputs(
        (0, 3, 0.9, (0, 0, 0.5, 0.5)),
        (1, 3, 0.8, (0, 0, 0.5, 0.45)),
        (2, 4, 0.7, (0, 0, 0.5, 0.5)),
        (3, 3, 0.6, (0, 0, 0.5, 0.25)),  # half of the best one: below 0.6
    )
    assert [(label, round(score, 1)) for label, score, _ in as_items(Detector(card).decode(raw))] == [
        (3, 0.9),
        (4, 0.7),
        (3, 0.6),
    ]


def test_one_anchor_may_have_several_classes(card: ModelCard) -> None:
    raw = outputs((5, 1, 0.4, (0, 0, 1, 1)), (5, 2, 0.6, (0, 0, 1, 1)))
    assert Detector(card).decode(raw).classes.tolist() == [2, 1]


def test_boxes_that_are_not_finite_are_dropped_and_scores_end_at_one(card: ModelCard) -> None:
    raw = outputs(
        (0, 0, 0.9, (0, 0, np.inf, 1)),
        (1, 0, 0.8, (0, np.nan, 1, 1)),
        (2, 0, 0.7, (0, 0, 3e38, 1)),
        (3, 0, 1.5, (0, 0, 1, 1)),
    )
    assert as_items(Detector(card).decode(raw)) == [(0, 1.0, [0.0, 0.0, 300.0, 300.0])]


def test_huge_and_empty_boxes_do_no_harm(card: ModelCard) -> None:
    raw = outputs((0, 0, 0.9, (0, 0, 1e30, 1e30)), (1, 0, 0.8, (0, 0, 1e30, 1e30)), (2, 0, 0.7, (0, 0, 0, 0)))
    assert len(Detector(card).decode(raw)) == 3


def test_at_most_a_hundred_come_out_however_many_go_in(card: ModelCard) -> None:
    random = np.random.default_rng(3)
    scores = random.random((1, ANCHORS, CLASSES), np.float32)
    corners = random.random((1, ANCHORS, 1, 2), np.float32)
    boxes = np.concatenate([corners, corners + np.float32(0.01)], axis=3)
    found = Detector(card).decode([scores, boxes])
    assert len(found) == MAX_DETECTIONS
    assert found.scores[0] == scores.max()
    assert parse_detections(pack_detections(found)).classes.tolist() == found.classes.tolist()
    # The candidates are the best ones: the hundred that stay are among the best of all.
    assert found.scores[-1] >= np.sort(scores.reshape(-1))[-MAX_CANDIDATES]


def test_outputs_are_taken_by_name_not_by_place(card: ModelCard) -> None:
    turned = dataclasses.replace(card, outputs=card.outputs[::-1])
    scores, boxes = outputs((0, 5, 0.5, (0, 0, 1, 1)))
    assert Detector(turned).decode([boxes, scores]).classes.tolist() == [5]


def test_outputs_of_other_shapes_are_refused(card: ModelCard) -> None:
    scores, boxes = outputs()
    for wrong in ([boxes, scores], [scores], [scores[:, :-1], boxes]):
        with pytest.raises(TensorError, match="expects outputs of shapes"):
            Detector(card).decode(wrong)


def greedy(boxes: Any, classes: Any, iou: np.float32) -> list[int]:
    """The textbook's loop."""
    kept: list[int] = []
    for i in range(len(boxes)):
        for j in kept:
            low = np.maximum(boxes[i, :2], boxes[j, :2])
            high = np.minimum(boxes[i, 2:], boxes[j, 2:])
            shared = np.prod(np.maximum(high - low, 0))
            union = np.prod(boxes[i, 2:] - boxes[i, :2]) + np.prod(boxes[j, 2:] - boxes[j, :2]) - shared
            if classes[i] == classes[j] and shared > iou * union:
                break
        else:
            kept.append(i)
    return kept


@given(
    items=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 9), st.integers(0, 9), st.integers(0, 1)),
        max_size=40,
    ),
    iou=st.sampled_from([0.0, 0.25, 0.5, 0.6, 1.0]),
)
def test_suppression_is_the_greedy_one(items: list[tuple[int, int, int, int, int]], iou: float) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in items], np.float32).reshape(-1, 4)
    classes = np.array([label for *_, label in items], np.int64)
    assert suppress(boxes, classes, np.float32(iou)).tolist() == greedy(boxes, classes, np.float32(iou))


def test_suppression_follows_a_long_chain() -> None:
    # Each overlaps its neighbours only: every second one stays.
    boxes = np.array([(4 * i, 0, 4 * i + 20, 10) for i in range(60)], np.float32)
    assert suppress(boxes, np.zeros(60, np.int64), np.float32(0.6)).tolist() == list(range(0, 60, 2))


def test_suppression_agrees_with_opencv(card: ModelCard) -> None:
    random = np.random.default_rng(7)
    corners = random.integers(0, 200, (150, 2))
    boxes = np.concatenate([corners, corners + random.integers(20, 100, (150, 2))], axis=1).astype(np.float32)
    classes = random.integers(0, 3, 150)
    scores = np.linspace(0.9, 0.4, 150, dtype=np.float32)
    rectangles = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    expected = cv2.dnn.NMSBoxesBatched(rectangles, scores.tolist(), classes.tolist(), 0.0, 0.5)
    assert suppress(boxes, classes, np.float32(0.5)).tolist() == np.sort(np.ravel(expected)).tolist()


def test_real_pictures_show_what_is_on_them(card: ModelCard, shared_dir: Path) -> None:
    image = cv2.imread(str(shared_dir / "data" / "samples" / "dog.jpg"))
    assert image is not None
    preprocessor = Preprocessor(card)
    found = Detector(card).decode(load_submodel(card.path, "cpu").run([preprocessor.prepare(image)]))
    assert "dog" in {card.labels[label] for label in found.at_least(card.detection.display_score).classes}


def test_at_least_keeps_the_better_ones() -> None:
    detections = made((1, 0.9, (0, 0, 1, 1)), (2, 0.5, (0, 0, 2, 2)), (3, 0.4, (0, 0, 3, 3)))
    assert detections.at_least(0.5).classes.tolist() == [1, 2]
    assert len(detections.at_least(0.95)) == 0


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda vector: vector["about"])
def test_bytes_agree_with_the_vectors_both_ways(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    items = [(item["class"], item["score"], item["box"]) for item in vector["detections"]]
    assert as_items(parse_detections(data)) == items
    assert pack_detections(made(*items)) == data


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["reason"])
def test_bad_vectors_are_refused(vector: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        parse_detections(bytes.fromhex(vector["bytes"]))


def test_parsed_detections_are_arrays_of_the_machines_own_byte_order() -> None:
    parsed = parse_detections(memoryview(pack_detections(made((7, 0.5, (1, 2, 3, 4))))))
    assert_types(parsed)
    assert parsed.xyxy.flags.writeable


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        (made(*[(0, 0.5, (0, 0, 1, 1))] * 101), "at most 100"),
        (made((0, 1.5, (0, 0, 1, 1))), "between 0 and 1"),
        (made((0, 0.5, (0, 0, np.inf, 1))), "not finite"),
        (made((0, 0.4, (0, 0, 1, 1)), (0, 0.5, (0, 0, 1, 1))), "descending"),
        (made((-1, 0.5, (0, 0, 1, 1))), "from 0 to 65535"),
        (made((65536, 0.5, (0, 0, 1, 1))), "from 0 to 65535"),
    ],
)
def test_what_a_reader_would_refuse_is_not_packed(detections: Detections, message: str) -> None:
    with pytest.raises(TensorError, match=message):
        pack_detections(detections)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(bytes.fromhex(draw(st.sampled_from(VECTORS["good"]))["bytes"]))
    for _ in range(draw(st.integers(1, 4))):
        match draw(st.sampled_from(["set", "cut", "grow"])):
            case "set" if data:
                data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
            case "cut":
                del data[draw(st.integers(0, len(data))) :]
            case _:
                data += draw(st.binary(max_size=30))
    return bytes(data)


@given(data=st.binary(max_size=200) | mutated())
def test_any_bytes_are_refused_or_mean_themselves(data: bytes) -> None:
    try:
        parsed = parse_detections(data)
    except ProtocolError:
        return
    again = parse_detections(pack_detections(parsed))
    assert as_items(again) == as_items(parsed)
    assert len(data) == 1 + 24 * len(parsed)


def test_the_layout_on_the_wire_is_that_of_the_protocol() -> None:
    data = pack_detections(made((258, 0.5, (1, 2, 3, 4))))
    assert data == b"\x01" + struct.pack(">HHfffff", 258, 0, 0.5, 1, 2, 3, 4)


def test_supervision_gets_boxes_scores_classes_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, Any] = {}
    stub = ModuleType("supervision")
    stub.Detections = taken.update  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", stub)
    detections = made((1, 0.9, (0, 0, 1, 1)))
    to_supervision(detections, ["cat", "dog"])
    assert taken["xyxy"] is detections.xyxy
    assert taken["confidence"] is detections.scores
    assert taken["class_id"] is detections.classes
    assert taken["data"]["class_name"].tolist() == ["dog"]


def test_a_missing_supervision_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependency, match=r"splitrtc\[supervision\]"):
        to_supervision(made(), [])


def test_supervision_itself_takes_them() -> None:
    supervision = pytest.importorskip("supervision")
    converted = to_supervision(made((1, 0.9, (0, 0, 1, 1))), ["cat", "dog"])
    assert isinstance(converted, supervision.Detections)
    assert len(to_supervision(made(), ["cat"])) == 0
