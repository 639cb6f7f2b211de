from __future__ import annotations

import json

import pytest

from pipeline.events import NO_LANE, ModeChanged, point_text

SPLIT = {"model": "m", "partition": "p", "profile": "q8", "provider": "cpu"}
WHOLE = {"model": "m", "partition": None, "profile": None, "provider": "cpu"}


@pytest.mark.parametrize(("point", "text"), [(SPLIT, "m at p, q8"), (WHOLE, "m")])
def test_a_point_in_words(point: dict[str, str | None], text: str) -> None:
    assert point_text(point) == text
    assert ModeChanged("split", point, "connected", 1.0).text == f"split: {text} (connected)"


def test_nobody_is_a_mode_too() -> None:
    change = ModeChanged(NO_LANE, None, "nobody there", 1.0)
    assert change.text == "waiting for the edge: nobody there"
    assert change.to_json()["point"] is None


def test_a_change_is_plain_json() -> None:
    change = ModeChanged("local", WHOLE, "no result for 0.6 s", 1.23456789)
    assert json.loads(json.dumps(change.to_json())) == {
        "event": "mode",
        "mode": "local",
        "point": WHOLE,
        "reason": "no result for 0.6 s",
        "time": 1.234568,
    }
