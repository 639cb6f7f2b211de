"""Two endpoints on loopback, connected for real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from rtc.peer import Peer

OPEN_SECONDS = 20.0


@pytest.fixture
def connect() -> Callable[[Peer, Peer], Awaitable[None]]:
    """Negotiates between a UE and an edge and waits until both are open."""

    async def connect_both(ue: Peer, edge: Peer) -> None:
        await ue.accept_answer(await edge.create_answer(await ue.create_offer()))
        await asyncio.gather(ue.opened(OPEN_SECONDS), edge.opened(OPEN_SECONDS))

    return connect_both


@pytest.fixture
async def pair(connect: Callable[[Peer, Peer], Awaitable[None]]) -> AsyncIterator[tuple[Peer, Peer]]:
    """A UE and an edge, connected."""
    async with Peer(bind="127.0.0.1") as ue, Peer(bind="127.0.0.1") as edge:
        await connect(ue, edge)
        yield ue, edge


def sockets() -> set[str]:
    """The sockets that this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:  # the one with which the folder was read
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture
async def nothing_is_left() -> AsyncIterator[None]:
    """After each test: every peer was closed, so no task may still run and no socket may be open, at once."""
    tasks, open_sockets = asyncio.all_tasks(), sockets()
    yield
    assert asyncio.all_tasks() - {asyncio.current_task()} <= tasks
    assert sockets() <= open_sockets
