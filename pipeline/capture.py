"""The capture thread: reads a source, gives each picture its time, and keeps only the newest one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from pipeline.frames import Frame
from pipeline.reconnect import Backoff
from pipeline.slot import NewestSlot
from pipeline.sources.base import Picture, Source
from splitrtc_errors import SourceError, SplitRtcError

__all__ = ["Capture", "Pacer"]

logger = logging.getLogger(__name__)

MAX_LAG = 1.0
"""Seconds behind its due times after which a paced source goes on from where it is: a suspended machine, or one that
cannot decode fast enough, would else never be on time again."""


class Pacer:
    """When each picture of a paced source is due. Pure: due times are absolute, so delays never add up."""

    def __init__(self, interval: float) -> None:
        """``interval``: seconds between the last picture of a pass and the first of the next."""
        self._interval = interval
        self._zero: float | None = None
        self._last = 0.0

    def due(self, pts: float, now: float) -> float:
        """The time at which the picture at position ``pts`` is due. The first is due now; none before another."""
        if self._zero is None:
            self._zero = now - pts
        due = max(self._zero + pts, self._last)
        if now - due > MAX_LAG:
            self._zero += now - due
            due = now
        self._last = due
        return due

    def start_over(self) -> None:
        """The source begins again at position 0, one interval after its last picture."""
        self._zero = self._last + self._interval


class Capture:
    """Runs a source in a thread of its own. Usable as a context manager; ``stop`` leaves no thread behind.

    The next picture of a paced source is read and decoded ahead, so ``captured`` is the moment it is published,
    exactly when it is due.
    """

    def __init__(
        self,
        source: Source,
        *,
        loop: bool = False,
        on_replaced: Callable[[Frame], None] = lambda _: None,
        reopen: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            source: what to read.
            loop: at its end, start a file or a folder again (without effect on live sources).
            on_replaced: called, in the capture thread, with each frame that a newer one replaced.
            reopen: open a live source again when it fails after it has given pictures, and wait for one that is not
                there yet.
            backoff: says when to try that.
        """
        self.source = source
        self.error: SplitRtcError | None = None
        """Why the capture ended, when something went wrong."""
        self.reopened = 0
        """How often the source was opened again after it had failed."""
        self._loop = loop
        self._on_replaced = on_replaced
        self._reopen = reopen
        self._backoff = backoff or Backoff()
        self._slot: NewestSlot[Frame] = NewestSlot()
        self._stopping = threading.Event()
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    @property
    def produced(self) -> int:
        """How many frames were captured."""
        return self._slot.accepted

    @property
    def replaced(self) -> int:
        """How many of them were replaced by a newer one before anybody took them."""
        return self._slot.replaced

    @property
    def finished(self) -> bool:
        """Nothing more will come: the source has ended or failed, or was stopped, and the last frame was taken."""
        return self._slot.finished

    def start(self) -> None:
        """Open the source and begin. Returns when it is open (some seconds, for a network stream), or raises.

        Returns also when the source is one to wait for, and not there.
        """
        self._thread.start()
        self._opened.wait()
        if self.error is not None and self.produced == 0:
            self._thread.join()
            raise self.error

    def get(self, timeout: float | None = None) -> Frame | None:
        """Take the newest frame, waiting for one up to ``timeout`` seconds (None: for ever).

        Returns None at the timeout and at the end (``finished`` tells which). Raises SourceError when the source
        failed, once its last frame has been taken; so a loop asks for frames until there is none, and does not ask
        ``finished`` first.
        """
        frame = self._slot.get(timeout)
        if frame is None and self.error is not None and self.finished:
            raise self.error
        return frame

    def stop(self) -> None:
        """End it and wait for the thread. Takes no longer than the source's longest read."""
        self._stopping.set()
        self.source.interrupt()
        self._slot.close()
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> Capture:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            try:
                if self._open():
                    self._opened.set()
                    self._capture()
            finally:
                self.source.close()
        except Exception as error:
            # What a source says about being interrupted is no failure.
            if not self._stopping.is_set():
                self.error = self._failure(error)
        finally:
            self._slot.close()
            self._opened.set()

    def _open(self) -> bool:
        """Open the source for the first time; False when the capture is stopped while it waits for one."""
        try:
            self.source.open()
        except SourceError as error:  # in its own words: what else a user's source may raise is no camera's absence
            if not (self._reopen and self.source.live):
                raise
            self._opened.set()
            return self._bring_back(error)
        return True

    def _failure(self, error: Exception) -> SplitRtcError:
        if isinstance(error, SplitRtcError):
            return error
        # A source of the user's own may raise anything.
        failure = SourceError(f"{self.source.name} failed: {type(error).__name__}: {error}")
        failure.__cause__ = error
        return failure

    def _capture(self) -> None:
        """Read to the end, over all failures that are worth another try."""
        while True:
            began = time.monotonic()
            try:
                self._read()
            except Exception as error:
                failure = self._failure(error)
                mends = self._reopen and self.source.live and self.produced and isinstance(failure, SourceError)
                if not mends or self._stopping.is_set():
                    raise
            else:
                return
            self._backoff.worked(time.monotonic() - began)
            if not self._bring_back(failure):
                return

    def _bring_back(self, failure: SplitRtcError) -> bool:
        """Open the source again, and try until that works; False when the capture is stopped meanwhile."""
        told = ""
        while True:
            delay = self._backoff.delay()
            # Once for each new reason: a camera may be away for a night.
            logger.log(logging.DEBUG if str(failure) == told else logging.WARNING, "%s; trying again", failure)
            told = str(failure)
            self.source.close()
            if self._stopping.wait(delay):
                return False
            try:
                self.source.open()
            except Exception as error:
                failure = self._failure(error)
                if not isinstance(failure, SourceError):
                    raise
            else:
                self.reopened += 1
                logger.info("%s is open again", self.source.name)
                return True

    def _read(self) -> None:
        """Read the open source to its end."""
        source = self.source
        pacer = Pacer(1.0 / source.fps if source.fps else 0.0)
        while True:
            first = self.produced
            while not self._stopping.is_set() and (picture := source.read()) is not None:
                if not source.live and not self._wait_until_due(picture, pacer):
                    return
                index = self.produced
                frame = Frame(picture.image, index, time.monotonic(), picture.pts)
                replaced = self._slot.put(frame)
                # At the moment of stopping, the frame itself comes back: it never was one.
                if replaced is not None and replaced is not frame:
                    self._on_replaced(replaced)
            if self._stopping.is_set():
                return
            if self.produced == first and not self.reopened:
                raise SourceError(f"{source.name} holds no picture that could be decoded")
            if not self._loop or source.live:
                return
            source.close()
            source.open()
            pacer.start_over()

    def _wait_until_due(self, picture: Picture, pacer: Pacer) -> bool:
        """Sleep until the picture's time has come; False when the capture is stopped meanwhile."""
        now = time.monotonic()
        delay = pacer.due(picture.pts or 0.0, now) - now
        return not self._stopping.wait(delay) if delay > 0 else True
