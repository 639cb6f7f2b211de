from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pipeline.alarm import Alarm


class Bell:
    """An alarm, and when it rang."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.rung: list[float] = []
        self.heard = asyncio.Event()
        self.alarm = Alarm(self._ring)

    def _ring(self) -> None:
        self.rung.append(self.loop.time())
        self.heard.set()

    async def wait(self) -> None:
        async with asyncio.timeout(5):
            await self.heard.wait()
        self.heard.clear()


async def test_it_rings_once_and_not_before_its_time() -> None:
    bell = Bell()
    when = bell.loop.time() + 0.01
    bell.alarm.set(when)
    await bell.wait()
    assert len(bell.rung) == 1
    assert bell.rung[0] >= when - 0.001  # event loops' clocks have a resolution


async def test_it_can_be_moved_both_ways() -> None:
    bell = Bell()
    now = bell.loop.time()
    bell.alarm.set(now + 1000)
    bell.alarm.set(now + 0.001)
    await bell.wait()
    bell.alarm.set(now + 0.001)
    bell.alarm.set(now + 1000)
    other = Bell()
    other.alarm.set(now + 0.02)
    await other.wait()
    assert len(bell.rung) == 1
    bell.alarm.set(None)


async def test_it_can_be_turned_off() -> None:
    bell, other = Bell(), Bell()
    bell.alarm.set(bell.loop.time() + 0.001)
    bell.alarm.set(None)
    bell.alarm.set(None)
    other.alarm.set(other.loop.time() + 0.01)
    await other.wait()
    assert bell.rung == []


async def test_it_can_be_set_to_the_same_time_again_after_ringing() -> None:
    bell = Bell()
    when = bell.loop.time()
    for _ in range(2):
        bell.alarm.set(when)
        await bell.wait()
    assert len(bell.rung) == 2


async def test_nothing_is_scheduled_anew_when_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    bell = Bell()
    scheduled = []
    call_at = bell.loop.call_at

    def count(when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        scheduled.append(when)
        return call_at(when, callback)

    monkeypatch.setattr(bell.loop, "call_at", count)
    when = bell.loop.time() + 0.01
    for _ in range(3):
        bell.alarm.set(when)
    assert scheduled == [when]
    await bell.wait()


async def test_the_callback_may_set_it() -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    rung = 0

    def ring() -> None:
        nonlocal rung
        rung += 1
        if rung == 3:
            done.set()
        else:
            alarm.set(loop.time())

    alarm = Alarm(ring)
    alarm.set(loop.time())
    async with asyncio.timeout(5):
        await done.wait()
    assert rung == 3


def test_it_wants_a_running_loop() -> None:
    with pytest.raises(RuntimeError):
        Alarm(lambda: None)


def test_it_rings_on_uvloop_whose_handles_do_not_tell_their_time() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def ring() -> int:
        bell = Bell()
        bell.alarm.set(bell.loop.time())  # at once: uvloop makes no timer of it
        bell.alarm.set(bell.loop.time() + 0.01)
        await bell.wait()
        return len(bell.rung)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ring()) == 1
