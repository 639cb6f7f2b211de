from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pipeline.edge import Edge
from pipeline.emulated_link import EmulatedLink
from pipeline.settings import EdgeSettings, UeSettings
from pipeline.ue import UeSession
from signaling.inquiry import Inquiry
from splitrtc_errors import BadArgument, ConnectionLost, Unreachable


@pytest.fixture
async def link() -> AsyncIterator[EmulatedLink]:
    link = EmulatedLink("rtt=60", "127.0.0.1")
    yield link
    await link.close()


async def test_http_goes_through_the_link(edge: Edge, link: EmulatedLink) -> None:
    assert link.to_json() is None
    way = await link.route(edge.url)
    assert way == await link.route(edge.url)  # the same relay
    assert way.startswith("ws://127.0.0.1:")
    assert way.endswith("/3gpp-swap/v1")
    assert way.split("/")[2] != edge.url.split("/")[2]
    straight, around = Inquiry(edge.url), Inquiry(way)
    await straight.run()
    await around.run()
    assert straight.rtt is not None
    assert around.rtt is not None
    assert around.rtt >= 0.06
    told = link.to_json()
    assert told is not None
    assert told["up"]["delivered"] > 3


async def test_a_certificate_that_is_checked_by_name_is_left_alone(
    link: EmulatedLink, caplog: pytest.LogCaptureFixture
) -> None:
    assert await link.route("wss://edge.example:8443") == "wss://edge.example:8443"
    assert "checked by name" in caplog.text
    pinned = EmulatedLink("rtt=1", "127.0.0.1", is_pinned=True)
    try:
        caplog.set_level(logging.WARNING)
        assert (await pinned.route("https://localhost/behind/a/proxy")).startswith("wss://127.0.0.1:")
    finally:
        await pinned.close()
    with pytest.raises(BadArgument):
        await link.route("ftp://edge.example")


async def test_nobody_behind_the_link(link: EmulatedLink) -> None:
    with pytest.raises(Unreachable):
        await Inquiry(await link.route("127.0.0.1:1")).run()


@pytest.mark.usefixtures("patient_edges")
async def test_a_session_over_tls_goes_through_the_link(make_feed: Any, pictures: Any) -> None:
    async with Edge(EdgeSettings("127.0.0.1:0", self_signed=True, workers=1)) as edge:
        settings = UeSettings(edge.url, fingerprint=edge.fingerprint, link="rtt=10", timeout=20, budget=10)
        async with UeSession(settings) as session:
            assert session.url == edge.url
            before = session.link
            feed = make_feed()
            async with session.run(feed) as run:
                feed.give(pictures[0])
                assert (await anext(run)).answered
            assert before is not None
            assert before["up"]["delivered"] > 20  # TLS, SWAP, ICE, DTLS
            await edge.close()
            with pytest.raises(ConnectionLost):
                await session.run(make_feed()).wait()
