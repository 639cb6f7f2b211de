from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.lanes import Lanes


async def test_a_frame_on_its_way_from_the_worker_is_waited_for() -> None:
    with ThreadPoolExecutor(1) as executor:
        lanes = Lanes(executor, executor, 0.5)
        await lanes.up_to_date()  # there is none
        loop = asyncio.get_running_loop()
        for _ in range(2):  # one is being computed while the other one is handed over
            await loop.run_in_executor(executor, lanes.take)
        waiting = asyncio.create_task(lanes.up_to_date())
        await asyncio.sleep(0)  # it has begun
        await loop.run_in_executor(executor, lanes.take)  # of a later one it knows nothing
        lanes.handed_over()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.shield(waiting)
        lanes.handed_over()
        async with asyncio.timeout(5):
            await waiting
