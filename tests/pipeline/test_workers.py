from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from pipeline.workers import Workers
from splitrtc_errors import ModelError

LIMIT = 0.05
WAIT = 10.0
Make = Callable[..., Workers]
Until = Any


@pytest.fixture
def stuck() -> threading.Event:
    """What hangs waits for this."""
    return threading.Event()


@pytest.fixture
async def make(stuck: threading.Event) -> AsyncIterator[Make]:
    made: list[Workers] = []

    def make(count: int = 1, limit: float = LIMIT, max_written_off: int = 2) -> Workers:
        made.append(Workers(count, limit, max_written_off))
        return made[-1]

    yield make
    stuck.set()
    for workers in made:
        await workers.close()


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "tail"]


async def test_it_returns_and_raises_what_the_computation_does(make: Make) -> None:
    workers = make(limit=WAIT)
    assert await workers.run(lambda: 6 * 7) == 42
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0)
    with pytest.raises(MemoryError):
        await workers.run(lambda: bytearray(2**62))
    assert await workers.run(threading.current_thread) is not threading.main_thread()
    assert (workers.hanging, workers.exhausted) == (0, False)


async def test_no_more_threads_than_told_and_each_is_used(make: Make) -> None:
    workers = make(3, limit=WAIT)
    together = threading.Barrier(3)
    await asyncio.gather(*(workers.run(partial(together.wait, WAIT)) for _ in range(6)))
    assert len(names()) == 3


async def test_one_that_hangs_is_told_and_replaced(make: Make, stuck: threading.Event) -> None:
    workers = make()
    with pytest.raises(ModelError, match=r"took longer than 0\.05 s"):
        await workers.run(stuck.wait)
    assert (workers.hanging, workers.exhausted) == (1, False)
    assert await workers.run(lambda: 1) == 1


async def test_the_time_in_the_queue_does_not_count(make: Make) -> None:
    workers = make(limit=0.3)
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        assert go_on.wait(WAIT)

    running = asyncio.create_task(workers.run(first))
    assert await asyncio.to_thread(begun.wait, WAIT)
    waiting = [asyncio.create_task(workers.run(partial(threading.Event().wait, 0.1))) for _ in range(4)]
    go_on.set()
    await running
    await asyncio.gather(*waiting)
    assert workers.hanging == 0


async def test_one_that_comes_back_late_counts_no_more(make: Make, stuck: threading.Event, until: Until) -> None:
    workers = make()
    with pytest.raises(ModelError):
        await workers.run(stuck.wait)
    assert await workers.run(lambda: 1) == 1
    stuck.set()
    await until(lambda: workers.hanging == 0)
    await until(lambda: len(names()) == 1)
    assert await workers.run(lambda: 2) == 2


async def test_too_many_are_not_replaced_any_more(make: Make, stuck: threading.Event, until: Until) -> None:
    workers = make(1, max_written_off=2)
    for hanging in (1, 2, 3):
        with pytest.raises(ModelError, match="took longer"):
            await workers.run(stuck.wait)
        assert workers.hanging == hanging
        assert workers.exhausted is (hanging >= 2)
    with pytest.raises(ModelError, match="no thread is left"):
        await workers.run(lambda: 1)
    assert len(names()) == 3
    stuck.set()
    await until(lambda: workers.hanging == 0)
    assert await workers.run(lambda: 1) == 1  # it recovers by itself


async def test_who_waits_for_the_last_thread_is_told_when_it_hangs(make: Make, stuck: threading.Event) -> None:
    workers = make(1, max_written_off=0)
    outcomes = await asyncio.gather(*(workers.run(stuck.wait) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ModelError] * 3
    assert "took longer" in str(outcomes[0])
    assert "no thread is left" in str(outcomes[2])
    assert len(names()) == 1


async def test_one_that_is_given_up_is_watched_all_the_same(make: Make, stuck: threading.Event, until: Until) -> None:
    workers = make()
    begun = threading.Event()

    def hang() -> None:
        begun.set()
        stuck.wait()

    task = asyncio.create_task(workers.run(hang))
    assert await asyncio.to_thread(begun.wait, WAIT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: workers.hanging == 1)
    assert await workers.run(lambda: 1) == 1


async def test_one_that_is_given_up_before_it_began_never_begins(make: Make) -> None:
    workers = make(limit=WAIT)
    go_on = threading.Event()
    running = asyncio.create_task(workers.run(go_on.wait))
    waiting = asyncio.create_task(workers.run(pytest.fail))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    go_on.set()
    assert await running
    assert await workers.run(lambda: 1) == 1


async def test_nothing_of_a_computation_is_kept(make: Make, until: Until) -> None:
    class Model:
        def run(self) -> int:
            return 1

    workers = make(limit=WAIT)
    model = Model()
    gone = weakref.ref(model)
    assert await workers.run(model.run) == 1
    del model
    gc.collect()
    await until(lambda: gone() is None)


async def test_closing_waits_for_what_runs_but_not_for_what_hangs(make: Make, stuck: threading.Event) -> None:
    workers = make(2)
    hanging = asyncio.create_task(workers.run(stuck.wait))
    await workers.run(lambda: None)
    async with asyncio.timeout(WAIT):
        await workers.close()
        with pytest.raises(ModelError, match="took longer"):
            await hanging
    assert len(names()) == 1
    with pytest.raises(ModelError):
        await workers.run(lambda: 1)
