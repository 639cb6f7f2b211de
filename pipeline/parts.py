"""What a device can offer, and its part of the work for what was agreed on, kept from one connection to the next.

What is on the device comes first; what is not, the edge delivers (`pipeline.delivery`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import TYPE_CHECKING

from models import PartitionStore, Zoo
from pipeline.delivery import Delivery, Show, silently
from pipeline.device import Device, DevicePart
from pipeline.offers import OperatingPoint, points, remote_points
from pipeline.remote import RemotePart
from rtc import unit_payload_limit
from splitrtc_errors import ConnectionLost, ModelFileError, SplitRtcError, UnknownModel, Unreachable

if TYPE_CHECKING:
    from models import ModelCard
    from pipeline.settings import UeSettings
    from signaling import SplitOffer

__all__ = ["DeviceParts"]

logger = logging.getLogger(__name__)


class DeviceParts:
    """Finds a device's operating points and makes its part for one of them; both take a while, in a thread."""

    def __init__(self, settings: UeSettings, executor: Executor, show: Show = silently) -> None:
        """``executor`` is one thread for what blocks; ``show`` shows how far the download of a head has come."""
        self._settings = settings
        self.executor = executor
        self._zoo = Zoo(settings.models, bundled=settings.bundled)
        self._store = PartitionStore()
        self._delivery = Delivery(settings, self._store, show) if settings.deliver else None
        self._is_delivered = False
        self.has_better = False
        """A better head is here than that of the points that were offered last."""
        self.on_better: Callable[[], None] = lambda: None
        """Called, in the event loop, when such a one has arrived."""
        self._offered: Sequence[OperatingPoint] = ()
        self._loading: Future[Device] | None = None

    async def offered(self, url: str) -> Sequence[OperatingPoint]:
        """The operating points that this device can run and its user wants, in order of preference.

        The edge at ``url`` delivers what the device has not.

        The same ones each time, unless a better head has arrived since, or loading failed.
        """
        failed = self._loading is not None and self._loading.done() and self._loading.exception() is not None
        if not self._offered or self.has_better or failed:  # what failed is tried again: a head may not have arrived
            self._offered = await asyncio.get_running_loop().run_in_executor(self.executor, self._find, url)
            self._loading, self.has_better = None, False
        return self._offered

    async def turn_to_edge(self, url: str) -> bool:
        """After an edge that took nothing of what was offered: offer what it delivers. False when that is no other."""
        if self._delivery is None or self._settings.mode == "remote":
            return False
        try:
            found = await asyncio.get_running_loop().run_in_executor(self.executor, self._delivered, url)
        except SplitRtcError as error:
            logger.debug("the edge delivers nothing either: %s", error)
            return False
        is_new = [point.offer(1.0) for point in found] != [point.offer(1.0) for point in self._offered]
        self._offered, self._loading = found, None
        return is_new

    async def whole(self, card: ModelCard) -> ModelCard | None:
        """A card with its model's file, fetched from the edge that delivered the card; None when it keeps that.

        Slow, so that the stream does not suffer.
        """
        if self._delivery is None or not self._is_delivered:
            return None
        return await asyncio.wrap_future(self._delivery.begin_whole(card))

    async def close(self) -> None:
        """End what is still being fetched."""
        if self._delivery is not None:
            self._delivery.stop()
            await asyncio.get_running_loop().run_in_executor(self.executor, self._delivery.close)

    def preload(self, point: OperatingPoint) -> None:
        """Begin to load the part for the likely point. When that fails, nobody but `get` asks how loading went."""
        if self._loading is None:
            self._loading = self.executor.submit(self._load, point)

    async def get(self, active: SplitOffer) -> Device:
        """The part for the point that the edge chose among those offered, for a new session.

        What was loaded for the last one is used again when it is the same.
        """
        assert self._loading is not None
        device = await asyncio.shield(asyncio.wrap_future(self._loading))
        if not device.point.matches(active):
            point = next((point for point in self._offered if point.matches(active)), None)
            if point is None:
                raise ConnectionLost("another connection has begun meanwhile, and offers something else")
            self._loading = self.executor.submit(self._load, point)
            device = await asyncio.shield(asyncio.wrap_future(self._loading))
        if self._is_delivered and self._delivery is not None:
            tell = partial(asyncio.get_running_loop().call_soon_threadsafe, self._better_arrived)
            self._delivery.begin_to_improve(device.point, tell)
        return device.for_new_session()

    def _better_arrived(self) -> None:
        self.has_better = True
        self.on_better()

    def _find(self, url: str) -> Sequence[OperatingPoint]:
        settings = self._settings
        if settings.mode == "remote":
            return remote_points(self._zoo, model=settings.model)
        if self._is_delivered:
            return self._delivered(url)
        try:
            found = points(self._zoo, model=settings.model, partition=settings.partition, profile=settings.profile)
        except (UnknownModel, ModelFileError) as error:  # not known here, or its file is not here
            if self._delivery is None:
                raise
            try:
                return self._delivered(url)
            except Unreachable as absent:
                raise Unreachable(f"{error}; nor can an edge be asked for it: {absent}") from absent
        return found

    def _delivered(self, url: str) -> Sequence[OperatingPoint]:
        assert self._delivery is not None
        found = self._delivery.points(url)
        self._is_delivered = True
        return found

    def _load(self, point: OperatingPoint) -> Device:
        if point.is_video:
            return RemotePart(point)
        delivery = self._delivery if self._is_delivered else None
        return DevicePart(
            point,
            delivery or self._store,
            provider=self._settings.provider,
            threads=self._settings.threads,
            max_payload=unit_payload_limit(reference=True),  # in case that the profile predicts
        )
