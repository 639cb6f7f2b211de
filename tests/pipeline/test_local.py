from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import Detector, ModelCard, Preprocessor, Zoo, load_submodel
from pipeline.frames import Frame
from pipeline.local import LocalLane, StandIn, first_in_time, load_own, stand_ins
from pipeline.outcome import FrameResult
from pipeline.settings import UeSettings
from splitrtc_errors import ModelFileError, UnknownModel


@pytest.fixture(scope="module")
def lane() -> LocalLane:
    return LocalLane(Zoo().get(), provider="cpu", threshold=0.3)


async def test_it_finds_what_the_whole_model_finds(lane: LocalLane, pictures: list[np.ndarray]) -> None:
    card, told = Zoo().get(), list[FrameResult]()
    preprocessor, model = Preprocessor(card), load_submodel(card.path, "cpu")
    for index, image in enumerate(pictures[:3]):
        frame = Frame(image, index, time.monotonic())
        assert lane.admits(frame)
        lane.submit(frame, lane.process(frame), told.append)
        found = Detector(card).decode(model.run([preprocessor.prepare(image)])).at_least(0.3)
        result = told[index]
        assert result.detections is not None
        assert result.detections.classes.tolist() == found.classes.tolist()
        expected = preprocessor.undo(found.xyxy, (frame.width, frame.height))
        np.testing.assert_allclose(result.detections.xyxy, expected, atol=1e-3)
    assert sum(len(result.detections or ()) for result in told) >= 3
    lane.forget()
    await lane.settle()


def test_a_result_of_the_device_alone(lane: LocalLane, pictures: list[np.ndarray]) -> None:
    result = lane.process(Frame(pictures[0], 7, time.monotonic()))
    assert (result.mode, result.status, result.frame_id, result.bytes_sent) == ("local", "ok", None, 0)
    stages = result.timings.milliseconds()
    total = stages.pop("total")
    assert set(stages) == {"wait", "preprocess", "head", "post"}
    assert sum(stages.values()) == pytest.approx(total, abs=0.01)
    assert lane.describe() == {
        "model": "ssdlite_mbv2_coco_300",
        "partition": None,
        "profile": None,
        "variant": None,
        "provider": "cpu",
    }
    assert 0 < lane.seconds < 60


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[ModelCard]]:
    """A function that makes a zoo of these cards: name, bytes of the file, whether it is here, labels."""
    whole = Zoo().get()
    here: set[str] = set()
    monkeypatch.setattr(ModelCard, "is_here", property(lambda card: card.name in here))

    def make(*described: tuple[str, int, bool, tuple[str, ...]]) -> list[ModelCard]:
        here.update(name for name, _, is_here, _ in described if is_here)
        return [replace(whole, name=name, size=size, labels=labels) for name, size, _, labels in described]

    return make


def test_the_same_model_stands_in_before_smaller_ones_that_find_the_same(cards: Any) -> None:
    zoo = Zoo()
    big, *others = cards(
        ("big", 90, True, ("cat", "?", "dog")),
        ("mid", 50, True, ("dog", "cat", "cow")),
        ("small", 10, True, ("cat", "dog")),
        ("elsewhere", 5, False, ("cat", "dog")),
        ("helmets", 1, True, ("helmet",)),
    )
    zoo._cards = {card.name: [card] for card in (big, *others)}
    assert [card.name for card in stand_ins(zoo, big)] == ["big", "small", "mid"]
    # Of a model of which only a part was delivered.
    assert [card.name for card in stand_ins(zoo, others[2])] == ["small", "mid", "big"]


BY_SIZE = (("slow", 251), ("broken", 1), ("quick", 250), ("quicker", 100))


def test_the_first_one_that_is_in_time_is_taken(cards: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    loaded = []

    def load(card: ModelCard) -> Any:
        loaded.append(card.name)
        if card.name == "broken":
            raise ModelFileError("no model at all")
        lane = object.__new__(LocalLane)
        lane.card, lane.seconds = card, card.size / 1000
        return lane

    candidates = cards(*((name, size, True, ("cat",)) for name, size in BY_SIZE))
    lane = first_in_time(iter(candidates), load, 0.5)
    assert lane is not None
    assert (lane.card.name, loaded) == ("quick", ["slow", "broken", "quick"])
    assert "slow takes 251 ms here" in caplog.text
    assert "broken is no stand-in for the edge: no model at all" in caplog.text
    assert first_in_time(iter(candidates), load, 0.1) is None


def test_the_model_asked_for_is_loaded(tiny_model: Path) -> None:
    lane = load_own(UeSettings("", mode="local", model="tiny", models=(tiny_model,)))
    white = Frame(np.full((4, 4, 3), 255, np.uint8), 0, 0.0)
    found = lane.process(white).detections
    assert found is not None
    assert found.classes.tolist() == [0, 1]
    with pytest.raises(UnknownModel):
        load_own(UeSettings("", mode="local", model="no such"))


def test_a_model_of_another_task_gives_its_outputs_and_has_no_stand_in_but_itself(scene: Path) -> None:
    lane = load_own(UeSettings("", mode="local", model="scene", models=(scene,)))
    picture = Frame(np.full((4, 4, 3), 255, np.uint8), 0, 0.0)
    result = lane.process(picture)
    assert (result.answered, result.detections) == (True, None)
    assert result.tensors is not None
    assert list(result.tensors) == [spec.name for spec in lane.card.outputs]
    assert not any(tensor.flags.writeable for tensor in result.tensors.values() if tensor.ndim)
    zoo = Zoo([scene])
    assert [card.name for card in stand_ins(zoo, zoo.get("scene"))] == ["scene"]
    assert "scene" not in [card.name for card in stand_ins(zoo, zoo.get())]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"model": "no such"}, "no model 'no such'"), ({"budget": 0.001}, "no model at hand finds the same in time")],
)
async def test_without_a_stand_in_it_is_told(
    settings: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in = StandIn(UeSettings("x", mode="auto", **settings))
    assert not await stand_in.ready()
    assert await stand_in.load(None) is None
    assert not await stand_in.ready()
    assert message in caplog.text
    stand_in.executor.shutdown()
