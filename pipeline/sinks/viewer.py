"""The program behind `WindowSink`: shows the pictures that come in through standard input.

Started by its path, it imports nothing of this project. Each picture is preceded by its height and width as two
big-endian 32-bit integers; the pixels are BGR bytes.
"""

from __future__ import annotations

import io
import os
import signal
import struct
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLOSED_BY_USER", "READY", "Receiver", "header", "main"]

READY = b"ready\n"
"""Written to standard output when the window is there."""
CLOSED_BY_USER = 3
"""The exit status when the user has closed the window, so that it can be told from a failure."""
POLL_MS = 5
"""How long the window waits for a key before it looks for a new picture."""
QUIT_KEYS = frozenset({ord("q"), ord("Q"), 27})

_HEADER = struct.Struct(">II")


def header(image: NDArray[np.uint8]) -> bytes:
    """What precedes a picture on the pipe."""
    return _HEADER.pack(image.shape[0], image.shape[1])


class Receiver:
    """Reads pictures from a pipe in a thread of its own and keeps the newest."""

    def __init__(self, pipe: io.RawIOBase) -> None:
        self.ended = threading.Event()
        self._newest: NDArray[np.uint8] | None = None
        self._pipe = pipe
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self) -> NDArray[np.uint8] | None:
        """The newest picture that was not yet taken."""
        image, self._newest = self._newest, None
        return image

    def _run(self) -> None:
        while (head := self._read(_HEADER.size)) is not None:
            height, width = _HEADER.unpack(head)
            pixels = self._read(height * width * 3)
            if pixels is None:
                break
            self._newest = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        self.ended.set()

    def _read(self, size: int) -> bytearray | None:
        """Exactly ``size`` bytes; None at the end of the pipe."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._pipe.readinto(view)
            if not count:
                return None
            view = view[count:]
        return data


def main(title: str) -> int:
    """Show what comes until the pipe or the user ends it; returns the exit status."""
    import cv2

    cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE)
    os.write(sys.stdout.fileno(), READY)
    # Unbuffered: a thread that waits within a buffer's lock keeps the interpreter from ending.
    receiver = Receiver(io.FileIO(sys.stdin.fileno(), closefd=False))
    shown: Any = None
    while not receiver.ended.is_set():
        image = receiver.take()
        if image is not None:
            cv2.imshow(title, image)
            shown = image
        if cv2.waitKey(POLL_MS) & 0xFF in QUIT_KEYS:
            return CLOSED_BY_USER
        if shown is not None and cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
            return CLOSED_BY_USER
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the program that started this one
    sys.exit(main(sys.argv[1]))
