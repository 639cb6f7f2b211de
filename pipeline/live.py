"""``splitrtc ue``: a session on a terminal, with a live table, until the source or the user ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from pipeline.delivery import Show, silently
from pipeline.table import LiveTable
from pipeline.ue import UeSession
from splitrtc_errors import BadArgument

if TYPE_CHECKING:
    from pipeline.events import ModeChanged
    from pipeline.settings import UeSettings

__all__ = ["play"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def play(
    settings: UeSettings,
    source: str,
    *,
    sinks: Sequence[str],
    seconds: float | None,
    repeat: bool,
    table: bool,
    on_mode: Callable[[ModeChanged], object] = lambda _: None,
    show: Show = silently,
) -> dict[str, Any]:
    """Run a source through a session; returns the summary.

    SIGINT and SIGTERM end the run as the end of the source does. While there is no session yet they end the attempt,
    with SystemExit: nothing has come of it. A second one ends the process at once.

    ``seconds`` limits the time from the opening of the source on; ``table`` draws the stages on stderr while it
    runs, ``show`` how far a download has come; ``on_mode`` is told when, from then on, frames begin to be answered
    another way.
    """
    started = time.monotonic()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        connecting = asyncio.create_task(stack.enter_async_context(UeSession(settings, show=show)))
        with _FirstSignal(connecting.cancel) as first:
            try:
                session = await connecting
            except asyncio.CancelledError:
                if first.number is None:
                    raise
            if first.number is not None:  # also when it came in the very moment of success
                sys.exit(128 + first.number)
            connect_seconds = time.monotonic() - started
            session.on_mode = on_mode
            run = session.run(source, sinks=sinks, repeat=repeat)
            tasks = []

            def stop() -> None:
                tasks.append(asyncio.create_task(run.stop()))  # kept, or it might be collected before it is done

            first.act = stop
            limit = loop.call_later(seconds, stop) if seconds is not None else None

            def figures() -> dict[str, Any]:
                told = {**session.describe(), "connect_s": round(connect_seconds, 3), **run.to_json()}
                with contextlib.suppress(BadArgument):  # there may have been no connection
                    told["link_statistics"] = session.statistics.snapshot(time.monotonic())
                return told if session.link is None else {**told, "link": session.link}

            try:
                with LiveTable(figures) if table else contextlib.nullcontext():
                    await run.wait()
            finally:
                if limit is not None:
                    limit.cancel()
            await asyncio.gather(*tasks)
            return figures()


class _FirstSignal:
    """A context in which the first SIGINT or SIGTERM does ``act``; a second one means again what it meant before."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.number: int | None = None
        """Which one it was."""
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._loop.add_signal_handler(number, self._take, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in SIGNALS:
            self._loop.remove_signal_handler(number)

    def _take(self, number: int) -> None:
        self.__exit__()
        self.number = number
        self.act()
