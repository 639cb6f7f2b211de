"""Downloads from a server on this machine that does as each test says."""

from __future__ import annotations

import dataclasses
import gzip
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from models import download
from models.access import Access
from models.download import Download, ensure_file, fetch, is_url, read_url
from models.identity import bytes_digest
from models.resolve import resolve_model
from models.zoo import Zoo
from splitrtc_errors import BadArgument, ConnectionLost, ModelFileError, UnknownModel, Unreachable, UserError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = bytes_digest(CONTENT)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))
        try:
            self.server.answer(self)
        except OSError:  # who asked has left
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def begin(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def range_start(self) -> int:
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


class Server(ThreadingHTTPServer):
    """Answers as the test says: as a file server does, unless told otherwise."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.answer: Callable[[Handler], None] = serve

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/model.onnx"


def serve(request: Handler, content: bytes = CONTENT) -> None:
    start = request.range_start()
    if start:
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        request.begin(206, Content_Length=len(content) - start, Content_Range=span)
    else:
        request.begin(200, Content_Length=len(content))
    request.wfile.write(content[start:])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no proxy on the way to this machine."""
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SPLITRTC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def wanted(server: Server) -> Download:
    return Download(server.url, DIGEST, len(CONTENT))


def cut_after(count: int) -> Callable[[Handler], None]:
    """An answer that promises all, and ends after so many bytes of it."""

    def answer(request: Handler) -> None:
        start = request.range_start()
        span = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        request.begin(206 if start else 200, Content_Length=len(CONTENT) - start, Content_Range=span)
        request.wfile.write(CONTENT[start : start + count])
        request.close_connection = True

    return answer


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_a_file_is_fetched_once_and_told_how_far(server: Server, wanted: Download, cache: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = fetch(wanted, progress=lambda there, total: told.append((there, total)))
    assert path == wanted.path == cache / f"{DIGEST.removeprefix('sha-256:')}.onnx"
    assert path.read_bytes() == CONTENT
    assert leftovers(cache) == [path.name]
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(wanted, offline=True) == path
    assert server.asked == [None]


def test_a_connection_that_is_cut_is_taken_up_again(server: Server, wanted: Download, cache: Path) -> None:
    server.answer = cut_after(300_000)
    assert fetch(wanted).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert leftovers(cache) == [wanted.path.name]


def test_what_a_failed_call_has_brought_serves_the_next_one(server: Server, wanted: Download, cache: Path) -> None:
    server.answer = cut_after(100)
    with pytest.raises(Unreachable, match=r"the connection was cut.*500 bytes are kept") as caught:
        fetch(wanted)
    assert str(wanted.path) in str(caught.value), "where to put it by hand"
    assert not wanted.path.exists()
    server.answer = serve
    assert fetch(wanted).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=500-"


def test_a_server_that_brings_nothing_is_given_up(server: Server, wanted: Download) -> None:
    server.answer = cut_after(0)
    with pytest.raises(Unreachable, match="the connection was cut"):
        fetch(wanted)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [200, 206])
def test_a_server_that_does_not_go_on_where_it_was_asked_to_is_read_from_its_beginning(
    server: Server, wanted: Download, cache: Path, status: int
) -> None:
    cache.mkdir(parents=True)
    wanted.path.with_suffix(".part").write_bytes(CONTENT[:1000])

    def answer(request: Handler) -> None:
        span = f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"
        request.begin(status, Content_Length=len(CONTENT), Content_Range=span)
        request.wfile.write(CONTENT)

    server.answer = answer
    assert fetch(wanted).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_a_beginning_of_another_file_is_thrown_away(server: Server, wanted: Download, cache: Path) -> None:
    cache.mkdir(parents=True)
    wanted.path.with_suffix(".part").write_bytes(b"x" * 1000)
    assert fetch(wanted).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", None]


def test_a_beginning_that_is_too_long_is_thrown_away(server: Server, wanted: Download, cache: Path) -> None:
    cache.mkdir(parents=True)
    wanted.path.with_suffix(".part").write_bytes(b"x" * (len(CONTENT) + 1))

    def answer(request: Handler) -> None:
        if request.range_start() >= len(CONTENT):
            request.begin(416, Content_Length=0)
        else:
            serve(request)

    server.answer = answer
    assert fetch(wanted).read_bytes() == CONTENT


def test_a_whole_file_that_was_not_named_yet_is_not_asked_for_again(
    server: Server, wanted: Download, cache: Path
) -> None:
    cache.mkdir(parents=True)
    wanted.path.with_suffix(".part").write_bytes(CONTENT)
    assert fetch(wanted).read_bytes() == CONTENT
    assert not server.asked


def test_a_file_with_another_digest_is_thrown_away(server: Server, wanted: Download, cache: Path) -> None:
    server.answer = lambda request: serve(request, CONTENT[::-1])
    with pytest.raises(ModelFileError, match=f"expected: {DIGEST}, but {bytes_digest(CONTENT[::-1])}"):
        fetch(wanted)
    assert leftovers(cache) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, wanted: Download, cache: Path) -> None:
    cache.mkdir(parents=True)
    wanted.path.write_bytes(CONTENT[::-1])
    assert fetch(wanted).read_bytes() == CONTENT


@pytest.mark.parametrize("length", ["-5", "abc", "9" * 30, "1e3", str(2**60), "17", ""])
def test_a_hostile_content_length_costs_nothing(server: Server, wanted: Download, cache: Path, length: str) -> None:
    def answer(request: Handler) -> None:
        request.begin(200, Content_Length=length)
        request.wfile.write(b"x" * (2 * len(CONTENT)))

    server.answer = answer
    with pytest.raises((ModelFileError, Unreachable)):
        fetch(wanted)
    assert sum(path.stat().st_size for path in cache.iterdir()) <= len(CONTENT)


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_an_endless_body_ends(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", len(CONTENT))

    def answer(request: Handler) -> None:
        request.begin(200)
        while True:
            request.wfile.write(b"x" * 65536)

    server.answer = answer
    with pytest.raises(ModelFileError, match=f"bytes or more, expected {len(CONTENT)}"):
        fetch(Download(server.url, DIGEST, size))
    assert leftovers(cache) == []


@pytest.mark.parametrize("coding", ["identity", "zstd"])
def test_whoever_looks_on_can_end_what_drips(server: Server, wanted: Download, cache: Path, coding: str) -> None:
    ended = threading.Event()
    content = CONTENT if coding == "identity" else zstandard.compress(os.urandom(len(CONTENT)))

    def answer(request: Handler) -> None:
        request.begin(200, Content_Length=len(content), Content_Encoding=coding)
        request.wfile.write(content[:200_000])
        ended.wait(30.0)  # what is still to come does not, as long as anybody waits for it

    def end(there: int, _: int | None) -> None:
        if there:
            ended.set()
            raise ConnectionLost("enough")

    server.answer = answer
    with pytest.raises(ConnectionLost, match="enough"):
        fetch(dataclasses.replace(wanted, access=Access(), folder=cache), progress=end)


def test_what_is_read_at_once_comes_in_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "READ_TIME", 0.0)
    with pytest.raises(Unreachable, match="takes longer than 0 s"):
        read_url(server.url, Access(), len(CONTENT))


def test_a_body_without_a_length_is_taken(server: Server, wanted: Download) -> None:
    def answer(request: Handler) -> None:
        request.begin(200)
        request.wfile.write(CONTENT)
        request.close_connection = True

    server.answer = answer
    assert fetch(Download(server.url, DIGEST)).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 403, 500, 416])
def test_a_refusal_says_so_and_what_to_do(server: Server, wanted: Download, status: int) -> None:
    server.answer = lambda request: request.begin(status, Content_Length=0)
    with pytest.raises(Unreachable, match=f"the server answers {status}.*put the file with digest {DIGEST} there"):
        fetch(wanted)
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_says_so(server: Server, wanted: Download) -> None:
    server.server_close()
    server.socket.close()
    with pytest.raises(Unreachable, match=r"cannot fetch http://127.0.0.1:.*refused"):
        fetch(Download("http://127.0.0.1:9/model.onnx", DIGEST, len(CONTENT)))


def test_a_server_that_falls_silent_is_given_up(
    server: Server, wanted: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    given_up = threading.Event()

    def answer(request: Handler) -> None:
        request.begin(200, Content_Length=len(CONTENT))
        given_up.wait(10)

    server.answer = answer
    with pytest.raises(Unreachable, match="timed out"):
        fetch(wanted)
    given_up.set()


def test_nothing_is_fetched_when_told_so(server: Server, wanted: Download) -> None:
    with pytest.raises(Unreachable, match=r"may not be fetched \(--offline\); .*put the file"):
        fetch(wanted, offline=True)
    assert not server.asked


@pytest.mark.parametrize(
    "elsewhere", ["http://localhost:{port}/", "ftp://127.0.0.1/model.onnx", "file:///etc/passwd", "http://192.0.2.1/"]
)
def test_it_is_not_sent_on_to_what_is_not_https(server: Server, wanted: Download, elsewhere: str) -> None:
    target = elsewhere.format(port=server.server_port)
    server.answer = lambda request: request.begin(302, Location=target, Content_Length=0)
    with pytest.raises(Unreachable, match=r"sends on to .*, which is not https|answers 302"):
        fetch(wanted)
    assert len(server.asked) == 1


def test_it_is_sent_on_within_this_machine(server: Server, wanted: Download) -> None:
    def answer(request: Handler) -> None:
        if request.path == "/model.onnx":
            request.begin(302, Location=server.url.replace("model", "elsewhere"), Content_Length=0)
        else:
            serve(request)

    server.answer = answer
    assert fetch(wanted).read_bytes() == CONTENT


def test_a_full_disk_says_so_and_is_not_left_full(server: Server, wanted: Download, cache: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot keep .*File too large; make room or rights there, or name"):
            fetch(wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert leftovers(cache) == []


def test_a_cache_that_cannot_be_made_says_so(server: Server, wanted: Download, cache: Path) -> None:
    cache.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot keep .*SPLITRTC_CACHE"):
        fetch(wanted)
    assert not server.asked


def test_two_processes_at_once_fetch_one_file_once(server: Server, wanted: Download, cache: Path) -> None:
    code = "import sys; from models.download import *; print(fetch(Download(sys.argv[1], sys.argv[2])))"
    command = [sys.executable, "-c", code, wanted.url, wanted.digest]
    first_asks, both_run = threading.Event(), threading.Event()

    def answer(request: Handler) -> None:
        first_asks.set()
        both_run.wait(30)
        serve(request)

    server.answer = answer
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert first_asks.wait(30)
    both_run.set()
    for process in processes:
        written, _ = process.communicate(timeout=30)
        assert (process.returncode, written.strip()) == (0, str(wanted.path))
    assert wanted.path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert leftovers(cache) == [wanted.path.name]


def test_threads_share_as_well(server: Server, wanted: Download) -> None:
    threads = [threading.Thread(target=fetch, args=(wanted,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wanted.path.read_bytes() == CONTENT
    assert server.asked == [None]


def test_urls_with_a_digest_are_read() -> None:
    hexadecimal = DIGEST.removeprefix("sha-256:")
    for spelling in ("sha-256", "sha256"):
        text = f"https://example.org/a/model.onnx?x=1#{spelling}={hexadecimal}"
        assert is_url(text)
        assert Download.parse(text) == Download("https://example.org/a/model.onnx?x=1", DIGEST)
    assert not is_url("yolox_nano")


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/model.onnx",
        "https://example.org/model.onnx#sha-256=12",
        "http://example.org/model.onnx#sha-256=" + "0" * 64,
        "ftp://example.org/model.onnx#sha-256=" + "0" * 64,
        "file:///model.onnx#sha-256=" + "0" * 64,
        "http://127.0.0.1.example.org/#sha-256=" + "0" * 64,
        "http://[::1/#sha-256=" + "0" * 64,
    ],
)
def test_other_urls_are_refused(text: str) -> None:
    with pytest.raises(BadArgument, match="expected https://HOST/PATH#sha-256=64 hex digits"):
        Download.parse(text)


@given(st.text(max_size=100))
def test_any_text_is_a_url_with_digest_or_refused(text: str) -> None:
    try:
        parsed = Download.parse(text)
    except BadArgument:
        return
    assert parsed.url.startswith(("https:", "http:"))


def test_a_model_is_found_by_name_by_path_and_by_url(server: Server, wanted: Download, tmp_path: Path) -> None:
    zoo = Zoo()
    assert resolve_model(zoo.get().name, zoo, offline=True) == zoo.get().path
    path = tmp_path / "mine.onnx"
    path.write_bytes(CONTENT)
    assert resolve_model(str(path), zoo) == path
    assert resolve_model(f"{server.url}#sha-256={DIGEST.removeprefix('sha-256:')}", zoo) == wanted.path
    with pytest.raises(UnknownModel):
        resolve_model("nonsense", zoo)


def test_a_model_of_the_zoo_that_is_not_here_is_fetched_from_where_its_card_says(
    server: Server, tmp_path: Path
) -> None:
    card = dataclasses.replace(
        Zoo().get(), name="other", digest=DIGEST, size=len(CONTENT), download=server.url, directory=tmp_path
    )
    with pytest.raises(ModelFileError, match="run `splitrtc models fetch other`"):
        card.verified_path()
    with pytest.raises(Unreachable, match="--offline"):
        ensure_file(card, offline=True)
    path = ensure_file(card)
    assert card.verified_path() == path
    assert server.asked == [None]
    with pytest.raises(ModelFileError, match="not here"):
        ensure_file(dataclasses.replace(card, download=None, digest=bytes_digest(b"other")))


# What an edge delivers.

SMALL = bytes(range(40)) * 2
PACKED = zstandard.compress(SMALL)


def packed(request: Handler, count: int = len(PACKED), coding: str = "zstd") -> None:
    """As an edge: compressed for who may have it so, a part as it is."""
    request.server.asked[-1] = request.headers.get("Range") or request.headers.get("Accept-Encoding")
    if request.headers.get("Accept-Encoding") != "zstd":
        return serve(request, SMALL)
    request.begin(200, Content_Length=len(PACKED), Content_Encoding=coding)
    request.wfile.write(PACKED[:count])
    request.close_connection = True
    return None


def delivered(server: Server, folder: Path, data: bytes = SMALL, **access: Any) -> Download:
    return Download(server.url, bytes_digest(data), len(data), Access(**access), folder)


def test_what_an_edge_delivers_comes_compressed_and_lies_apart(server: Server, tmp_path: Path) -> None:
    server.answer = packed
    told: list[tuple[int, int | None]] = []
    path = fetch(delivered(server, tmp_path / "d"), progress=lambda there, total: told.append((there, total)))
    assert path == tmp_path / "d" / bytes_digest(SMALL).removeprefix("sha-256:")
    assert path.read_bytes() == SMALL
    assert (told[0], told[-1]) == ((0, len(SMALL)), (len(SMALL), len(SMALL)))
    assert server.asked == ["zstd"]


@pytest.mark.parametrize("count", range(0, len(PACKED), 5))
def test_a_delivery_that_is_cut_anywhere_goes_on(server: Server, tmp_path: Path, count: int) -> None:
    server.answer = lambda request: packed(request, count)
    download = delivered(server, tmp_path)
    try:
        path = fetch(download)
    except Unreachable:  # not one byte came, which is told at once
        path = fetch(dataclasses.replace(download, access=None))
    assert path.read_bytes() == SMALL
    assert leftovers(tmp_path) == [path.name]


@pytest.mark.parametrize("data", [b"no zstd at all", PACKED[:10] + b"\xff" * 40])
def test_a_damaged_compressed_form_is_thrown_away(server: Server, tmp_path: Path, data: bytes) -> None:
    def answer(request: Handler) -> None:
        request.begin(200, Content_Length=len(data), Content_Encoding="zstd")
        request.wfile.write(data)

    server.answer = answer
    with pytest.raises((ModelFileError, Unreachable)):
        fetch(delivered(server, tmp_path))
    assert not (tmp_path / bytes_digest(SMALL).removeprefix("sha-256:")).exists()


def test_a_few_bytes_that_unpack_to_many_are_stopped(server: Server, tmp_path: Path) -> None:
    bomb = zstandard.compress(bytes(2**26))
    assert len(bomb) < 2**14

    def answer(request: Handler) -> None:
        request.begin(200, Content_Length=len(bomb), Content_Encoding="zstd")
        request.wfile.write(bomb)

    server.answer = answer
    with pytest.raises(ModelFileError, match=f"expected {len(SMALL)}"):
        fetch(delivered(server, tmp_path))
    assert leftovers(tmp_path) == []


def test_the_token_goes_to_the_edge_alone(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(request: Handler) -> None:
        seen.append((request.path, request.headers.get("Authorization")))
        request.begin(302, Location=server.url.replace("model", "elsewhere"), Content_Length=0)

    server.answer = answer
    with pytest.raises(Unreachable, match="302"):
        fetch(delivered(server, tmp_path, token="secret"))
    with pytest.raises(Unreachable, match="302"):
        read_url(server.url, Access("secret"), 100)
    assert seen == 2 * [("/model.onnx", "Bearer secret")]
    assert "secret" not in repr(Access("secret"))


def test_a_slow_delivery_takes_its_time(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("models.download.time.sleep", slept.append)
    wanted = dataclasses.replace(delivered(server, tmp_path, CONTENT), rate=1_000_000.0)
    assert fetch(wanted).read_bytes() == CONTENT
    assert sum(slept) == pytest.approx(len(CONTENT) / 1_000_000)
    assert max(slept) <= 2**14 / 1_000_000


def test_what_the_progress_raises_ends_a_delivery_that_can_go_on(server: Server, tmp_path: Path) -> None:
    told: list[int] = []

    def stop(there: int, _: int | None) -> None:
        told.append(there)
        if there >= 2**18:
            raise ConnectionLost("enough")

    wanted = delivered(server, tmp_path, CONTENT)
    with pytest.raises(ConnectionLost):
        fetch(wanted, progress=stop)
    assert fetch(wanted).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={told[-1]}-"]


def test_small_documents_are_read(server: Server) -> None:
    assert read_url(server.url, Access(), len(CONTENT)) == CONTENT
    with pytest.raises(ModelFileError, match="larger than 10 bytes"):
        read_url(server.url, Access(), 10)
    server.answer = lambda request: request.begin(404, Content_Length=0)
    with pytest.raises(Unreachable, match="the server answers 404"):
        read_url(server.url, Access(), 10)
    with pytest.raises(Unreachable, match="refused"):
        read_url("http://127.0.0.1:9/manifest", Access(), 10)


def test_what_comes_packed_is_unpacked_within_bounds(server: Server) -> None:
    body = gzip.compress(CONTENT)

    def answer(request: Handler) -> None:
        assert request.headers["Accept-Encoding"] == "gzip"
        request.begin(200, Content_Length=len(body), Content_Encoding="gzip")
        request.wfile.write(body)

    server.answer = answer
    assert read_url(server.url, Access(), len(CONTENT)) == CONTENT
    with pytest.raises(ModelFileError, match="is larger than"):
        read_url(server.url, Access(), len(CONTENT) - 1)
    body = b"junk"
    with pytest.raises(ModelFileError, match="is damaged"):
        read_url(server.url, Access(), 10)
