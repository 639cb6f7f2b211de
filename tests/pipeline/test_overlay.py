from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from models import Detections
from pipeline.events import ModeChanged
from pipeline.outcome import FrameResult, Timings
from pipeline.overlay import annotate, status_line


def detections(*boxes: tuple[float, float, float, float]) -> Detections:
    """One object of class i per box."""
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32), np.arange(len(boxes))
    )


def test_the_frame_itself_stays_as_it_is(make_result: Callable[..., FrameResult]) -> None:
    result = make_result(size=(640, 480))
    before = result.frame.image.copy()
    drawn = annotate(result)
    assert np.array_equal(result.frame.image, before)
    assert drawn.shape == before.shape
    assert not np.array_equal(drawn, before)


def test_a_box_is_drawn_where_the_object_is_with_its_label_above(make_result: Callable[..., FrameResult]) -> None:
    result = make_result(size=(640, 480))
    result = dataclasses.replace(result, detections=detections((100, 200, 300, 400)))
    ground = result.frame.image[0, 0]
    drawn = annotate(result)
    colour = drawn[300, 100]
    assert (colour != ground).any()
    for y, x in [(400, 200), (300, 300), (200, 290)]:
        assert (drawn[y, x] == colour).all()
    assert (drawn[300, 200] == ground).all()  # the object itself is not painted over
    assert (drawn[185:200, 100:120] == colour).all(axis=2).any()  # the label's ground


def test_classes_have_colours_of_their_own(make_result: Callable[..., FrameResult]) -> None:
    boxes = [(10.0 + 80 * i, 200.0, 60.0 + 80 * i, 300.0) for i in range(7)]
    result = dataclasses.replace(make_result(size=(640, 480)), detections=detections(*boxes))
    drawn = annotate(result)
    assert len({tuple(drawn[250, int(x1)]) for x1, *_ in boxes}) == 7


@pytest.mark.parametrize(
    "box",
    [
        (-1e9, -1e9, 1e9, 1e9),
        (float("nan"), 0.0, float("inf"), float("-inf")),
        (630.0, 470.0, 700.0, 500.0),
        (-50.0, -50.0, -10.0, -10.0),
        (5.0, 5.0, 5.0, 5.0),
    ],
)
def test_no_box_breaks_the_drawing(make_result: Callable[..., FrameResult], box: tuple[float, ...]) -> None:
    result = dataclasses.replace(make_result(size=(640, 480)), detections=detections(box))  # type: ignore[arg-type]
    assert annotate(result).shape == (480, 640, 3)


@pytest.mark.parametrize("size", [(1, 1), (20, 10), (3840, 2160)])
def test_any_size_of_picture_will_do(make_result: Callable[..., FrameResult], size: tuple[int, int]) -> None:
    assert annotate(make_result(size=size)).shape == (size[1], size[0], 3)


def test_a_frame_without_an_answer_only_gets_its_line(make_result: Callable[..., FrameResult]) -> None:
    result = make_result(size=(640, 480), answered=False)
    drawn = annotate(result)
    assert np.array_equal(drawn[:440], result.frame.image[:440])
    assert not np.array_equal(drawn[440:], result.frame.image[440:])


def test_the_status_line_says_what_is_known(make_result: Callable[..., FrameResult]) -> None:
    result = make_result(7)
    assert status_line(result) == "#7  20 ms  9.0 kB"
    assert status_line(dataclasses.replace(result, share_received=0.876)) == "#7  20 ms  9.0 kB  88% received"
    lost = dataclasses.replace(result, detections=None, status="lost", timings=Timings(), bytes_sent=0)
    assert status_line(lost) == "#7  lost"
    assert status_line(dataclasses.replace(result, mode="local", bytes_sent=0)) == "#7  local  20 ms"
    assert status_line(dataclasses.replace(lost, mode="none")) == "#7  lost"


def test_who_answers_and_why_stands_on_top(make_result: Callable[..., FrameResult]) -> None:
    result = make_result(size=(640, 480), answered=False)
    for mode in ("split", "local", "none"):
        point = None if mode == "none" else {"model": "m", "partition": None}
        change = ModeChanged(mode, point, "a reason", 0.0)
        drawn = annotate(dataclasses.replace(result, mode=mode, change=change))
        assert not np.array_equal(drawn[:30], result.frame.image[:30])
        assert np.array_equal(drawn[40:440], result.frame.image[40:440])
        assert ((drawn[:30] == (0, 0, 160)).all(axis=2).mean() > 0.1) == (mode == "none")
