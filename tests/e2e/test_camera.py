"""A network camera that is not there at first, goes, and comes back."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.e2e

FPS = 20.0


class Camera(ThreadingHTTPServer):
    """Sends pictures, one after the other, to whoever asks, until it is unplugged."""

    daemon_threads = False  # so that closing it waits for those who are served

    def __init__(self, port: int) -> None:
        self.unplugged = threading.Event()
        super().__init__(("127.0.0.1", port), Viewer)


class Viewer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Camera)
        _, picture = cv2.imencode(".jpg", np.full((120, 160, 3), 90, np.uint8))
        part = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=next")
            self.end_headers()
            while not self.server.unplugged.wait(1 / FPS):
                self.wfile.write(part + picture.tobytes() + b"\r\n")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def camera(port: int) -> Iterator[None]:
    with Camera(port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.unplugged.set()
            server.shutdown()
            thread.join()


def test_a_camera_that_comes_late_goes_and_comes_back(
    start_edge: Any, start_ue: Any, until: Any, tmp_path: Path, unused_tcp_port: int
) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}/stream"
    lines = tmp_path / "out.jsonl"

    def answered() -> int:
        return lines.read_text(encoding="utf-8").count('"status": "ok"') if lines.exists() else 0

    flags = ("--source", url, "--sink", str(lines), "--budget", "5", "--reconnect")
    with start_edge() as edge, start_ue(edge.url, *flags) as ue:
        while "trying again" not in ue.stderr.readline():
            assert ue.poll() is None
        for _ in range(2):
            before = answered()
            with camera(unused_tcp_port):
                until(lambda before=before: answered() > before + 5)
        assert edge.sessions == 1  # without pictures, the session stays
        ue.terminate()
        written, errors = ue.communicate(timeout=60)
    assert ue.returncode == 0, errors
    summary = json.loads(written.splitlines()[-1])
    assert (summary["source"], summary["reconnects"]) == (url, 0)
    assert summary["source_reopened"] >= 2
    assert sum(summary["outcomes"].values()) == summary["frames_produced"]
