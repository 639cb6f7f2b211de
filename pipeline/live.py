"""``splitrtc ue``: a session on a terminal, with a live table, until the source or the user ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.table import LiveTable
from pipeline.ue import UeSession

if TYPE_CHECKING:
    from pipeline.settings import UeSettings

__all__ = ["play"]


async def play(
    settings: UeSettings, source: str, *, sinks: Sequence[str], seconds: float | None, repeat: bool, table: bool
) -> dict[str, Any]:
    """Run a source through a session; returns the summary. SIGINT and SIGTERM end it as the end of the source does.

    ``seconds`` limits the time from the opening of the source on; ``table`` draws the stages on stderr while it runs.
    """
    started = time.monotonic()
    loop = asyncio.get_running_loop()
    async with UeSession(settings) as session:
        connect_seconds = time.monotonic() - started
        run = session.run(source, sinks=sinks, repeat=repeat)
        tasks = []

        def stop() -> None:
            tasks.append(asyncio.create_task(run.stop()))  # kept, or it might be collected before it is done

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
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
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        await asyncio.gather(*tasks)
        return {**session.describe(), "connect_s": round(connect_seconds, 3), **figures()}
