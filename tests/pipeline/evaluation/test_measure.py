from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import Zoo
from pipeline.evaluation.contender import Contender, Outcome, Segment
from pipeline.evaluation.material import Material, Span, survey
from pipeline.evaluation.measure import measure
from pipeline.evaluation.vision import Vision
from splitrtc_errors import CodecError, SourceError


@dataclass(frozen=True, slots=True, eq=False)
class Fake(Contender):
    """Codes a frame into as many bytes as its first pixel says, and fails from a segment on, if told."""

    fails_at: int = 99

    def run(self, segment: Segment, vision: Vision) -> Iterator[Outcome]:
        for image in segment.images:
            if segment.number >= self.fails_at:
                raise CodecError("no more of this")
            yield Outcome(int(image[0, 0, 0]), 0.0, 0.0, 0.0, 0.0, vision.whole(image))


@pytest.fixture
def vision(tiny_model: Path) -> Vision:
    card = Zoo([tiny_model.parent]).get("tiny")
    return Vision(card, card.default_partition, provider="cpu", score=0.1)


@pytest.fixture
def material(make_video: Callable[..., Path]) -> Material:
    return survey(make_video(), segments=(Span(1, 2), Span(5, 3)))


def run(contenders: list[Fake], material: Material, vision: Vision, **settings: Any) -> Any:
    return measure(contenders, material, vision, **{"jobs": 2, "advance": lambda: None, **settings})


def test_outcomes_come_in_the_order_of_the_frames(
    material: Material, vision: Vision, grey_index: Callable[[Any], int]
) -> None:
    one, other = Fake("one", "s", "picture"), Fake("other", "s", "split")
    steps: list[None] = []
    measured = run([one, other], material, vision, advance=lambda: steps.append(None))
    assert len(steps) == 4
    assert measured.lengths == [2, 3]
    assert measured.sizes == [(64, 48)] * 5
    assert list(measured.outcomes) == [one, other]
    sizes = [outcome.size for outcome in measured.outcomes[one]]
    assert sizes == [outcome.size for outcome in measured.outcomes[other]]
    assert [grey_index(np.array([size])) for size in sizes] == [1, 2, 5, 6, 7]
    assert len(measured.reference) == 5


def test_a_contender_that_fails_is_left_out_and_named(material: Material, vision: Vision) -> None:
    good, bad = Fake("good", "s", "split"), Fake("bad", "s", "split", fails_at=1)
    measured = run([bad, good], material, vision)
    assert list(measured.outcomes) == [good]
    assert len(measured.outcomes[good]) == 5
    assert {one.name: str(error) for one, error in measured.failed.items()} == {"bad": "no more of this"}


def test_a_clip_that_ends_early_is_told(material: Material, vision: Vision) -> None:
    longer = Material(material.path, 20, (Span(0, 2), Span(8, 5)))
    with pytest.raises(SourceError, match="ended after 10 frames"):
        run([Fake("one", "s", "split")], longer, vision)


def test_an_error_that_is_none_of_ours_ends_it(material: Material, vision: Vision) -> None:
    class Broken(Fake):
        def run(self, segment: Segment, vision: Vision) -> Iterator[Outcome]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run([Broken("broken", "s", "split")], material, vision)
