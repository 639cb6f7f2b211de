from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from pipeline.slot import NewestSlot


def test_the_newest_item_wins_and_the_loss_is_counted() -> None:
    slot: NewestSlot[str] = NewestSlot()
    assert slot.put("a") is None
    assert slot.put("b") == "a"
    assert slot.get(0) == "b"
    assert slot.get(0) is None
    assert (slot.accepted, slot.replaced) == (2, 1)


def test_the_last_item_can_be_taken_after_closing() -> None:
    slot: NewestSlot[str] = NewestSlot()
    slot.put("last")
    slot.close()
    assert slot.closed
    assert not slot.finished
    assert slot.get() == "last"
    assert slot.finished
    assert slot.get() is None


def test_a_closed_slot_hands_the_item_back() -> None:
    slot: NewestSlot[str] = NewestSlot()
    slot.close()
    assert slot.put("late") == "late"
    assert slot.get() is None
    assert (slot.accepted, slot.replaced) == (0, 0)


def test_an_empty_slot_is_waited_for_only_so_long() -> None:
    slot: NewestSlot[str] = NewestSlot()
    start = time.monotonic()
    assert slot.get(0.02) is None
    assert time.monotonic() - start >= 0.02
    assert not slot.finished


def test_whoever_waits_gets_the_item_as_soon_as_it_is_there() -> None:
    slot: NewestSlot[int] = NewestSlot()
    got: list[int | None] = []
    thread = threading.Thread(target=lambda: got.append(slot.get()))
    thread.start()
    slot.put(7)
    thread.join(5)
    assert got == [7]


def test_closing_wakes_everybody_who_waits() -> None:
    slot: NewestSlot[int] = NewestSlot()
    got: list[int | None] = []
    threads = [threading.Thread(target=lambda: got.append(slot.get())) for _ in range(3)]
    for thread in threads:
        thread.start()
    slot.close()
    for thread in threads:
        thread.join(5)
    assert got == [None, None, None]


@given(st.lists(st.booleans()))
def test_every_item_is_either_got_or_given_back_in_order(puts: list[bool]) -> None:
    slot: NewestSlot[int] = NewestSlot()
    seen = []
    for number, is_put in enumerate(puts):
        item = slot.put(number) if is_put else slot.get(0)
        if item is not None:
            seen.append(item)
    rest = slot.get(0)
    if rest is not None:
        seen.append(rest)
    assert seen == [number for number, is_put in enumerate(puts) if is_put]


def test_a_slow_taker_sees_rising_items_and_every_loss_is_counted() -> None:
    slot: NewestSlot[int] = NewestSlot()
    got: list[int] = []

    def take() -> None:
        while not slot.finished:
            item = slot.get()
            if item is not None:
                got.append(item)

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(1, 5001):
        slot.put(number)
    slot.close()
    thread.join(10)
    assert got == sorted(set(got))
    assert got[-1] == 5000
    assert len(got) + slot.replaced == slot.accepted == 5000
