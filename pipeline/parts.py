"""What a device can offer, and its part of the work for what was agreed on, kept from one connection to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

from models import PartitionStore, Zoo
from pipeline.device import Device, DevicePart
from pipeline.offers import OperatingPoint, points, remote_points
from pipeline.remote import RemotePart
from rtc import unit_payload_limit
from signaling import MAX_OFFERS

if TYPE_CHECKING:
    from pipeline.settings import UeSettings
    from signaling import SplitOffer

__all__ = ["DeviceParts"]


class DeviceParts:
    """Finds a device's operating points and makes its part for one of them; both take a while, in a thread."""

    def __init__(self, settings: UeSettings, executor: Executor) -> None:
        """``executor`` is one thread for what blocks."""
        self._settings = settings
        self._executor = executor
        self._zoo = Zoo(settings.models)
        self._store = PartitionStore()
        self._offered: Sequence[OperatingPoint] = ()
        self._loading: Future[Device] | None = None

    async def offered(self) -> Sequence[OperatingPoint]:
        """The operating points that this device can run and its user wants, in order of preference."""
        if not self._offered:
            self._offered = await asyncio.get_running_loop().run_in_executor(self._executor, self._find)
        return self._offered

    def preload(self) -> None:
        """Begin to load the part for the preferred point. When that fails, nobody but `get` asks how loading went."""
        if self._loading is None:
            self._loading = self._executor.submit(self._load, self._offered[0])

    async def get(self, active: SplitOffer) -> Device:
        """The part for the point that the edge chose among those offered, for a new session.

        What was loaded for the last one is used again when it is the same.
        """
        assert self._loading is not None
        device = await asyncio.shield(asyncio.wrap_future(self._loading))
        if not device.point.matches(active):
            point = next(point for point in self._offered if point.matches(active))
            self._loading = self._executor.submit(self._load, point)
            device = await asyncio.shield(asyncio.wrap_future(self._loading))
        return device.for_new_session()

    def _find(self) -> Sequence[OperatingPoint]:
        settings = self._settings
        if settings.mode == "remote":
            found = remote_points(self._zoo, model=settings.model)
        else:
            found = points(self._zoo, model=settings.model, partition=settings.partition, profile=settings.profile)
        return found[:MAX_OFFERS]

    def _load(self, point: OperatingPoint) -> Device:
        if point.is_video:
            return RemotePart(point)
        return DevicePart(
            point,
            self._store,
            provider=self._settings.provider,
            threads=self._settings.threads,
            max_payload=unit_payload_limit(reference=True),  # in case that the profile predicts
        )
