"""Pictures from the user's own program: an async iterator of arrays."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.base import Picture, Source
from splitrtc_errors import BadArgument, SourceError

if TYPE_CHECKING:
    from models import TensorSpec

__all__ = ["AsyncIteratorSource"]


class AsyncIteratorSource(Source):
    """Takes pictures from ``async for image in iterable``: uint8 arrays (height, width, 3), channels BGR.

    For a model that takes no pictures it takes its ready input: arrays of one shape and element type.

    They are taken as they come, like those of a camera; with ``fps`` they are paced. The iterable runs in the event
    loop in which this object is made; its pictures must not be written to afterwards.
    """

    def __init__(
        self, iterable: AsyncIterable[Any], *, fps: float | None = None, tensor: TensorSpec | None = None
    ) -> None:
        """``tensor`` describes the ready input; None for pictures."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise BadArgument("an async iterator can be a source only inside a running event loop") from None
        self.name = f"iterator {type(iterable).__name__}"
        self.live = fps is None
        self.fps = fps
        self._tensor = tensor
        self._iterable = iterable
        self._iterator: AsyncIterator[Any] | None = None
        self._count = 0
        self._lock = threading.Lock()
        self._waiting: concurrent.futures.Future[Any] | None = None
        self._interrupted = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def open(self) -> None:
        """Start iterating."""
        with self._lock:
            self._interrupted = False
        self._iterator = aiter(self._iterable)
        self._count = 0

    def read(self) -> Picture | None:
        """Wait for the iterator's next picture."""
        if self._iterator is None:
            return None
        with self._lock:
            if self._interrupted:
                return None
            self._waiting = asyncio.run_coroutine_threadsafe(self._take(self._iterator), self._loop)
        try:
            item = self._waiting.result()
        except concurrent.futures.CancelledError:
            return None
        except Exception as error:
            raise SourceError(f"{self.name} failed: {type(error).__name__}: {error}") from error
        if item is None:
            return None
        image = self._checked(item)
        self._count += 1
        return Picture(image, (self._count - 1) / self.fps if self.fps else None)

    def interrupt(self) -> None:
        """Cancel the step that ``read`` waits for."""
        with self._lock:
            self._interrupted = True
            if self._waiting is not None:
                self._waiting.cancel()

    def close(self) -> None:
        """Let the loop close the iterator."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            # Not waited for here: the loop may be the very thread that waits for this one; see settle(). RuntimeError:
            # the loop is closed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._start_closing, iterator)

    async def settle(self) -> None:
        """Wait until the iterator is closed: what its own ``finally`` does may take a while."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _checked(self, item: Any) -> NDArray[Any]:
        if not (isinstance(item, np.ndarray) and self._suits(item)):
            what = f"{item.dtype} {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
            wanted = self._tensor or "a uint8 array of shape (height, width, 3), BGR"
            raise SourceError(f"{self.name} gave {what}; expected {wanted}")
        return np.asarray(item, order="C")  # not ascontiguousarray, which gives a scalar a dimension

    def _suits(self, array: NDArray[Any]) -> bool:
        if self._tensor is not None:
            return array.shape == self._tensor.shape and array.dtype == self._tensor.dtype
        return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3

    async def _take(self, iterator: AsyncIterator[Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._keep(task)
        return await anext(iterator, None)

    async def _finish(self, iterator: AsyncIterator[Any]) -> None:
        """Close a generator, once the step that was interrupted has ended: a running one cannot be closed."""
        me = asyncio.current_task()
        running = [task for task in self._tasks if task is not me]
        if running:
            await asyncio.wait(running)
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()

    def _start_closing(self, iterator: AsyncIterator[Any]) -> None:
        self._keep(self._loop.create_task(self._finish(iterator)))

    def _keep(self, task: asyncio.Task[Any]) -> None:
        """The loop itself holds tasks only weakly."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
