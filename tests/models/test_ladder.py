from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import Zoo
from models.ladder import CONTENTS, MAX_RUNGS, Measurement, Rung, read_ladder
from splitrtc_errors import ModelFileError

STATIC: dict[str, Any] = {
    "content": "static",
    "set": "street.mp4, 300 frames",
    "bytes": 545.0,
    "encode_ms": 3.7,
    "decode_ms": 1.0,
    "f1": 0.962,
    "f1_ci": [0.948, 0.975],
}
INTRA: dict[str, Any] = {**STATIC, "content": "intra", "map_drop": -0.05, "map_drop_ci": [-0.36, 0.47]}
LADDER: list[Any] = [{"profile": "klt:step=0.95", "measured": [STATIC, INTRA]}, {"profile": "raw", "measured": []}]


def ladder_with(**members: Any) -> list[Any]:
    return [{**LADDER[0], "measured": [{**INTRA, **members}]}]


def without(member: str) -> list[Any]:
    return [{**LADDER[0], "measured": [{name: value for name, value in INTRA.items() if name != member}]}]


def test_a_ladder_survives_the_way_to_json_and_back() -> None:
    rungs = read_ladder(LADDER, "ladder")
    assert [rung.profile for rung in rungs] == ["klt:step=0.95", "raw"]
    assert rungs[0].measured[0].map_drop is None
    assert rungs[0].measured[1].map_drop_ci == (-0.36, 0.47)
    assert [rung.to_json() for rung in rungs] == LADDER


fractions = st.floats(0, 1)
intervals = st.tuples(fractions, fractions).map(lambda ends: (min(ends), max(ends)))


@given(
    content=st.sampled_from(CONTENTS), figures=st.tuples(*3 * [st.floats(0, 1e9)]), f1=fractions, ends=intervals,
    drop=st.none() | st.floats(-100, 100),
)  # fmt: skip
def test_any_rung_survives_json(
    content: str, figures: tuple[float, float, float], f1: float, ends: tuple[float, float], drop: float | None
) -> None:
    one = Measurement(content, "a set", *figures, f1, ends, drop, None if drop is None else ends)
    rung = Rung("q8", (one,))
    assert Rung.from_json(json.loads(json.dumps(rung.to_json())), "a rung") == rung


BAD: list[tuple[str, list[Any], str]] = [
    ("no object", [1], "expected an object, not 1"),
    ("unknown member", [{**LADDER[0], "more": 1}], "unknown 'more'"),
    ("unknown member of a measurement", ladder_with(more=1), "klt:step=0.95: unknown 'more'"),
    ("profile", [{**LADDER[0], "profile": "Q 8"}], "'profile' is the id of a profile, not 'Q 8'"),
    ("profile twice", [LADDER[0], LADDER[0]], "no two rungs have the same profile"),
    ("content twice", [{**LADDER[0], "measured": [STATIC, STATIC]}], "measured once on each content"),
    ("too long", [{"profile": f"klt:step={n}", "measured": []} for n in range(1, MAX_RUNGS + 2)], "at most 64 rungs"),
    ("content", ladder_with(content="night"), "'content' is static or moving or intra, not 'night'"),
    ("negative bytes", ladder_with(bytes=-1), "'bytes' is between 0"),
    ("time a text", ladder_with(encode_ms="3"), "'encode_ms' is a float"),
    ("f1", ladder_with(f1=1.5), "'f1' is between 0 and 1"),
    ("interval of one end", ladder_with(f1_ci=[0.5]), "'f1_ci' is the two ends of an interval from 0 to 1"),
    ("interval backwards", ladder_with(f1_ci=[0.9, 0.8]), "'f1_ci' is the two ends"),
    ("interval beyond", ladder_with(map_drop_ci=[0, 200]), "'map_drop_ci' is the two ends of an interval from -100"),
    ("a mAP drop without its interval", without("map_drop_ci"), "'map_drop_ci' is missing"),
    ("an interval without its mAP drop", without("map_drop"), "unknown 'map_drop_ci'"),
    *((f"no {name}", without(name), f"'{name}' is missing") for name in STATIC),
]


@pytest.mark.parametrize(("value", "message"), [pytest.param(v, m, id=name) for name, v, m in BAD])
def test_bad_ladders_are_refused_with_the_reason(value: list[Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        read_ladder(value, "ladder X")
    assert str(caught.value).startswith("ladder X")


def test_the_bundled_model_s_default_is_what_its_ladder_shows_best() -> None:
    """The fewest bytes of what agrees by .96, on a clip that stands still and on images; neighbours bear it out."""
    card = Zoo().get()
    ladder = card.default_partition.ladder
    assert {rung.profile for rung in ladder} <= set(card.profiles)
    found = {rung.profile: {one.content: one for one in rung.measured} for rung in ladder}
    good = {name: by for name, by in found.items() if min(by["static"].f1, by["intra"].f1) >= 0.96}
    assert card.default_profile == min(good, key=lambda name: good[name]["static"].bytes)
