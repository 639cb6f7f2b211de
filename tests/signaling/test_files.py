"""Files and the manifest over real HTTP."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import zstandard

from models.identity import bytes_digest
from signaling import SignalingServer, files, server
from signaling.files import ServedFile

CONTENT = bytes(range(256)) * 1024  # 256 KiB, which compresses well
DIGEST = bytes_digest(CONTENT)
HEX = DIGEST.removeprefix("sha-256:")
TOKEN = "open-sesame-of-the-tests"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding"]) as session:
        yield session


@pytest.fixture
def served(tmp_path: Path) -> ServedFile:
    path = tmp_path / "a file"
    path.write_bytes(CONTENT)
    compressed = {}
    for coding, data in (("zstd", zstandard.compress(CONTENT)), ("gzip", gzip.compress(CONTENT))):
        made = tmp_path / coding
        made.write_bytes(data)
        compressed[coding] = made, len(data)
    return ServedFile(DIGEST, path, len(CONTENT), "head.onnx", compressed)


@pytest.fixture
async def edge(serve: Any, make_edge: Any, served: ServedFile) -> AsyncIterator[SignalingServer]:
    known = {served.hex: served}
    async with serve(make_edge(), manifest=lambda: b'{"format": 1}', find_file=known.get) as edge_server:
        yield edge_server


def url(edge: SignalingServer, hex_: str = HEX) -> str:
    return f"http://127.0.0.1:{edge.port}/files/{hex_}"


async def get(http: aiohttp.ClientSession, url: str, **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
    async with http.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()}) as response:
        return response, await response.read()


async def test_a_file_is_had_by_its_digest(edge: SignalingServer, http: aiohttp.ClientSession) -> None:
    response, body = await get(http, url(edge))
    assert (response.status, body) == (200, CONTENT)
    assert response.headers["ETag"] == f'"{HEX}"'
    assert "immutable" in response.headers["Cache-Control"]
    assert response.headers["Vary"] == "Accept-Encoding"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.content_length == len(CONTENT)


async def test_a_page_whose_name_was_made_to_lead_here_gets_nothing(
    serve: Any, make_edge: Any, served: ServedFile, http: aiohttp.ClientSession
) -> None:
    options: dict[str, Any] = {"manifest": lambda: b"{}", "find_file": {served.hex: served}.get}
    async with serve(make_edge(), token=None, allow_origins=["https://page.example"], **options) as edge:
        for place in (url(edge), f"http://127.0.0.1:{edge.port}/manifest"):
            for host, status in (
                (f"127.0.0.1:{edge.port}", 200),
                (f"localhost:{edge.port}", 200),
                (f"evil.example:{edge.port}", 403),
            ):
                response, _ = await get(http, place, Host=host)
                assert response.status == status
            response, _ = await get(http, place, Origin="https://page.example", Host="page.example")
            assert response.status == 200


async def test_head_says_the_same_without_the_bytes(edge: SignalingServer, http: aiohttp.ClientSession) -> None:
    async with http.head(url(edge)) as response:
        assert (response.status, response.content_length) == (200, len(CONTENT))
        assert response.headers["ETag"] == f'"{HEX}"'
        assert await response.read() == b""


async def test_a_part_of_it(edge: SignalingServer, http: aiohttp.ClientSession) -> None:
    response, body = await get(http, url(edge), Range="bytes=100000-", If_Range=f'"{HEX}"')
    assert (response.status, body) == (206, CONTENT[100000:])
    assert response.headers["Content-Range"] == f"bytes 100000-{len(CONTENT) - 1}/{len(CONTENT)}"
    response, body = await get(http, url(edge), Range="bytes=100000-", If_Range='"other"')
    assert (response.status, body) == (200, CONTENT)
    response, body = await get(http, url(edge), Range=f"bytes={len(CONTENT)}-")
    assert (response.status, body) == (416, b"")
    assert response.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


async def test_who_has_it_gets_nothing(edge: SignalingServer, http: aiohttp.ClientSession) -> None:
    response, body = await get(http, url(edge), If_None_Match=f'"{HEX}"')
    assert (response.status, body) == (304, b"")


@pytest.mark.parametrize(
    ("accepted", "coding", "unpack"),
    [("zstd, gzip", "zstd", zstandard.decompress), ("gzip", "gzip", gzip.decompress), ("br", None, bytes)],
)
async def test_compressed_forms_have_tags_of_their_own(
    edge: SignalingServer, http: aiohttp.ClientSession, accepted: str, coding: str | None, unpack: Any
) -> None:
    response, body = await get(http, url(edge), Accept_Encoding=accepted)
    assert response.status == 200
    assert response.headers.get("Content-Encoding") == coding
    assert response.headers["ETag"] == (f'"{HEX}-{coding}"' if coding else f'"{HEX}"')
    assert unpack(body) == CONTENT
    response, rest = await get(http, url(edge), Accept_Encoding=accepted, Range="bytes=100-")
    assert (response.status, rest) == (206, body[100:])


@pytest.mark.parametrize(
    "path",
    [
        "0" * 64, HEX.upper(), HEX[:-1], f"{HEX}0", "../a%20file", "..%2F..%2Fetc%2Fpasswd", "%2e%2e/etc/passwd",
        "/etc/passwd", f"{HEX}/..", f"{HEX}%00", "",
    ],
)  # fmt: skip
async def test_nothing_else_is_to_be_had(edge: SignalingServer, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(f"GET /files/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert b"root:" not in answer


async def test_a_file_that_has_gone_is_not_found(
    edge: SignalingServer, http: aiohttp.ClientSession, served: ServedFile
) -> None:
    served.path.unlink()
    assert (await get(http, url(edge)))[0].status == 404


async def test_a_file_that_became_shorter_is_cut_off(
    edge: SignalingServer, http: aiohttp.ClientSession, served: ServedFile
) -> None:
    served.path.write_bytes(CONTENT[:1000])
    with pytest.raises(aiohttp.ClientPayloadError):
        await get(http, url(edge))


async def test_only_with_the_token(serve: Any, make_edge: Any, http: aiohttp.ClientSession, served: ServedFile) -> None:
    known = {served.hex: served}
    async with serve(make_edge(), token=TOKEN, manifest=lambda: b"{}", find_file=known.get) as edge_server:
        for place in (url(edge_server), f"http://127.0.0.1:{edge_server.port}/manifest"):
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                assert (await get(http, place, **headers))[0].status == 401
            assert (await get(http, place, Authorization=f"Bearer {TOKEN}"))[0].status == 200


async def test_without_a_token_pages_of_others_get_nothing(edge: SignalingServer, http: aiohttp.ClientSession) -> None:
    assert (await get(http, url(edge), Origin="https://elsewhere.example"))[0].status == 403


async def test_not_too_often(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession, served: ServedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUESTS_PER_SOCKET", 0.1)
    known = {served.hex: served}
    async with serve(make_edge(), find_file=known.get, connect_rate=1.0) as edge_server:
        statuses = [(await get(http, url(edge_server)))[0] for _ in range(2)]
        assert [response.status for response in statuses] == [200, 429]
        assert int(statuses[1].headers["Retry-After"]) > 0


async def test_not_too_many_at_a_time(
    edge: SignalingServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_TRANSFERS", 0)
    response, _ = await get(http, url(edge))
    assert response.status == 503
    assert int(response.headers["Retry-After"]) > 0
    async with http.head(url(edge)) as response:
        assert response.status == 200


async def test_who_takes_too_long_is_disconnected(
    serve: Any, make_edge: Any, http: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "GRACE", 0.1)
    monkeypatch.setattr(files, "MIN_RATE", 2**50)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2**36)  # of holes: nobody reads that within the time
    served = ServedFile(DIGEST, large, 2**36, "large")
    async with serve(make_edge(), find_file={HEX: served}.get) as edge_server:
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            async with asyncio.timeout(20), http.get(url(edge_server)) as response:
                async for _ in response.content.iter_chunked(2**16):
                    pass


async def test_the_manifest_is_what_the_edge_says(edge: SignalingServer, http: aiohttp.ClientSession) -> None:
    response, body = await get(http, f"http://127.0.0.1:{edge.port}/manifest")
    assert (response.status, body, response.content_type) == (200, b'{"format": 1}', "application/json")
    assert response.headers["Cache-Control"] == "no-store"


async def test_a_manifest_may_take_a_while(serve: Any, make_edge: Any, http: aiohttp.ClientSession) -> None:
    async def manifest() -> bytes:
        await asyncio.sleep(0)
        return b"{}"

    async with serve(make_edge(), manifest=manifest) as edge_server:
        assert (await get(http, f"http://127.0.0.1:{edge_server.port}/manifest"))[1] == b"{}"
        assert (await get(http, url(edge_server)))[0].status == 404, "without files"
