from __future__ import annotations

import pytest

from models import TensorSpec
from pipeline.limits import (
    BURST,
    CONTROL_RATE,
    FRAME_GENEROSITY,
    GENEROSITY,
    MIN_FPS,
    MIN_UNITS,
    PATIENCE,
    Intake,
    Verdict,
    frame_units,
)
from rtc import DEFAULT_UNIT, MAX_SLICES
from rtc.reassembly import MAX_FRAME_BYTES

ADMITTED, DROPPED, EXCEEDED = Verdict.ADMITTED, Verdict.DROPPED, Verdict.EXCEEDED


@pytest.mark.parametrize(("fps", "units"), [(30, 16), (60, 40), (1, 16), (30, 3)])
def test_a_ue_may_send_a_multiple_of_what_was_agreed_for_ever(fps: float, units: int) -> None:
    intake = Intake(fps, units, 0.0)
    for frame in range(int(fps * 20)):
        now = frame / fps
        for _ in range(4 * units):
            assert intake.unit(DEFAULT_UNIT, now) is ADMITTED


def test_what_the_network_held_back_may_come_at_once() -> None:
    intake = Intake(30, 16, 0.0)
    assert all(intake.unit(DEFAULT_UNIT, 0.0) is ADMITTED for _ in range(30 * 16))


def test_units_beyond_are_dropped_and_then_too_many() -> None:
    intake = Intake(1, 1, 0.0)
    rate = GENEROSITY * MIN_FPS * MIN_UNITS
    verdicts = [intake.unit(20, 0.0) for _ in range(int(rate * (BURST + PATIENCE)) + 1)]
    assert verdicts.count(ADMITTED) == rate * BURST
    assert verdicts.count(DROPPED) == rate * PATIENCE
    assert verdicts[-1] is EXCEEDED


def test_large_units_are_limited_by_their_bytes() -> None:
    intake = Intake(1, 1, 0.0)
    large = 50 * DEFAULT_UNIT
    verdicts = [intake.unit(large, 0.0) for _ in range(int(GENEROSITY * MIN_FPS * MIN_UNITS))]
    assert verdicts.count(ADMITTED) == int(GENEROSITY * MIN_FPS * MIN_UNITS * BURST / 50)
    assert EXCEEDED in verdicts


def test_who_is_a_little_too_fast_is_not_ended() -> None:
    intake = Intake(1, 1, 0.0)
    rate = GENEROSITY * MIN_FPS * MIN_UNITS
    verdicts = {intake.unit(20, number / (1.08 * rate)) for number in range(int(60 * rate))}
    assert verdicts == {ADMITTED, DROPPED}


def test_control_messages() -> None:
    intake = Intake(30, 8, 0.0)
    assert all(intake.control(number / CONTROL_RATE) is ADMITTED for number in range(1000))
    now = 1000 / CONTROL_RATE
    verdicts = [intake.control(now) for _ in range(int(CONTROL_RATE * (BURST + PATIENCE)) + 1)]
    assert verdicts[0] is ADMITTED
    assert verdicts[-1] is EXCEEDED
    assert intake.unit(20, now) is ADMITTED


@pytest.mark.parametrize(
    ("profiles", "units"),
    [
        (["raw"], 26 + 1),
        (["q8"], 7 + 1),
        (["q4-zstd"], 4 + 1),
        (["q4", "raw-zstd", "q8"], 26 + 1),
        ([], 1),
    ],
)
def test_units_of_a_frame(profiles: list[str], units: int) -> None:
    tensors = [TensorSpec("a", "float32", (1, 20, 19, 19)), TensorSpec("b", "float32", ())]
    assert frame_units(tensors, profiles) == units


def test_units_of_a_huge_frame() -> None:
    assert frame_units([TensorSpec("a", "float32", (4096, 4096))], ["raw"]) == MAX_SLICES


def test_what_is_kept_of_a_frame_is_a_multiple_of_its_size_and_bounded() -> None:
    assert Intake(30, 100, 0.0).frame_bytes == FRAME_GENEROSITY * 100 * DEFAULT_UNIT
    assert Intake(30, MAX_SLICES, 0.0).frame_bytes == MAX_FRAME_BYTES
    # Also in slices so small that what each holds alive besides its payload counts most.
    assert Intake(30, 1, 0.0).frame_bytes > 64 * (64 + 275)
