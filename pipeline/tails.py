"""The edge's models: tails loaded once, shared by sessions, run in a bounded number of threads."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from models import Detector, load_submodel, partition_id
from models.fixed import load_whole
from models.task import DETECTION
from pipeline.workers import TIME_LIMIT, Workers
from splitrtc_errors import ModelError

if TYPE_CHECKING:
    from models import ModelCard, PartitionStore, Submodel, TensorSpec

__all__ = ["Tail", "TailPool"]

logger = logging.getLogger(__name__)

LOADERS = 2
"""Tails that load at the same time: one that hangs holds up no other."""
LOAD_TIME_LIMIT = 60.0
"""Seconds that loading may take: the first time, the model is cut in two and both parts are checked."""


@dataclass(frozen=True, slots=True)
class Tail:
    """A warm tail: its model card, its cut, its runtime session, and what reads its outputs, if they are detections.

    ``id`` is the partition's, ``crossing`` what the tail takes: where that is the model's input, it is the whole model.
    """

    card: ModelCard
    id: str
    crossing: tuple[TensorSpec, ...]
    submodel: Submodel
    detector: Detector | None


@dataclass(slots=True)
class _Entry:
    loading: asyncio.Task[Tail]
    users: int = 1
    """One is the loading itself: whoever comes while it goes on shares it."""


class TailPool:
    """Loads, shares and runs tails.

    Sessions on the same partition share one runtime session; the last one to leave frees it. All tails run in the
    same ``workers``: a session hands over one frame at a time, so what waits there is never more than the number of
    sessions, and sessions take turns.
    """

    def __init__(
        self,
        store: PartitionStore,
        provider: str = "auto",
        threads: int = 1,
        workers: int | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self.workers = Workers(workers or os.cpu_count() or 1, time_limit)
        # Apart from the others: a session that comes must not hold up those that run.
        self._loaders = Workers(LOADERS, LOAD_TIME_LIMIT, name="load tail", task="loading a model")
        self._store = store
        self._provider = provider
        self._threads = threads
        self._entries: dict[str, _Entry] = {}
        self._in_threads: set[str] = set()
        """What threads are loading; without an entry: what one of them hangs in."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def hanging(self) -> int:
        """Threads that hang in a frame or in loading a model."""
        return self.workers.hanging + self._loaders.hanging

    async def acquire(self, card: ModelCard, tensors: tuple[str, ...]) -> Tail:
        """A warm tail for this cut, loaded if it is not; the caller gives it back with `release`.

        Raises ModelError when the file is damaged or cannot be cut there, or when loading it hangs, MissingDependency
        without a runtime.
        """
        key = partition_id(card.digest, tensors)
        entry = self._entries.get(key)
        if entry is None:
            if key in self._in_threads:  # once is enough: each try would cost a thread
                raise ModelError(f"loading {card.name} hangs since an earlier try")
            entry = self._entries[key] = _Entry(asyncio.create_task(self._load(key, card, tensors)))
            entry.loading.add_done_callback(lambda _: self._leave(key, entry))
        entry.users += 1
        try:
            # Shielded: a peer that leaves while the model loads must not take it from another that waits for it too.
            return await asyncio.shield(entry.loading)
        except BaseException:
            self._leave(key, entry)
            raise

    def release(self, tail: Tail) -> None:
        """Give a tail back; the last user frees it."""
        entry = self._entries.get(tail.id)
        if entry is not None:
            self._leave(tail.id, entry)

    def _leave(self, key: str, entry: _Entry) -> None:
        entry.users -= 1
        if entry.users == 0:
            if not entry.loading.cancelled():
                entry.loading.exception()  # there may be nobody left to be told
            self._entries.pop(key, None)

    async def _load(self, key: str, card: ModelCard, tensors: tuple[str, ...]) -> Tail:
        tail = await self._loaders.run(partial(self._load_now, key, card, tensors))
        logger.info("tail of %s at %s is warm on %s", card.name, ", ".join(tensors), tail.submodel.provider)
        return tail

    def _load_now(self, key: str, card: ModelCard, tensors: tuple[str, ...]) -> Tail:
        """In a thread."""
        self._in_threads.add(key)
        try:
            if tensors == (card.image.name,):
                crossing: tuple[TensorSpec, ...] = (card.image,)
                submodel = load_whole(card, self._provider, self._threads)
            else:
                partition = self._store.get(card, tensors)
                crossing = partition.crossing
                submodel = load_submodel(partition.tail_path, self._provider, self._threads)
            submodel.warm_up()
            return Tail(card, key, crossing, submodel, Detector(card) if card.task == DETECTION else None)
        finally:
            self._in_threads.discard(key)

    async def close(self) -> None:
        """Wait for the models that still run, though not for one that hangs, then free everything."""
        loading = [entry.loading for entry in self._entries.values()]
        self._entries.clear()
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        await self._loaders.close()
        await self.workers.close()
