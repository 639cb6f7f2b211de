from __future__ import annotations

from pipeline.backlog import MAX_WAITING, Backlog


def test_the_newest_replaces_what_waits() -> None:
    backlog: Backlog[int] = Backlog()
    assert backlog.take() == []
    assert backlog.put(1, keep=False) == []
    assert backlog.put(2, keep=False) == [1]
    assert backlog.take() == [2]
    assert backlog.take() == []


def test_what_is_needed_later_is_kept_in_order_and_bounded() -> None:
    backlog: Backlog[int] = Backlog()
    dropped = [backlog.put(number, keep=True) for number in range(MAX_WAITING + 2)]
    assert dropped == [[]] * MAX_WAITING + [[0], [1]]
    assert backlog.take() == list(range(2, MAX_WAITING + 2))


def test_one_that_needs_none_before_it_drops_all() -> None:
    backlog: Backlog[int] = Backlog()
    for number in range(3):
        backlog.put(number, keep=True)
    assert backlog.put(3, keep=False) == [0, 1, 2]


def test_another_limit() -> None:
    backlog: Backlog[int] = Backlog(limit=2)
    assert [backlog.put(item, keep=True) for item in (1, 2, 3)] == [[], [], [1]]
    assert backlog.take() == [2, 3]
