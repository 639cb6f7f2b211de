from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import Detections
from pipeline.frames import Frame
from pipeline.outcome import FrameResult, Timings

FRAME = Frame(np.zeros((48, 64, 3), np.uint8), 5, 12.34567891, 0.25)


def test_only_stages_that_took_place_are_reported() -> None:
    assert Timings(head=0.0041234567, queue=0.0).milliseconds() == {"head": 4.123, "queue": 0.0}


def test_the_record_of_an_answered_frame_is_plain_json(make_result: Callable[..., FrameResult]) -> None:
    assert json.loads(json.dumps(make_result(3).to_json())) == {
        "frame_id": 4,
        "index": 3,
        "captured": 0.1,
        "pts": 0.1,
        "width": 64,
        "height": 48,
        "status": "ok",
        "mode": "split",
        "dropped_at": None,
        "share_received": 1.0,
        "share_returned": 1.0,
        "bytes_sent": 9000,
        "timings_ms": {"head": 4.0, "total": 20.0},
        "detections": [{"class": 1, "label": "dog", "score": 0.875, "box": [4.0, 20.0, 30.0, 40.0]}],
        "tensors": None,
    }


def test_nothing_found_is_an_answer_and_no_answer_is_none() -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    empty = FrameResult(frame=FRAME, status="ok", detections=nothing)
    skipped = FrameResult(frame=dataclasses.replace(FRAME, pts=None), status="skipped", dropped_at="capture")
    assert empty.answered
    assert empty.to_json()["detections"] == []
    assert not skipped.answered
    record = skipped.to_json()
    assert (record["detections"], record["dropped_at"], record["pts"]) == (None, "capture", None)


def test_of_tensors_the_record_has_what_they_look_like() -> None:
    tensors: dict[str, NDArray[Any]] = {
        "a": np.array([[1, 2, 6]], np.int64),
        "b": np.array([1.0, np.inf], np.float16),
        "c": np.array(True),
    }
    result = FrameResult(frame=FRAME, status="ok", tensors=tensors)
    assert result.answered
    assert json.loads(json.dumps(result.to_json()["tensors"], allow_nan=False)) == [
        {"name": "a", "type": "int64", "shape": [1, 3], "min": 1, "max": 6, "mean": 3.0},
        {"name": "b", "type": "float16", "shape": [2], "min": 1.0, "max": None, "mean": None},
        {"name": "c", "type": "bool", "shape": [], "min": True, "max": True, "mean": 1.0},
    ]


def test_a_class_without_a_name_is_called_by_its_number() -> None:
    result = FrameResult(frame=FRAME, status="ok", labels=("cat",))
    assert [result.label(index) for index in (0, 1, -1)] == ["cat", "1", "-1"]
