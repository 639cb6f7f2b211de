"""A browser as the other side: Chromium with a plain page, first of our peer connection, then of a whole edge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rtc import OutgoingFrame, Peer, RelayThread, parse_link, parse_result, units_of_frame

pytestmark = pytest.mark.e2e

WAIT = 30.0
FPS = 30
UNITS = 8
PAYLOAD = 1_100
ATTRIBUTES = [("ai-split", "1 a line that no browser knows")]

Pass = Callable[[str, Any], Awaitable[str]]


async def unchanged(sdp: str, _: object) -> str:
    return sdp


async def browser_answers(peer: Peer, page: Any, carry: Pass = unchanged) -> None:
    answer = await page.call("answer", await carry(await peer.create_offer(ATTRIBUTES), "ue"))
    await peer.accept_answer(await carry(answer, "edge"))


async def browser_offers(peer: Peer, page: Any, carry: Pass = unchanged) -> None:
    answer = await peer.create_answer(await carry(await page.call("offer"), "ue"), ATTRIBUTES)
    await page.call("accept", await carry(answer, "edge"))


class Stream:
    """Frames to the browser, and its answers."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._sent: dict[int, float] = {}
        self.complete: dict[int, float] = {}
        """By frame id, after how many seconds its answer came; of those that came whole."""
        self.incomplete = 0
        peer.on_result = self._on_result

    def _on_result(self, data: bytes) -> None:
        result = parse_result(data)
        if result.heartbeat:
            return
        if result.received_count == UNITS:
            self.complete[result.frame_id] = time.monotonic() - self._sent[result.frame_id]
        else:
            self.incomplete += 1

    async def play(self, frames: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for frame_id in range(1, frames + 1):
            now = time.monotonic()
            units = units_of_frame(1, frame_id, int(now * 1e6), [bytes(PAYLOAD)] * UNITS)
            self._sent[frame_id] = now
            self._peer.sender.offer(OutgoingFrame(frame_id, units, now + 0.5))
            await asyncio.sleep(began + frame_id / FPS - loop.time())
        await asyncio.sleep(0.2)  # what is under way

    @property
    def delays_ms(self) -> list[float]:
        return sorted(1000 * delay for delay in self.complete.values())


@asynccontextmanager
async def connected(page: Any, negotiate: Any, carry: Pass = unchanged) -> AsyncIterator[Peer]:
    async with Peer(bind="127.0.0.1") as peer:
        await negotiate(peer, page, carry)
        await peer.opened(WAIT)
        yield peer


@pytest.mark.parametrize("negotiate", [browser_answers, browser_offers])
async def test_a_browser_gets_our_frames_in_either_role(page: Any, negotiate: Any) -> None:
    async with connected(page, negotiate) as peer:
        stream = Stream(peer)
        await stream.play(FPS)
        counts = await page.call("counts")
        assert peer.close_reason is None
    # A busy machine may delay frames until a newer one replaces them in the sender, but what was sent arrives.
    assert counts["units"] == UNITS * counts["complete"]
    assert counts["frames"] == counts["complete"] == len(stream.complete) >= FPS / 2
    assert counts["bytes"] == counts["units"] * (PAYLOAD + 20)
