from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger import Entry, Ledger


def test_a_frame_is_taken_out_once() -> None:
    ledger: Ledger[str] = Ledger()
    assert ledger.open(7, "seven", expires=1.0) == []
    assert len(ledger) == 1
    assert ledger.close(7) == "seven"
    assert ledger.close(7) is None
    assert len(ledger) == 0


def test_a_frame_that_was_never_entered_is_not_in_flight() -> None:
    assert Ledger[str]().close(1) is None


def test_what_is_kept_of_a_frame_may_be_replaced() -> None:
    ledger: Ledger[str] = Ledger()
    ledger.open(1, "coded", expires=1.0)
    ledger.open(2, "coded", expires=2.0)
    ledger.replace(1, "sent")
    assert (ledger.get(1), ledger.get(2)) == ("sent", "coded")
    assert ledger.expire(1.0) == [Entry(1, 1.0, "sent")]


def test_the_oldest_gives_way_at_the_limit() -> None:
    ledger: Ledger[str] = Ledger(limit=2)
    assert ledger.open(1, "a", expires=9.0) == []
    assert ledger.open(2, "b", expires=3.0) == []
    assert ledger.open(3, "c", expires=4.0) == [Entry(1, 9.0, "a")]
    assert ledger.close(1) is None
    assert len(ledger) == 2


def test_frames_expire_at_their_own_times_whatever_their_order() -> None:
    ledger: Ledger[str] = Ledger()
    ledger.open(1, "slow", expires=5.0)
    ledger.open(2, "fast", expires=2.0)
    assert ledger.next_expiry() == 2.0
    assert ledger.expire(1.999) == []
    assert ledger.expire(2.0) == [Entry(2, 2.0, "fast")]  # at its time it is over, not only after it
    assert ledger.next_expiry() == 5.0
    assert ledger.expire(100.0) == [Entry(1, 5.0, "slow")]
    assert ledger.next_expiry() is None


def test_all_are_taken_out_at_the_end_in_their_order() -> None:
    ledger: Ledger[str] = Ledger()
    ledger.open(1, "a", expires=2.0)
    ledger.open(2, "b", expires=1.0)
    assert [entry.item for entry in ledger.clear()] == ["a", "b"]
    assert ledger.clear() == []
    assert ledger.next_expiry() is None


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("open"), st.floats(0, 10)),
            st.tuples(st.just("close"), st.integers(0, 60)),
            st.tuples(st.just("expire"), st.floats(0, 10)),
        ),
        max_size=60,
    )
)
def test_every_frame_ends_exactly_once_and_never_too_many_are_held(steps: list[tuple[str, float]]) -> None:
    ledger: Ledger[int] = Ledger(limit=5)
    opened, ended = 0, []
    for step, value in steps:
        if step == "open":
            ended += [entry.item for entry in ledger.open(opened, opened, value)]
            opened += 1
        elif step == "close":
            item = ledger.close(int(value))
            ended += [] if item is None else [item]
        else:
            over = ledger.expire(value)
            assert all(entry.expires <= value for entry in over)
            ended += [entry.item for entry in over]
            expiry = ledger.next_expiry()
            assert expiry is None or expiry > value
        assert len(ledger) <= 5
    ended += [entry.item for entry in ledger.clear()]
    assert sorted(ended) == list(range(opened))
