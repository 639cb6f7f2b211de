from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc.statistics import MAX_RECENT, MAX_UNANSWERED, LinkStatistics, Window


def test_empty_window_knows_nothing() -> None:
    window = Window()
    assert len(window) == 0
    assert (window.p50, window.p95, window.p99) == (None, None, None)


def test_percentiles_are_values_by_nearest_rank() -> None:
    window = Window(100)
    for value in range(100, 0, -1):
        window.add(value)
    assert (window.p50, window.p95, window.p99) == (50, 95, 99)
    assert (window.percentile(0), window.percentile(100)) == (1, 100)


def test_window_forgets_the_oldest() -> None:
    window = Window(3)
    for value in (9, 1, 2, 3):
        window.add(value)
    assert len(window) == 3
    assert window.percentile(100) == 3


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=50), st.floats(0, 100))
def test_percentile_is_the_smallest_value_that_enough_values_do_not_exceed(values: list[float], percent: float) -> None:
    window = Window(50)
    for value in values:
        window.add(value)
    result = window.percentile(percent)
    assert result in values
    enough = len(values) * percent / 100
    assert sum(value <= result for value in values) >= enough
    smaller = [value for value in values if value < result]
    assert not smaller or sum(value <= max(smaller) for value in values) < enough


def test_network_share_is_what_remains() -> None:
    link = LinkStatistics()
    link.sent(1, 9_000, 8, 10.0)
    assert link.answered(1, captured=9.5, remote_seconds=0.25, slices_received=8, now=11.0) == 0.75
    assert link.network.p50 == 0.75
    assert link.age.p50 == 1.5
    assert (link.frames_sent, link.frames_answered) == (1, 1)


def test_network_share_is_never_negative() -> None:
    link = LinkStatistics()
    link.sent(1, 100, 1, 10.0)
    assert link.answered(1, captured=10.0, remote_seconds=99.0, slices_received=1, now=10.5) == 0.0


def test_incomplete_frame_tells_age_and_loss_but_not_the_network_share() -> None:
    link = LinkStatistics()
    link.sent(1, 8_000, 8, 1.0)
    assert link.answered(1, captured=1.0, remote_seconds=0.0, slices_received=6, now=1.5) is None
    assert len(link.network) == 0
    assert link.age.p50 == 0.5
    assert link.goodput(1.5) == 6_000 * 8
    assert link.slice_loss(1.5) == 0.25


def test_answers_to_unknown_frames_are_counted() -> None:
    link = LinkStatistics()
    link.sent(1, 100, 1, 0.0)
    link.answered(1, 0.0, 0.0, 1, 0.1)
    assert link.answered(1, 0.0, 0.0, 1, 0.2) is None
    assert link.answered(7, 0.0, 0.0, 1, 0.3) is None
    assert (link.answers_unknown, link.frames_answered) == (2, 1)


def test_more_slices_than_were_sent_do_not_raise_the_goodput() -> None:
    link = LinkStatistics()
    link.sent(1, 1_000, 2, 0.0)
    link.answered(1, 0.0, 0.0, 4_096, 0.5)
    assert link.goodput(0.5) == 8_000
    assert link.slice_loss(0.5) == 0.0


def test_goodput_and_loss_forget_after_a_second() -> None:
    link = LinkStatistics()
    link.sent(1, 1_000, 2, 0.0)
    link.answered(1, 0.0, 0.0, 1, 0.5)
    assert link.goodput(1.49) == 4_000
    assert link.goodput(1.5) == 0
    assert link.slice_loss(1.49) == 0.5
    assert link.slice_loss(1.5) is None


def test_dropped_frame_expects_an_answer_only_if_something_was_sent() -> None:
    link = LinkStatistics()
    link.sent(1, 1_000, 2, 0.0)
    link.sent(2, 1_000, 2, 0.0)
    link.dropped(1, slices_sent=0)
    link.dropped(2, slices_sent=1)
    assert link.frames_dropped == 2
    link.answered(1, 0.0, 0.0, 1, 0.5)
    assert (link.answers_unknown, link.frames_answered) == (1, 0)
    link.answered(2, 0.0, 0.0, 1, 0.5)
    assert (link.answers_unknown, link.frames_answered) == (1, 1)


def test_memory_is_bounded_when_nothing_is_answered() -> None:
    link = LinkStatistics()
    for frame_id in range(1, MAX_UNANSWERED + 11):
        link.sent(frame_id, 100, 1, 0.0)
    assert link.frames_unanswered == 10
    link.answered(10, 0.0, 0.0, 1, 0.1)
    link.answered(11, 0.0, 0.0, 1, 0.1)
    assert (link.answers_unknown, link.frames_answered) == (1, 1)


def test_memory_is_bounded_when_everything_is_answered_at_once() -> None:
    link = LinkStatistics()
    for frame_id in range(1, MAX_RECENT + 101):
        link.sent(frame_id, 1, 1, 0.0)
        link.answered(frame_id, 0.0, 0.0, 1, 0.5)
    assert link.goodput(0.5) == MAX_RECENT * 8


def test_snapshot_leaves_out_what_is_not_known() -> None:
    assert LinkStatistics().snapshot(0.0) == {
        "frames_sent": 0,
        "frames_dropped": 0,
        "frames_answered": 0,
        "frames_unanswered": 0,
        "answers_unknown": 0,
        "goodput": 0.0,
    }


def test_snapshot_is_a_report_of_finite_numbers() -> None:
    link = LinkStatistics()
    for frame_id in range(1, 5):
        link.sent(frame_id, 1_000, 1, float(frame_id))
    for frame_id in range(1, 4):
        link.answered(frame_id, float(frame_id), 0.125, 1, frame_id + 0.25 * frame_id)
    figures = link.snapshot(3.75)
    assert all(math.isfinite(value) for value in figures.values())
    assert (figures["network_p50"], figures["network_p99"]) == (0.375, 0.625)
    assert (figures["age_p50"], figures["age_p95"]) == (0.5, 0.75)
    assert figures["goodput"] == pytest.approx(8_000)
    assert figures["slice_loss"] == 0
