"""The window.

It lives in a small program of its own (`viewer.py`), which gets the pictures through a pipe: a graphics toolkit
wants to be in a program's first thread, and it ends the whole program when there is no display.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from pipeline.outcome import FrameResult
from pipeline.overlay import annotate
from pipeline.sinks import viewer
from pipeline.sinks.base import VIEWER_BACKLOG, Sink, StreamInfo
from splitrtc_errors import SinkError

__all__ = ["WindowSink"]

EXIT_TIMEOUT = 3.0
"""Seconds that the window gets to close."""


class WindowSink(Sink):
    """Shows answered frames with their results drawn in. ``q``, Escape or closing the window asks for the end."""

    name = "window"
    backlog = VIEWER_BACKLOG
    answered_only = True
    never_still = True

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] | None = None
        self._shown = -1

    def open(self, info: StreamInfo) -> None:
        """Start the viewer and wait until its window is there."""
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        # By its path and with -P: the viewer needs neither this package nor its folder on the path.
        command = [sys.executable, "-P", str(Path(viewer.__file__)), f"splitrtc: {info.source}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != viewer.READY:
            self._process.wait()
            raise SinkError(
                f"cannot open a window: {self._complaint()} (without a display, record to FILE.mp4 or FILE.jsonl)"
            )

    def write(self, result: FrameResult) -> None:
        """Draw and show one picture; not one that is older than what is shown, which comes when the mode changes."""
        assert self._process is not None
        assert self._process.stdin is not None
        if result.frame.index <= self._shown:
            return
        self._shown = result.frame.index
        image = annotate(result)
        try:
            self._process.stdin.write(viewer.header(image))
            self._process.stdin.write(image.data)
            self._process.stdin.flush()
        except BrokenPipeError:
            if self._process.wait() != viewer.CLOSED_BY_USER:
                raise SinkError(f"the window has gone: {self._complaint()}") from None
            self.wants_stop = True

    def close(self) -> None:
        """Close the window."""
        if self._process is not None:
            self._end(self._process)
            self._process = None
        if self._complaints is not None:
            self._complaints.close()
            self._complaints = None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # which is how the viewer learns of the end
        try:
            process.wait(EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _complaint(self) -> str:
        """Why the viewer failed, in one line: the toolkit says it first, a Python program says it last."""
        assert self._complaints is not None
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").split("\n")
        lines = [line.strip() for line in lines if line.strip()] or ["it ended without a word"]
        return lines[-1] if lines[0].startswith("Traceback") else lines[0]
