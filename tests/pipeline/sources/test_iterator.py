from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from pipeline.capture import Capture
from pipeline.frames import Frame
from pipeline.sources import AsyncIteratorSource, open_source
from splitrtc_errors import BadArgument, SourceError

LATE = 5.0


def image(value: int) -> np.ndarray[Any, Any]:
    """A small plain picture."""
    return np.full((4, 6, 3), value, np.uint8)


async def run(source: AsyncIteratorSource) -> list[Frame]:
    """What a capture of the source gives."""

    def work() -> list[Frame]:
        with Capture(source) as capture:
            return list(iter(lambda: capture.get(LATE), None))

    return await asyncio.to_thread(work)


async def settled() -> None:
    """Let the tasks that are under way end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=LATE)


async def test_pictures_come_as_the_program_makes_them() -> None:
    closed = asyncio.Event()

    async def pictures() -> AsyncIterator[Any]:
        try:
            for value in range(3):
                yield image(value)
        finally:
            closed.set()

    source = open_source(pictures())
    assert isinstance(source, AsyncIteratorSource)
    assert source.live
    frames = await run(source)
    assert frames[-1].image[0, 0, 0] == 2
    assert {frame.pts for frame in frames} == {None}
    await asyncio.wait_for(closed.wait(), LATE)
    await settled()


async def test_with_a_rate_they_are_paced() -> None:
    async def pictures() -> AsyncIterator[Any]:
        for value in range(4):
            yield image(value)

    source = open_source(pictures(), fps=50)
    assert not source.live
    assert isinstance(source, AsyncIteratorSource)
    frames = await run(source)
    assert frames[-1].pts == 3 / 50
    assert frames[-1].captured - frames[0].captured > (frames[-1].index - frames[0].index) / 50 - 0.015
    await settled()


async def test_stopping_from_the_loop_ends_a_generator_that_waits() -> None:
    closed = asyncio.Event()

    async def pictures() -> AsyncIterator[Any]:
        try:
            yield image(0)
            await asyncio.Event().wait()
        finally:
            closed.set()

    capture = Capture(open_source(pictures()))
    await asyncio.to_thread(capture.start)
    assert await asyncio.to_thread(capture.get, LATE) is not None
    capture.stop()  # in the very thread that runs the generator
    assert capture.error is None
    await asyncio.wait_for(closed.wait(), LATE)
    await settled()


async def test_a_generator_that_nobody_waits_for_is_closed_too() -> None:
    closed = asyncio.Event()

    async def pictures() -> AsyncIterator[Any]:
        try:
            while True:
                yield image(0)
        finally:
            closed.set()

    capture = Capture(open_source(pictures(), fps=0.01))
    await asyncio.to_thread(capture.start)
    assert await asyncio.to_thread(capture.get, LATE) is not None
    await asyncio.to_thread(capture.stop)
    await asyncio.wait_for(closed.wait(), LATE)
    await settled()


async def test_a_generator_may_take_its_time_to_end() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    closed = asyncio.Event()

    async def pictures() -> AsyncIterator[Any]:
        try:
            yield image(0)
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            closed.set()

    capture = Capture(open_source(pictures()))
    await asyncio.to_thread(capture.start)
    assert await asyncio.to_thread(capture.get, LATE) is not None
    await asyncio.to_thread(capture.stop)
    await asyncio.wait_for(closed.wait(), LATE)
    await settled()
    gc.collect()
    assert complaints == []


class Endless:
    """An iterator that is no generator: it cannot be closed."""

    def __init__(self) -> None:
        self.given = 0
        self.twenty = asyncio.Event()

    def __aiter__(self) -> Endless:
        return self

    async def __anext__(self) -> Any:
        self.given += 1
        if self.given > 20:
            self.twenty.set()
        await asyncio.sleep(0)
        return image(self.given % 256)


async def test_an_endless_iterator_that_nobody_takes_from_is_bounded_by_replacement() -> None:
    iterator = Endless()
    capture = Capture(open_source(iterator))
    await asyncio.to_thread(capture.start)
    await asyncio.wait_for(iterator.twenty.wait(), LATE)
    await asyncio.to_thread(capture.stop)
    assert capture.produced >= 20
    assert capture.replaced == capture.produced - 1
    await settled()


async def test_a_read_after_an_interruption_gives_nothing() -> None:
    source = AsyncIteratorSource(Endless())
    assert source.read() is None
    source.open()
    source.interrupt()
    assert source.read() is None
    source.close()
    source.open()
    assert await asyncio.to_thread(source.read) is not None
    source.close()
    source.close()
    await settled()


async def test_what_the_iterator_raises_is_a_source_error() -> None:
    async def pictures() -> AsyncIterator[Any]:
        yield image(0)
        raise ValueError("lens cap")

    with pytest.raises(SourceError, match="iterator async_generator failed: ValueError: lens cap"):
        await run(AsyncIteratorSource(pictures()))
    await settled()


@pytest.mark.parametrize(
    ("item", "what"),
    [
        (np.zeros((4, 6, 3), np.float32), r"float32 \(4, 6, 3\)"),
        (np.zeros((4, 6), np.uint8), r"uint8 \(4, 6\)"),
        (np.zeros((4, 6, 4), np.uint8), r"uint8 \(4, 6, 4\)"),
        ("picture.jpg", "str"),
    ],
)
async def test_what_is_no_picture_is_refused(item: Any, what: str) -> None:
    async def pictures() -> AsyncIterator[Any]:
        yield item

    with pytest.raises(SourceError, match=f"gave {what}; expected a uint8 array"):
        await run(AsyncIteratorSource(pictures()))
    await settled()


async def test_a_view_into_another_array_is_made_contiguous() -> None:
    async def pictures() -> AsyncIterator[Any]:
        yield image(5)[:, ::-1]

    (frame,) = await run(AsyncIteratorSource(pictures()))
    assert frame.image.flags.c_contiguous
    await settled()


def test_outside_an_event_loop_it_is_refused() -> None:
    with pytest.raises(BadArgument, match="event loop"):
        AsyncIteratorSource(Endless())


def test_a_loop_that_has_ended_is_no_trouble_at_closing() -> None:
    async def begin() -> AsyncIteratorSource:
        source = AsyncIteratorSource(Endless())
        source.open()
        return source

    source = asyncio.run(begin())
    source.close()
