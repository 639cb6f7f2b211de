"""What a sink of results is, and the thread that keeps a slow one from slowing the stream."""

from __future__ import annotations

import abc
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.events import NO_LANE
from pipeline.outcome import FrameResult
from splitrtc_errors import SinkError, SplitRtcError

__all__ = ["RECORDER_BACKLOG", "VIEWER_BACKLOG", "Sink", "SinkRunner", "StreamInfo"]

VIEWER_BACKLOG = 1
"""Who looks at it wants the newest."""
RECORDER_BACKLOG = 16
"""Who keeps it may fall behind for a moment; every result that waits holds its picture."""
CLOSE_TIMEOUT = 10.0
"""Seconds that a sink gets to finish with what is waiting."""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream before its first result."""

    source: str
    fps: float | None = None


class Sink(abc.ABC):
    """Takes results one after the other. A `SinkRunner` thread calls open, write (many times) and close."""

    name: str
    """For messages."""
    backlog: int = RECORDER_BACKLOG
    """How many results may wait for this sink."""
    answered_only: bool = False
    """Give it only frames that have a result, not those that were dropped or lost."""
    never_still: bool = False
    """Give it nevertheless all frames while nobody answers, so that what it shows does not stand still."""
    wants_stop: bool = False
    """Set by the sink itself when its user asks for the end of the stream."""

    def open(self, info: StreamInfo) -> None:
        """Get ready. Raises SinkError or MissingDependency where that is not possible."""
        return

    @abc.abstractmethod
    def write(self, result: FrameResult) -> None:
        """Take one result. Raises SinkError when no more can be taken."""

    def close(self) -> None:
        """Finish; also after a failed ``open``. Raises SinkError when what was written is not complete."""
        return


class SinkRunner:
    """Runs a sink in a thread of its own, behind a bounded backlog: the oldest result gives way to the newest.

    A sink that fails ends alone; the stream and the other sinks go on.
    """

    def __init__(self, sink: Sink, *, on_end: Callable[[SinkRunner], None] | None = None) -> None:
        """``on_end`` is called once, in the sink's thread, when it ends before ``close``.

        Then either ``error`` says why it failed, or ``sink.wants_stop`` is set.
        """
        self.sink = sink
        self.error: SplitRtcError | None = None
        self.written = 0
        self.dropped = 0
        """Results that gave way to newer ones, or came after the sink had failed."""
        self._on_end = on_end
        self._waiting: deque[FrameResult] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._ended = False
        self._opened = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, info: StreamInfo) -> None:
        """Open the sink; returns when it is ready, or raises SinkError or MissingDependency."""
        self._thread = threading.Thread(target=self._run, args=(info,), name=f"sink {self.sink.name}", daemon=True)
        self._thread.start()
        self._opened.wait()
        if self.error is not None:
            self._thread.join()
            raise self.error

    def put(self, result: FrameResult) -> None:
        """Hand over a result, without ever waiting."""
        shown = result.answered or (self.sink.never_still and result.mode == NO_LANE)
        if self.sink.answered_only and not shown:
            return
        with self._changed:
            if self._closing or self._ended:
                self.dropped += 1
                return
            if len(self._waiting) >= self.sink.backlog:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(result)
            self._changed.notify()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Let the sink finish with what is waiting, and wait for its thread, at most ``timeout`` seconds.

        Does not raise: ``error`` says how it went.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is None:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            with self._changed:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            self.error = SinkError(f"{self.sink.name} did not finish within {timeout:g} s")

    def _run(self, info: StreamInfo) -> None:
        self._guard(lambda: self._serve(info))
        self._guard(self.sink.close)
        with self._changed:
            self._ended = True
            self.dropped += len(self._waiting)
            self._waiting.clear()
            early = self._opened.is_set() and not self._closing
        self._opened.set()
        if early and self._on_end is not None:
            self._on_end(self)

    def _guard(self, step: Callable[[], None]) -> None:
        """Run a step of the sink; the first failure is the one that counts."""
        try:
            step()
        except SplitRtcError as error:
            self.error = self.error or error
        except Exception as error:  # a sink of the user's own may raise anything
            failure = SinkError(f"{self.sink.name} failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self.error = self.error or failure

    def _serve(self, info: StreamInfo) -> None:
        self.sink.open(info)
        self._opened.set()
        while not self.sink.wants_stop:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                result = self._waiting.popleft()
            self.sink.write(result)
            self.written += 1
