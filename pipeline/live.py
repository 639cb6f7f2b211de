"""``splitrtc ue``: a session on a terminal, with a live table, until the source or the user ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.table import LiveTable
from pipeline.ue import UeSession

if TYPE_CHECKING:
    from pipeline.settings import UeSettings

__all__ = ["play"]


async def play(
    settings: UeSettings, source: str, *, sinks: Sequence[str], seconds: float | None, repeat: bool, table: bool
) -> dict[str, Any]:
    """Run a source through a session; returns the summary.

    SIGINT and SIGTERM end the run as the end of the source does. While there is no session yet they end the attempt,
    with SystemExit: nothing has come of it. A second one ends the process at once.

    ``seconds`` limits the time from the opening of the source on; ``table`` draws the stages on stderr while it runs.
    """
    started = time.monotonic()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        with _on_signal() as signals:
            connecting = asyncio.create_task(stack.enter_async_context(UeSession(settings)))
            signals.act = connecting.cancel
            try:
                session = await connecting
            except asyncio.CancelledError:
                if signals.number is None:
                    raise
                sys.exit(128 + signals.number)
            connect_seconds = time.monotonic() - started
            run = session.run(source, sinks=sinks, repeat=repeat)
            tasks = []

            def stop() -> None:
                tasks.append(asyncio.create_task(run.stop()))  # kept, or it might be collected before it is done

            signals.act = stop
            limit = loop.call_later(seconds, stop) if seconds is not None else None

            def figures() -> dict[str, Any]:
                link = {} if session.link is None else {"link": session.link}
                seen = session.statistics.snapshot(time.monotonic())
                return {**run.to_json(), "link_statistics": seen, **link}

            title = f"{session.point.card.name} at {session.point.cut.name}, {session.point.profile}"
            try:
                with LiveTable(figures, title) if table else contextlib.nullcontext():
                    await run.wait()
            finally:
                if limit is not None:
                    limit.cancel()
            await asyncio.gather(*tasks)
            return {**session.describe(), "connect_s": round(connect_seconds, 3), **figures()}


class _Signals:
    """What the first signal does, and which one it was."""

    def __init__(self) -> None:
        self.act: Callable[[], object] = _nothing
        self.number: int | None = None


@contextlib.contextmanager
def _on_signal() -> Iterator[_Signals]:
    """Take the first SIGINT or SIGTERM; the next one means again what it meant before."""
    signals, loop = _Signals(), asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def release() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    def take(number: int) -> None:
        release()
        signals.number = number
        signals.act()

    for number in numbers:
        loop.add_signal_handler(number, take, number)
    try:
        yield signals
    finally:
        release()


def _nothing() -> None:
    """What a signal does before there is anything to end."""
