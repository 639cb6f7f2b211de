"""Looks at several edges at once, for no longer than it is worth, and says to which one to go first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from pipeline.edges import Seen, rank
from signaling.inquiry import Inquiry

if TYPE_CHECKING:
    from pipeline.settings import UeSettings
    from signaling import Manifest

__all__ = ["order_of_edges"]

logger = logging.getLogger(__name__)

LONGEST_LOOK = 0.5
"""Seconds until what has not answered counts as too far away."""
PATIENCE = 2.0
"""How many times as long as the first edge the others may take, and..."""
LEAST_LOOK = 0.05
"""...the seconds that they may take in any case."""


async def order_of_edges(
    settings: UeSettings, waits: Mapping[str, float], lost: str | None, route: Callable[[str], Awaitable[str]]
) -> list[str]:
    """The URLs of all edges, the best first.

    ``waits`` are the seconds for which edges asked to be left alone, ``lost`` is the one that a connection was just
    lost to, ``route`` gives the URL under which one is reached. One edge alone is not looked at.
    """
    urls = list(dict.fromkeys(settings.urls))
    if len(urls) == 1:
        return urls
    found = await _look_at({url: await route(url) for url in urls}, settings)
    ranked = rank([_seen(url, found[url], settings, waits.get(url, 0.0), lost == url) for url in urls])
    for place, one in enumerate(ranked, start=1):
        logger.info("edge %d: %s: %s", place, one.url, one.reason)
    return [one.url for one in ranked]


async def _look_at(urls: Mapping[str, str], settings: UeSettings) -> dict[str, Inquiry]:
    found = {url: Inquiry(url, token=settings.token, ca=settings.ca, fingerprint=settings.fingerprint) for url in urls}
    loop = asyncio.get_running_loop()
    started = loop.time()
    until = started + LONGEST_LOOK
    tasks = {asyncio.create_task(inquiry.run(), name="look at an edge") for inquiry in found.values()}
    pending = tasks
    try:
        while pending and loop.time() < until:
            done, pending = await asyncio.wait(
                pending, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED
            )
            if any(task.exception() is None for task in done):
                until = min(until, max(started + PATIENCE * (loop.time() - started), started + LEAST_LOOK))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found


def _seen(url: str, inquiry: Inquiry, settings: UeSettings, wait: float, lost: bool) -> Seen:
    manifest = inquiry.manifest
    if manifest is None:
        return Seen(url, inquiry.rtt, wait=wait, lost=lost)
    load = manifest.load.sessions / max(manifest.load.max_sessions, 1)
    return Seen(url, inquiry.rtt, manifest.state, load, _tail_of(manifest, settings), wait, lost)


def _tail_of(manifest: Manifest, settings: UeSettings) -> float | None:
    """Seconds for the tail of the first cut that is as the user wants it."""
    for model in manifest.models:
        for partition in model.partitions:
            wanted = settings.model in (None, model.information.name, model.information.identifier)
            if wanted and settings.partition in (None, partition.name, partition.id):
                return None if partition.tail_ms is None else partition.tail_ms / 1e3
    return None
