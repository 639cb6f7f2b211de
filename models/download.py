"""Fetching files into the user's cache: resumed, verified by their digest, and there in one step or not at all.

Nothing here is called unless somebody asked for a model by name, or for a session with an edge that delivers its own,
and may wait for it: it blocks, and goes to the network.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from models.access import SLOW_BUFFER, Access
from models.cache import CACHE_VARIABLE, model_cache_path
from models.identity import DIGEST_PREFIX, digest_hex, file_digest
from splitrtc_errors import BadArgument, ModelFileError, Unreachable, UserError

if TYPE_CHECKING:
    from models.card import ModelCard

__all__ = ["Download", "Progress", "ensure_file", "fetch", "is_url", "read_url"]

MAX_BYTES = 2**32
"""Of a file whose size nobody has stated."""
TIMEOUT = 20.0
"""Seconds without a byte after which a server counts as gone."""
READ_TIME = 60.0
"""Seconds after which `read_url` waits for no more, however steadily it comes."""
ATTEMPTS = 5
"""How often a connection that was cut is taken up again, as long as each one brought something."""

MAX_WINDOW = 2**27
"""Bytes that unpacking may keep."""

_CHUNK = 2**18
_FRAGMENT = re.compile(r"sha-?256=([0-9a-f]{64})")
_LOOPBACK = ("127.0.0.1", "::1")

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and those that there will be, None when nobody has said."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file that can be had: from where, its digest, and its size in bytes where that is known.

    What an edge delivers has an ``access``, and lies in a ``folder`` of its own, apart from what was fetched for good.
    """

    url: str
    digest: str
    size: int | None = None
    access: Access | None = None
    folder: Path | None = None
    rate: float | None = None
    """Bytes per second that may come, about: for what shall not get in the way of something else."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``https://HOST/PATH#sha-256=HEX``; BadArgument when it is something else."""
        url, _, fragment = text.partition("#")
        match = _FRAGMENT.fullmatch(fragment)
        if match is None or not _is_trusted(url):
            raise BadArgument(f"expected https://HOST/PATH#sha-256=64 hex digits, got {text[:200]!r}")
        return cls(url, DIGEST_PREFIX + match[1])

    @property
    def path(self) -> Path:
        """Where the file lies once it was fetched."""
        return model_cache_path(self.digest) if self.folder is None else self.folder / digest_hex(self.digest)


def read_url(url: str, access: Access, limit: int) -> bytes:
    """Return what a server that the user has named has at a URL, ``limit`` bytes at most.

    Raises Unreachable when it cannot be had, ModelFileError when it is larger, or damaged.
    """
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})
    try:
        with access.opener().open(request, timeout=TIMEOUT) as response:
            data = _read_in_time(response, limit + 1)
            if response.headers.get("Content-Encoding") == "gzip":
                data = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, limit + 1)
    except zlib.error as error:
        raise ModelFileError(f"what {url} sends is damaged: {error}") from error
    except urllib.error.HTTPError as error:
        with error:
            raise Unreachable(f"cannot fetch {url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"cannot fetch {url}: {getattr(error, 'reason', None) or error}") from error
    if len(data) > limit:
        raise ModelFileError(f"{url} is larger than {limit} bytes")
    return data


def _read_in_time(response: Any, size: int) -> bytes:
    data = bytearray()
    over = time.monotonic() + READ_TIME
    while chunk := response.read1(size - len(data)):
        data += chunk
        if time.monotonic() > over:
            raise TimeoutError(f"it takes longer than {READ_TIME:g} s")
    return bytes(data)


def is_url(text: str) -> bool:
    """Whether a model is named by a URL, well-formed or not."""
    return "://" in text


def ensure_file(card: ModelCard, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """Return the verified file of a model, fetched if it is not here and the card says from where.

    Raises ModelFileError when it is not here and cannot be fetched, else what `fetch` raises.
    """
    try:
        return card.verified_path()
    except ModelFileError:
        if card.download is None:
            raise
    return fetch(Download(card.download, card.digest, card.size), offline=offline, progress=progress)


def fetch(download: Download, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """Return the file, fetched into the cache if it is not there; any number of processes may want it at once.

    What a connection that was cut has brought stays, and the next call goes on from there. What
    ``progress`` raises ends the download.

    Raises:
        Unreachable: the server cannot be reached, has no such file, or may not be asked (``offline``).
        ModelFileError: what it sends is not the file.
        UserError: the cache cannot be written.
    """
    if _is_good(download.path, download):
        return download.path
    if offline:
        raise Unreachable(f"{download.url} may not be fetched (--offline){_by_hand(download)}")
    try:
        download.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(download.path.with_suffix(".part")) as part:
            if _is_good(download.path, download):  # another process was faster
                Path(part.name).unlink()
                return download.path
            _fill_and_check(part, download, progress or _no_progress)
            Path(part.name).replace(download.path)
    except OSError as error:
        raise UserError(
            f"cannot keep {download.url} in {download.path.parent}: {error.strerror or error}; "
            f"make room or rights there, or name another folder in {CACHE_VARIABLE}"
        ) from error
    return download.path


def _is_good(path: Path, download: Download) -> bool:
    return path.is_file() and file_digest(path) == download.digest


def _no_progress(_: int, __: int | None) -> None:
    """Nobody looks."""


def _by_hand(download: Download) -> str:
    return f"; to go without, put the file with digest {download.digest} there: {download.path}"


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """A file open to read and write, made if it is not there, that one process at a time has; others wait."""
    while True:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file):
                yield file
                return


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether a file still has its name: who had it before may have given it another, or thrown it away."""
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _fill_and_check(part: IO[bytes], download: Download, progress: Progress) -> None:
    """Fill a file; one that turns out to be wrong is emptied, and if it began with what was there before, once more."""
    try:
        while True:
            resumed = part.seek(0, os.SEEK_END) > 0
            _fill(part, download, progress)
            part.flush()
            found = file_digest(Path(part.name))
            if found == download.digest:
                return
            part.truncate(0)
            if not resumed:
                raise ModelFileError(
                    f"{download.url} is not the file that was expected: {download.digest}, but {found}; "
                    f"it was thrown away{_by_hand(download)}"
                )
    except (OSError, ModelFileError):  # what is no good is not kept, and a full disk shall not stay full
        Path(part.name).unlink(missing_ok=True)
        raise


def _fill(part: IO[bytes], download: Download, progress: Progress) -> None:
    """Receive what is missing at the end of a file, in several attempts."""
    for attempt in range(1, ATTEMPTS + 1):
        before = part.seek(0, os.SEEK_END)
        if before == download.size:
            return
        try:
            _receive(part, before, download, progress)
            return
        except _Lost as error:
            now = part.seek(0, os.SEEK_END)
            if now == before or attempt == ATTEMPTS:
                raise Unreachable(
                    f"cannot fetch {download.url}: {error}{_by_hand(download)}"
                    + (f"; {now} bytes are kept, the next try goes on from there" if now else "")
                ) from error


class _Lost(Exception):
    """The connection did not come up, or was cut."""


def _receive(part: IO[bytes], start: int, download: Download, progress: Progress) -> None:
    # What is kept is as it will be. So only a file that is begun, and of known size, may come compressed.
    compressed = download.access is not None and download.size is not None and not start
    headers = {"User-Agent": "splitrtc", "Accept-Encoding": "zstd" if compressed else "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    opener = _opener() if download.access is None else download.access.opener(slow=download.rate is not None)
    try:
        response = opener.open(urllib.request.Request(download.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.truncate(0)  # what is here is longer than what is there: begin anew
            raise _Lost(f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Lost(getattr(error, "reason", None) or error) from error
    with response:
        if start and not _goes_on(response.status, response.headers, start):
            start = 0
            part.truncate(0)
        if compressed and response.headers.get("Content-Encoding") == "zstd":
            _unpack(response, part, download, progress)
        else:
            _copy(response, part, start, download, progress)


def _goes_on(status: int, headers: Mapping[str, str], start: int) -> bool:
    """Whether an answer begins at the byte that was asked for, and not at the first one."""
    return status == http.client.PARTIAL_CONTENT and headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _copy(response: Any, part: IO[bytes], start: int, download: Download, progress: Progress) -> None:
    """Append an answer's body to a file."""
    announced = response.headers.get("Content-Length", "")
    total = start + int(announced) if re.fullmatch("[0-9]{1,18}", announced) else None
    limit = MAX_BYTES if download.size is None else download.size
    if total is not None and (total > limit or download.size not in (None, total)):
        raise _wrong_size(download, total, limit)
    there = start
    progress(there, download.size or total)
    while chunk := _read(response, _chunk(download)):
        there += len(chunk)
        if there > limit:
            raise _wrong_size(download, there, limit)
        _append(part, chunk, download)
        progress(there, download.size or total)
    if there != (total if download.size is None else download.size) and (total or download.size):
        raise _Lost("the connection was cut")


def _unpack(response: Any, part: IO[bytes], download: Download, progress: Progress) -> None:
    """Write what an answer's compressed body holds, which begins with the file's first byte."""
    import zstandard

    assert download.size is not None
    there = 0
    progress(there, download.size)
    arriving: Any = _Arriving(response)  # of a file's methods it has the one that is called
    # Read piece by piece: a few bytes could unpack to any number.
    with zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(arriving) as reader:
        while True:
            try:
                chunk = reader.read1(_chunk(download))
            except zstandard.ZstdError as error:
                raise ModelFileError(f"{download.url} is not the file: its compressed form is damaged") from error
            except (OSError, http.client.HTTPException) as error:
                raise _Lost(error) from error
            if not chunk:
                break
            there += len(chunk)
            if there > download.size:
                raise _wrong_size(download, there, download.size)
            _append(part, chunk, download)
            progress(there, download.size)
    if there != download.size:
        raise _Lost("the connection was cut")


def _wrong_size(download: Download, found: int, limit: int) -> ModelFileError:
    return ModelFileError(f"{download.url} is not the file: it has {found} bytes or more, expected {limit}")


def _chunk(download: Download) -> int:
    return _CHUNK if download.rate is None else SLOW_BUFFER


def _append(part: IO[bytes], chunk: bytes, download: Download) -> None:
    part.write(chunk)
    part.flush()
    if download.rate is not None:
        time.sleep(len(chunk) / download.rate)


class _Arriving:
    """Reads what has come of a body: `read` of an answer waits for all of what it is asked for, `progress` with it."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def read(self, size: int) -> bytes:
        chunk: bytes = self._response.read1(size)
        return chunk


def _read(response: Any, size: int) -> bytes:
    try:
        chunk: bytes = response.read1(size)
    except (OSError, http.client.HTTPException) as error:
        raise _Lost(error) from error
    return chunk


def _opener() -> urllib.request.OpenerDirector:
    """What follows https alone, also when a server sends somewhere else; http only to this machine."""
    return urllib.request.build_opener(_Redirects)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_trusted(newurl):
            raise urllib.error.URLError(f"the server sends on to {newurl[:200]!r}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_trusted(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    except ValueError:
        return False
