from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import ModelCard, Partition, PartitionStore, Zoo
from pipeline import tails
from pipeline.tails import TailPool
from splitrtc_errors import CutError, ModelError, ModelFileError

CARD = Zoo().get()
CUT = CARD.partition("bottleneck_7").tensors
OTHER_CUT = CARD.partition("bottleneck_12").tensors


class Store(PartitionStore):
    """A store that counts, waits when it is told to, and then fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.other_may_go_on = False
        self.error: Exception | None = None
        self.came = threading.Semaphore(0)

    def get(self, card: ModelCard, tensors: object) -> Partition:
        self.asked += 1
        self.came.release()
        if not (self.other_may_go_on and tensors == OTHER_CUT):
            assert self.may_go_on.wait(10)
        if self.error is not None:
            raise self.error
        return super().get(card, tensors)  # type: ignore[arg-type]

    async def reached(self) -> None:
        """Return when the next load has begun."""
        assert await asyncio.to_thread(self.came.acquire, timeout=10)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def pool(store: Store) -> AsyncIterator[TailPool]:
    pool = TailPool(store, "cpu", workers=2)
    yield pool
    store.may_go_on.set()
    await pool.close()


async def test_sessions_on_one_cut_share_one_tail_and_the_last_frees_it(pool: TailPool, store: Store) -> None:
    first, second = await asyncio.gather(pool.acquire(CARD, CUT), pool.acquire(CARD, CUT))
    third = await pool.acquire(CARD, CUT)
    assert first is second is third
    assert (store.asked, len(pool)) == (1, 1)
    for tail in (first, second):
        pool.release(tail)
        assert len(pool) == 1
    pool.release(third)
    assert len(pool) == 0
    again = await pool.acquire(CARD, CUT)
    assert again is not first
    assert store.asked == 2
    pool.release(again)


async def test_other_cuts_have_other_tails(pool: TailPool) -> None:
    first, other = await pool.acquire(CARD, CUT), await pool.acquire(CARD, OTHER_CUT)
    assert first is not other
    assert len(pool) == 2
    pool.release(first)
    assert len(pool) == 1
    pool.release(other)
    assert len(pool) == 0


async def test_a_tail_is_ready_to_run(pool: TailPool) -> None:
    tail = await pool.acquire(CARD, CUT)
    outputs = tail.submodel.run([np.zeros(spec.shape, spec.dtype) for spec in tail.crossing])
    assert tail.detector is not None
    assert tail.detector.decode(outputs).xyxy.shape[1] == 4
    assert (tail.card, tuple(spec.name for spec in tail.crossing)) == (CARD, CUT)
    pool.release(tail)


async def test_who_leaves_while_it_loads_takes_it_from_nobody(pool: TailPool, store: Store) -> None:
    store.may_go_on.clear()
    leaver, stayer = (asyncio.create_task(pool.acquire(CARD, CUT)) for _ in range(2))
    await store.reached()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert len(pool) == 1
    store.may_go_on.set()
    tail = await stayer
    assert store.asked == 1
    pool.release(tail)
    assert len(pool) == 0


async def test_when_all_leave_while_it_loads_the_next_shares_the_load(pool: TailPool, store: Store) -> None:
    store.may_go_on.clear()
    leavers = [asyncio.create_task(pool.acquire(CARD, CUT)) for _ in range(2)]
    await store.reached()
    for leaver in leavers:
        leaver.cancel()
    await asyncio.gather(*leavers, return_exceptions=True)
    newcomer = asyncio.create_task(pool.acquire(CARD, CUT))
    store.may_go_on.set()
    pool.release(await newcomer)
    assert (store.asked, len(pool)) == (1, 0)


async def test_what_was_loaded_for_nobody_is_not_kept(pool: TailPool, store: Store, until: Any) -> None:
    store.may_go_on.clear()
    leaver = asyncio.create_task(pool.acquire(CARD, CUT))
    await store.reached()
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    assert len(pool) == 1
    store.may_go_on.set()
    await until(lambda: len(pool) == 0)


async def test_a_load_that_hangs_costs_who_waits_for_it_and_one_thread(
    store: Store, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "LOAD_TIME_LIMIT", 0.1)
    hanging = TailPool(store, "cpu", workers=1)
    monkeypatch.setattr(tails, "LOAD_TIME_LIMIT", 60.0)
    store.may_go_on.clear()
    waiting = [asyncio.create_task(hanging.acquire(CARD, CUT)) for _ in range(2)]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == 2 * ["loading a model took longer than 0.1 s"]
    assert (hanging.hanging, hanging.workers.hanging, len(hanging)) == (1, 0, 0)
    with pytest.raises(ModelError, match="hangs since an earlier try"):
        await hanging.acquire(CARD, CUT)
    assert (hanging.hanging, store.asked) == (1, 1)
    store.may_go_on.set()  # as when a file system is there again
    await until(lambda: hanging.hanging == 0)
    await hanging.close()


async def test_a_load_that_hangs_holds_up_no_other(pool: TailPool, store: Store) -> None:
    store.may_go_on.clear()
    waiting = asyncio.create_task(pool.acquire(CARD, CUT))
    await store.reached()
    store.other_may_go_on = True
    async with asyncio.timeout(20):
        pool.release(await pool.acquire(CARD, OTHER_CUT))
    store.may_go_on.set()
    pool.release(await waiting)


async def test_a_load_that_fails_fails_for_all_who_wait_and_is_tried_again_by_the_next(
    pool: TailPool, store: Store
) -> None:
    store.error = CutError("not there")
    failures = await asyncio.gather(*(pool.acquire(CARD, CUT) for _ in range(3)), return_exceptions=True)
    assert [type(failure) for failure in failures] == [CutError] * 3
    assert (store.asked, len(pool)) == (1, 0)
    store.error = None
    pool.release(await pool.acquire(CARD, CUT))
    assert store.asked == 2


async def test_a_failure_that_nobody_waits_for_is_quiet(pool: TailPool, store: Store) -> None:
    store.may_go_on.clear()
    store.error = ModelFileError("damaged")
    leaver = asyncio.create_task(pool.acquire(CARD, CUT))
    await store.reached()
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    store.may_go_on.set()
    await pool.close()
    assert complaints == []


async def test_a_damaged_model_is_told(pool: TailPool, tmp_path: Path) -> None:
    zoo = tmp_path / "model"
    zoo.mkdir()
    text = (CARD.path.parent / "card.json").read_text()
    (zoo / "card.json").write_text(text.replace(CARD.name, "damaged").replace(CARD.digest[-8:], "00000000"))
    (zoo / "damaged.onnx").write_bytes(b"no model")
    with pytest.raises(ModelFileError, match="damaged"):
        await pool.acquire(Zoo([zoo]).get("damaged"), CUT)
    assert len(pool) == 0


async def test_closing_frees_everything_and_waits_for_what_runs(store: Store) -> None:
    pool = TailPool(store, "cpu", workers=1)
    store.may_go_on.clear()
    waiting = asyncio.create_task(pool.acquire(CARD, CUT))
    await store.reached()
    closing = asyncio.create_task(pool.close())
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not closing.done()  # the load's thread cannot be cancelled
    store.may_go_on.set()
    async with asyncio.timeout(10):
        await closing
    assert len(pool) == 0
    await pool.close()


async def test_a_tail_may_be_given_back_after_closing(store: Store) -> None:
    pool = TailPool(store, "cpu")
    tail = await pool.acquire(CARD, CUT)
    await pool.close()
    pool.release(tail)
    assert len(pool) == 0


async def test_no_more_threads_run_than_told(store: Store) -> None:
    pool = TailPool(store, "cpu", workers=1)
    tails = await asyncio.gather(pool.acquire(CARD, CUT), pool.acquire(CARD, OTHER_CUT))
    await asyncio.gather(*(pool.workers.run(tail.submodel.warm_up) for tail in tails))
    names = [thread.name for thread in threading.enumerate()]
    assert sum(name.startswith("tail") for name in names) == 1
    for tail in tails:
        pool.release(tail)
    await pool.close()


async def test_loading_does_not_hold_up_what_runs(store: Store) -> None:
    pool = TailPool(store, "cpu", workers=1)
    store.may_go_on.clear()
    loading = asyncio.create_task(pool.acquire(CARD, CUT))
    await store.reached()
    async with asyncio.timeout(10):
        await pool.workers.run(int)
    store.may_go_on.set()
    pool.release(await loading)
    await pool.close()
