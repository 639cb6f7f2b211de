"""Uploading, listing and withdrawing models over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from models import Zoo
from signaling import SignalingServer, admin
from signaling.admin import ModelAdmin

TOKEN = "that-of-the-operator"
DATA = bytes(range(256)) * 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
async def edge(serve: Any, make_edge: Any, folder: Path) -> AsyncIterator[SignalingServer]:
    operator = ModelAdmin(folder, TOKEN, max_upload=2**18)
    async with serve(make_edge(), token="that-of-ues", routes=operator.routes()) as edge_server:
        yield edge_server
    operator.close()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        yield session


def url(edge: SignalingServer, path: str = "") -> str:
    return f"http://127.0.0.1:{edge.port}/admin/models{path}"


def digest(data: bytes) -> dict[str, str]:
    return {"Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"}


async def put(http: aiohttp.ClientSession, url: str, data: Any, **headers: str) -> tuple[int, str]:
    async with http.put(url, data=data, headers=headers) as response:
        return response.status, await response.text()


def there(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_a_model_is_uploaded_listed_replaced_and_withdrawn(
    edge: SignalingServer, http: aiohttp.ClientSession, folder: Path
) -> None:
    assert await put(http, url(edge, "/tiny/tiny.onnx"), DATA, **digest(DATA)) == (201, "")
    assert await put(http, url(edge, "/tiny/tiny.onnx"), DATA[1:], **digest(DATA[1:])) == (204, "")
    assert (folder / "tiny" / "tiny.onnx").read_bytes() == DATA[1:]
    async with http.get(url(edge)) as response:
        listed = await response.json()
    assert listed == {"models": [{"name": "tiny", "files": [{"name": "tiny.onnx", "size": len(DATA) - 1}]}]}
    async with http.delete(url(edge, "/tiny")) as response:
        assert response.status == 204
    assert there(folder) == []
    assert not (folder / "tiny").exists()
    async with http.delete(url(edge, "/tiny")) as response:
        assert response.status == 404


async def test_a_card_is_looked_at(edge: SignalingServer, http: aiohttp.ClientSession, folder: Path) -> None:
    card = Zoo().get()
    data = json.dumps(card.to_json()).encode()
    status, problem = await put(http, url(edge, "/another/card.json"), data, **digest(data))
    assert (status, f"that of {card.name}, not another" in problem) == (400, True)
    status, problem = await put(http, url(edge, "/another/card.json"), b"{}", **digest(b"{}"))
    assert (status, "model card card.json: 'format' is missing" in problem) == (400, True)
    assert there(folder) == []
    assert await put(http, url(edge, f"/{card.name}/card.json"), data, **digest(data)) == (201, "")


@pytest.mark.parametrize("token", [None, "that-of-ues", TOKEN[:-1], "", "Bearer"])
async def test_only_the_operator_may(edge: SignalingServer, folder: Path, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        assert (await put(http, url(edge, "/tiny/tiny.onnx"), DATA, **digest(DATA)))[0] == 401
        for method, path in (("GET", ""), ("DELETE", "/tiny")):
            async with http.request(method, url(edge, path)) as response:
                assert response.status == 401
    assert there(folder) == []


@pytest.mark.parametrize(
    ("path", "data", "headers", "status"),
    [
        ("/tiny/tiny.onnx", DATA, {}, 400),
        ("/tiny/tiny.onnx", DATA, {"Content-Digest": "sha-256=:c2hvcnQ=:"}, 400),
        ("/tiny/tiny.onnx", DATA, {"Content-Digest": f"sha-256=:{'=' * 44}:"}, 400),
        ("/tiny/tiny.onnx", DATA, digest(b"another"), 400),
        ("/tiny/tiny.onnx", DATA, digest(DATA) | {"Content-Encoding": "gzip"}, 400),
        ("/tiny/tiny.sh", DATA, digest(DATA), 400),
        ("/tiny/tiny.onnx", bytes(2**18 + 1), digest(bytes(2**18 + 1)), 507),
        ("/.hidden/tiny.onnx", DATA, digest(DATA), 404),
        ("/tiny/.tiny.onnx", DATA, digest(DATA), 404),
        ("/tiny/..%2Fevil.onnx", DATA, digest(DATA), 404),
        ("/%2E%2E/evil.onnx", DATA, digest(DATA), 404),
        (f"/{'n' * 65}/tiny.onnx", DATA, digest(DATA), 404),
    ],
)
async def test_what_cannot_be_taken_is_refused_and_leaves_nothing(
    edge: SignalingServer,
    http: aiohttp.ClientSession,
    folder: Path,
    path: str,
    data: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    try:
        async with http.put(URL(url(edge, path), encoded=True), data=data, headers=headers) as response:
            assert response.status == status
    except aiohttp.ClientOSError:  # it did not wait for all of it
        assert status == 507
    assert there(folder.parent) == []


async def test_a_length_must_be_said(edge: SignalingServer, http: aiohttp.ClientSession, folder: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield DATA

    assert (await put(http, url(edge, "/tiny/tiny.onnx"), endless(), **digest(DATA)))[0] == 400
    assert there(folder) == []


async def begin(edge: SignalingServer, count: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An upload of DATA that has brought so many bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    lines = [
        "PUT /admin/models/tiny/tiny.onnx HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}",
        f"Content-Digest: {digest(DATA)['Content-Digest']}", f"Content-Length: {len(DATA)}", "", "",
    ]  # fmt: skip
    writer.write("\r\n".join(lines).encode() + DATA[:count])
    await writer.drain()
    return reader, writer


async def test_an_upload_that_is_cut_leaves_nothing(edge: SignalingServer, folder: Path) -> None:
    for count in (0, 1, 1000, len(DATA) - 1):
        _, writer = await begin(edge, count)
        writer.close()
        await writer.wait_closed()
    await edge.close()
    assert there(folder) == []


async def test_an_upload_may_not_take_for_ever(
    edge: SignalingServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "GRACE", 0.05)
    monkeypatch.setattr(admin, "MIN_RATE", 2**40)
    reader, writer = await begin(edge, 1000)
    async with asyncio.timeout(10):
        assert b" 400 " in await reader.readline()
        writer.write(DATA[1000:])  # or the server would wait for it, for a while
        await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert there(folder) == []


async def test_no_more_than_there_is_room_for(
    edge: SignalingServer, http: aiohttp.ClientSession, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "MAX_FILES", 1)
    monkeypatch.setattr(admin, "MAX_MODELS", 1)
    assert (await put(http, url(edge, "/tiny/a.onnx"), DATA, **digest(DATA)))[0] == 201
    assert (await put(http, url(edge, "/tiny/b.onnx"), DATA, **digest(DATA)))[0] == 507
    assert (await put(http, url(edge, "/tiny/a.onnx"), DATA, **digest(DATA)))[0] == 204
    assert (await put(http, url(edge, "/huge/a.onnx"), DATA, **digest(DATA)))[0] == 507
    monkeypatch.setattr(admin, "MAX_UPLOADS", 0)
    assert (await put(http, url(edge, "/tiny/a.onnx"), DATA, **digest(DATA)))[0] == 503


async def test_a_full_disk_says_so(edge: SignalingServer, http: aiohttp.ClientSession, folder: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA) // 2, limits[1]))
    try:
        status, problem = await put(http, url(edge, "/tiny/a.onnx"), DATA, **digest(DATA))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (status, "File too large" in problem) == (507, True)
    assert there(folder) == []


async def test_guessing_is_slow(edge: SignalingServer) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer wrong"}) as http:
        statuses = []
        for _ in range(25):
            async with http.get(url(edge)) as response:
                statuses.append(response.status)
    assert statuses[0] == 401
    assert statuses[-1] == 429
