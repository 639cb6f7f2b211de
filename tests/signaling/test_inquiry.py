from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from signaling.inquiry import MAX_HEALTH, Inquiry
from signaling.manifest import manifest_bytes
from splitrtc_errors import BadArgument, ProtocolError, Unreachable
from tests.signaling.manifests import MANIFEST


@contextlib.asynccontextmanager
async def server(**bodies: tuple[int, bytes]) -> AsyncIterator[tuple[str, list[str | None]]]:
    """An HTTP server with these answers; what tokens it was shown."""
    shown: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        shown.append(request.headers.get("Authorization"))
        status, body = bodies[request.path.strip("/")]
        return web.Response(status=status, body=body)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}", shown
    finally:
        await runner.cleanup()


async def test_an_edge_tells_how_far_it_is_and_what_it_has() -> None:
    async with server(healthz=(200, b"{}"), manifest=(200, manifest_bytes(MANIFEST))) as (url, shown):
        inquiry = Inquiry(url, token="secret")
        assert (inquiry.rtt, inquiry.manifest) == (None, None)
        await inquiry.run()
    assert inquiry.rtt is not None
    assert 0 < inquiry.rtt < 1
    assert inquiry.manifest == MANIFEST
    assert shown == ["Bearer secret"] * 3


@pytest.mark.parametrize(
    ("bodies", "error"),
    [
        ({"healthz": (404, b"")}, Unreachable),
        ({"healthz": (200, b"x" * (MAX_HEALTH + 1))}, ProtocolError),
        ({"healthz": (302, b"")}, Unreachable),
    ],
)
async def test_what_is_no_edge_is_not_near(bodies: Any, error: type[Exception]) -> None:
    async with server(**bodies) as (url, _):
        inquiry = Inquiry(url)
        with pytest.raises(error):
            await inquiry.run()
    assert inquiry.rtt is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{" * 100_000, b'{"format": 2}'])
async def test_a_manifest_that_cannot_be_read_leaves_the_time(body: bytes) -> None:
    async with server(healthz=(200, b"{}"), manifest=(200, body)) as (url, _):
        inquiry = Inquiry(url)
        with pytest.raises(ProtocolError):
            await inquiry.run()
    assert inquiry.rtt is not None
    assert inquiry.manifest is None


async def test_nobody_is_there() -> None:
    with pytest.raises(Unreachable):
        await Inquiry("127.0.0.1:1").run()
    with pytest.raises(BadArgument):
        Inquiry("ftp://x")
