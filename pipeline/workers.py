"""Threads that compute frames or load models, and go on when one of them never comes back.

A native call that hangs cannot be ended. So its thread is written off: another takes its place, and whoever waits for
the frame is told. Too many such threads, and the pool says that it is exhausted: something is wrong with the model, the
runtime or the machine, and a new process is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar, cast

from splitrtc_errors import ModelError

__all__ = ["MAX_WRITTEN_OFF", "TIME_LIMIT", "Workers"]

TIME_LIMIT = 10.0
"""Seconds that a frame's computation may take unless told otherwise; far beyond what any frame is worth waiting for.
Also how long the end waits for what still runs."""
MAX_WRITTEN_OFF = 4
"""Threads that may hang at a time and be replaced; each holds the memory of a frame and of its tail."""

NO_THREAD_LEFT = "no thread is left for it: all of them hang"

T = TypeVar("T")

logger = logging.getLogger(__name__)


class _Job(Generic[T]):
    """One computation: begun by a thread, watched and settled by the event loop."""

    def __init__(self, compute: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self.compute = compute
        self.loop = loop
        self.done: asyncio.Future[T] = loop.create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.thread: threading.Thread | None = None
        """That which took it; None while it waits for one."""
        self.began = 0.0
        """When that was, on the monotonic clock."""
        self.ended = False
        """Whether the thread is through with it."""
        self.written_off = False

    def settle(self, result: T | None, error: BaseException | None) -> None:
        """On the event loop: tell whoever waits, if anybody still does."""
        if self.timer is not None:
            self.timer.cancel()
        if self.done.done():
            return
        if error is None:
            self.done.set_result(cast(T, result))
        else:
            self.done.set_exception(error)


class Workers:
    """At most ``count`` threads, started when they are needed.

    They are daemons: one that hangs does not keep the process from ending. To be used from one event loop.
    ``limit`` is the time in seconds that a computation may take once it has begun; ``task`` says, in messages, what
    that is, and ``name`` is the threads'.
    """

    def __init__(
        self,
        count: int,
        limit: float = TIME_LIMIT,
        max_written_off: int = MAX_WRITTEN_OFF,
        *,
        name: str = "tail",
        task: str = "the computation of a frame",
    ) -> None:
        self._count = count
        self._limit = limit
        self._max_written_off = max_written_off
        self._name = name
        self._task = task
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._unsettled: set[_Job[Any]] = set()
        self._hanging = 0
        self._threads: set[threading.Thread] = set()
        """Those that take jobs: not the ones written off."""

    @property
    def hanging(self) -> int:
        """Threads written off that have not come back since."""
        return self._hanging

    @property
    def exhausted(self) -> bool:
        """Whether as many threads hang as are replaced: each further one is missing."""
        return self._hanging >= self._max_written_off

    async def run(self, compute: Callable[[], T]) -> T:
        """Run a computation in one of the threads, and return or raise what it does.

        Raises ModelError when it takes longer than the limit, or when no thread is left to begin it. Who is
        cancelled does not wait for it; once begun, it goes on and is watched all the same.
        """
        self._add_thread()
        if not self._threads:
            raise ModelError(NO_THREAD_LEFT)
        loop = asyncio.get_running_loop()
        job = _Job(compute, loop)
        self._unsettled.add(job)
        job.done.add_done_callback(lambda _: self._unsettled.discard(job))
        job.timer = loop.call_later(self._limit, self._look, job)
        self._jobs.put(job)
        return await job.done

    async def close(self) -> None:
        """End the threads, after what they still compute; those that hang are left behind after TIME_LIMIT."""
        self._count = 0  # none is started again
        threads = list(self._threads)
        self._threads.clear()
        for _ in threads:
            self._jobs.put(None)
        deadline = time.monotonic() + min(self._limit, TIME_LIMIT)

        def join() -> None:
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

        # An executor of its own: a thread of the loop's default one would be left to whoever owns the loop.
        with ThreadPoolExecutor(1, thread_name_prefix="join tails") as executor:
            await asyncio.get_running_loop().run_in_executor(executor, join)

    def _add_thread(self) -> None:
        if len(self._threads) < self._count - max(0, self._hanging - self._max_written_off):
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.add(thread)
            thread.start()

    def _look(self, job: _Job[Any]) -> None:
        """On the event loop: a job may have used up its time."""
        with self._lock:
            if job.ended or (job.thread is None and job.done.done()):
                return  # settled soon, or given up before any thread took it
            left = self._limit if job.thread is None else job.began + self._limit - time.monotonic()
            if left > 0:  # it waited for a thread before
                job.timer = job.loop.call_later(left, self._look, job)
                return
            job.written_off = True
            self._hanging += 1
        assert job.thread is not None, "a job without a thread has all its time left"
        self._threads.discard(job.thread)
        self._add_thread()
        logger.error("%s hangs; its thread was written off: %d hang now", self._task, self._hanging)
        job.settle(None, ModelError(f"{self._task} took longer than {self._limit:g} s"))
        if not self._threads:
            for waiting in list(self._unsettled):
                waiting.settle(None, ModelError(NO_THREAD_LEFT))

    def _work(self) -> None:
        """In a thread: take jobs until told to end, or written off."""
        while (job := self._jobs.get()) is not None:
            if job.done.done():  # cancelled before it began
                continue
            job.began = time.monotonic()
            job.thread = threading.current_thread()
            result, error = None, None
            try:
                result = job.compute()
            except BaseException as caught:  # whoever waits gets to see it
                error = caught
            with self._lock:
                job.ended = True
                if job.written_off:
                    self._hanging -= 1
                    return
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                job.loop.call_soon_threadsafe(job.settle, result, error)
            del job, result, error  # or they would keep a frame and its tail until the next one comes
