from __future__ import annotations

import pytest

from rtc.patience import MARGIN, MAX_PAUSES, Patience


def test_nothing_is_known_at_first() -> None:
    patience = Patience()
    patience.frame(None)  # a frame of one slice tells nothing
    assert patience.after(0) is None
    assert patience.after(3) is None


def test_it_waits_until_the_last_slice_is_due() -> None:
    patience = Patience()
    patience.frame(0.004)
    assert patience.after(1) == pytest.approx(0.005 + MARGIN)
    assert patience.after(2) == pytest.approx(0.010 + MARGIN)
    assert patience.after(1000) == patience.after(MAX_PAUSES)
    assert patience.after(0) == 0.0


def test_longer_pauses_are_learned_at_once_and_forgotten_slowly() -> None:
    patience = Patience()
    waits = []
    for pause in (0.002, 0.010, 0.002, 0.002):
        patience.frame(pause)
        waits.append(patience.after(1) or 0.0)
    assert waits[1] == pytest.approx(0.0125 + MARGIN)
    assert waits[1] > waits[2] > waits[3] > waits[0]
    for _ in range(100):
        patience.frame(0.002)
    assert patience.after(1) == pytest.approx(waits[0], rel=1e-3)


def test_slices_that_were_not_waited_for_teach() -> None:
    patience = Patience()
    patience.late(0.008, overtaken=False)
    assert patience.after(1) == pytest.approx(0.010 + MARGIN)
    patience.late(0.004, overtaken=True)
    patience.late(0.001, overtaken=True)
    assert patience.after(0) == pytest.approx(0.005)
    assert patience.after(1) == pytest.approx(0.010 + MARGIN)
