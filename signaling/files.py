"""Files that a UE may have, by their digest: ``GET /files/<hex>`` (TR 26.927 clause 5.3.5, steps 10 to 12).

A request names 64 hex digits, never a path: what is served is what `FileServer` is told to have under them. A file's
strong ETag is its digest, so that a download that was cut can be taken up again years later, and its content cannot
change. Where compressing pays, it was done beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from aiohttp import web

from models import digest_hex
from signaling.gate import problem_response
from signaling.problems import NO_SUCH_FILE, TOO_MANY_TRANSFERS, make_problem
from signaling.ranges import chosen_coding, span_of

__all__ = ["FILES_PATH", "MAX_TRANSFERS", "FileServer", "ServedFile"]

FILES_PATH = "/files"
MAX_TRANSFERS = 64
"""Files that are being sent at a time."""
MIN_RATE = 8_192
"""Bytes per second that a client takes at least, after GRACE seconds; a slower one is disconnected."""
GRACE = 30.0
RETRY_AFTER = 1
"""Seconds."""
READERS = 2
"""Threads that read: the event loop never waits for a disk."""
CHUNK = 65_536
FOREVER = "private, max-age=31536000, immutable"
"""What has another content has another name."""


@dataclass(frozen=True, slots=True)
class ServedFile:
    """A file of this digest and size in bytes; ``compressed`` holds path and size of its compressed forms by coding."""

    digest: str
    path: Path
    size: int
    name: str
    compressed: Mapping[str, tuple[Path, int]] = field(default_factory=dict)

    @property
    def hex(self) -> str:
        """The digest's 64 hex digits, which stand in the URL."""
        return digest_hex(self.digest)


class FileServer:
    """Serves what ``find`` knows: a function from 64 hex digits to a file, None where there is none."""

    def __init__(self, find: Callable[[str], ServedFile | None]) -> None:
        self._find = find
        self._transfers = 0
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="files")

    def close(self) -> None:
        """End the threads. Transfers have ended before."""
        self._readers.shutdown()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a GET or HEAD of ``/files/{hex}``; whoever it comes from may have it."""
        served = self._find(request.match_info["hex"])
        if served is None:
            return _no_such_file()
        coding = chosen_coding(request.headers.get("Accept-Encoding"), served.compressed)
        path, size = served.compressed[coding] if coding else (served.path, served.size)
        # Another coding is another representation, and its ETag another one (RFC 9110, section 8.8.3.3).
        etag = f'"{served.hex}-{coding}"' if coding else f'"{served.hex}"'
        span = span_of(
            size,
            etag,
            range_=request.headers.get("Range"),
            if_range=request.headers.get("If-Range"),
            if_none_match=request.headers.get("If-None-Match"),
        )
        response = web.StreamResponse(
            status=span.status,
            headers={
                "ETag": etag,
                "Accept-Ranges": "bytes",
                "Cache-Control": FOREVER,
                "Vary": "Accept-Encoding",
                "Content-Type": "application/octet-stream",
                "X-Content-Type-Options": "nosniff",
            },
        )
        if coding and span.status in (200, 206):
            response.headers["Content-Encoding"] = coding
        if content_range := span.content_range(size):
            response.headers["Content-Range"] = content_range
        response.content_length = span.stop - span.start
        if request.method == "HEAD" or span.start == span.stop:
            await response.prepare(request)
            return response
        if self._transfers >= MAX_TRANSFERS:
            problem = make_problem(TOO_MANY_TRANSFERS, retry_after=RETRY_AFTER)
            return problem_response(problem, {"Retry-After": str(RETRY_AFTER)})
        self._transfers += 1  # before the first await: the limit holds however many come at once
        try:
            return await self._send(request, response, path, span.start, span.stop)
        finally:
            self._transfers -= 1

    async def _send(
        self, request: web.Request, response: web.StreamResponse, path: Path, start: int, stop: int
    ) -> web.StreamResponse:
        run, readers = asyncio.get_running_loop().run_in_executor, self._readers
        try:
            file = await run(readers, path.open, "rb")
        except OSError:  # it has gone meanwhile
            return _no_such_file()
        try:
            async with asyncio.timeout(GRACE + (stop - start) / MIN_RATE):
                await response.prepare(request)
                while start < stop:
                    data = await run(readers, _read, file, start, min(CHUNK, stop - start))
                    if not data:  # it has become shorter: a connection that is cut says so
                        break
                    await response.write(data)
                    start += len(data)
                else:
                    await response.write_eof()
                    return response
        except (TimeoutError, ConnectionError, OSError):
            pass
        finally:
            await asyncio.shield(run(readers, file.close))
        if request.transport is not None:
            request.transport.abort()
        return response


def _read(file: IO[bytes], start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _no_such_file() -> web.Response:
    return problem_response(make_problem(NO_SUCH_FILE, "no file of this digest is to be had here"))
