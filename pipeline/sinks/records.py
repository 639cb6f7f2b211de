"""Sinks for programs: JSON lines, a function, and nothing at all."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from pipeline.outcome import FrameResult
from pipeline.sinks.base import Sink, StreamInfo
from splitrtc_errors import SinkError

__all__ = ["CallbackSink", "JsonLinesSink", "NullSink"]


class JsonLinesSink(Sink):
    """One JSON object per frame and line (`FrameResult.to_json`), also for frames that were dropped or lost."""

    def __init__(self, target: str | Path | None = None) -> None:
        """``target``: a file, which is overwritten; None is standard output."""
        self.name = "standard output" if target is None else str(target)
        self._path = None if target is None else Path(target)
        self._stream: TextIO | None = None

    def open(self, info: StreamInfo) -> None:
        """Open the file, emptying it. SinkError when it cannot be, or standard output was closed by the caller."""
        if self._path is None and sys.stdout is None:
            raise SinkError("cannot write standard output: it is closed")
        try:
            self._stream = sys.stdout if self._path is None else self._path.open("w", encoding="utf-8")
        except OSError as error:
            raise SinkError(f"cannot write {self.name}: {error.strerror}") from error

    def write(self, result: FrameResult) -> None:
        """Write one line."""
        assert self._stream is not None
        try:
            # Flushed line by line: whoever reads along wants it now.
            print(json.dumps(result.to_json(), allow_nan=False), file=self._stream, flush=True)
        except BrokenPipeError as error:
            raise SinkError(f"nobody reads {self.name} any more") from error
        except OSError as error:
            raise SinkError(f"cannot write {self.name}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._path is not None and self._stream is not None:
            # Each line was flushed, or its failure reported: closing has nothing new to say.
            with contextlib.suppress(OSError):
                self._stream.close()
        self._stream = None


class CallbackSink(Sink):
    """Calls a function with every result, also of frames that were dropped or lost, in the sink's own thread."""

    def __init__(self, function: Callable[[FrameResult], object]) -> None:
        self.name = f"callback {getattr(function, '__name__', type(function).__name__)}"
        self._function = function

    def write(self, result: FrameResult) -> None:
        """Call the function."""
        self._function(result)


class NullSink(Sink):
    """Takes everything and does nothing, for measurements."""

    name = "null"

    def write(self, result: FrameResult) -> None:
        """Do nothing."""
        return
