from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.settings import UeSettings
from pipeline.survey import _seen, order_of_edges
from signaling import SignalingServer
from signaling.inquiry import Inquiry
from signaling.manifest import Load, manifest_bytes
from tests.signaling.manifests import DIGEST, MANIFEST
from tests.signaling.test_server import Silent

NOBODY = "127.0.0.1:1"


@pytest.fixture
def silent() -> Iterator[str]:
    """Where somebody listens, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"


async def straight(url: str) -> str:
    return url


def edge_that_is(state: str, sessions: int = 0) -> SignalingServer:
    manifest = replace(MANIFEST, state=state, load=Load(sessions, 10))
    return SignalingServer("127.0.0.1:0", Silent(), manifest=lambda: manifest_bytes(manifest))


async def test_the_best_edge_comes_first(silent: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    servers = [edge_that_is("full", 10), edge_that_is("draining"), edge_that_is("ready")]
    for server in servers:
        await server.start()
    try:
        full, draining, ready = (f"ws://127.0.0.1:{server.port}" for server in servers)
        settings = UeSettings(silent, edges=(NOBODY, draining, full, ready, ready))
        # What is silent keeps nobody waiting; the order of the user holds among equals.
        async with asyncio.timeout(5):
            assert await order_of_edges(settings, {draining: 3.0}, None, straight) == [
                ready,
                full,
                draining,
                silent,
                NOBODY,
            ]
        assert "did not answer in time" in caplog.text
        found = await order_of_edges(replace(settings, edges=(ready,)), {}, ready, straight)
        assert found == [ready, silent]
    finally:
        await asyncio.gather(*(server.close() for server in servers))


async def test_one_edge_alone_is_not_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert await order_of_edges(UeSettings(NOBODY, edges=(NOBODY,)), {}, None, straight) == [NOBODY]
    assert not caplog.records


def test_what_a_manifest_says_of_an_edge() -> None:
    inquiry = Inquiry(NOBODY)
    assert _seen(NOBODY, inquiry, UeSettings(NOBODY), 1.0, True).state is None
    inquiry.rtt, inquiry.manifest = 0.01, MANIFEST
    tails = {cut.name: cut.tail_ms for cut in MANIFEST.models[0].partitions}
    for name, tail in tails.items():
        seen = _seen(NOBODY, inquiry, UeSettings(NOBODY, model=DIGEST, partition=name), 0.0, False)
        assert (seen.state, seen.load, seen.tail) == ("ready", 0.02, None if tail is None else tail / 1e3)
    assert _seen(NOBODY, inquiry, UeSettings(NOBODY, model="another"), 0.0, False).tail is None
