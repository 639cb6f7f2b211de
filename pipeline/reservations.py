"""What an edge has promised to UEs that have not connected yet (TR 26.927 clause 5.2.3.2, steps 5a, 6a, 7b, 8b).

One promise for each socket. It is kept until the UE connects, goes, or has not come for RESERVATION seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from pipeline.offers import OperatingPoint
    from pipeline.tails import Tail, TailPool
    from signaling import SignalingSession

__all__ = ["RESERVATION", "Reservations"]

RESERVATION = 10.0
"""Seconds."""

Place = TypeVar("Place")


@dataclass(frozen=True, slots=True)
class _Promise(Generic[Place]):
    place: Place
    tail: Tail
    expiry: asyncio.TimerHandle


class Reservations(Generic[Place]):
    """Places for sessions, each with a warm tail. ``give_back`` takes a place that is not used after all."""

    def __init__(self, pool: TailPool, give_back: Callable[[Place], None]) -> None:
        self._pool = pool
        self._give_back = give_back
        self._promises: dict[SignalingSession, _Promise[Place]] = {}

    def __len__(self) -> int:
        return len(self._promises)

    async def reserve(self, session: SignalingSession, place: Place, point: OperatingPoint) -> None:
        """Keep a place for who is at this socket, and warm the tail; what was kept for it before is given up.

        When the tail cannot be had, or this is cancelled, the place is given back.
        """
        self.cancel(session)
        try:
            tail = await self._pool.acquire(point.card, point.cut.tensors)
        except BaseException:
            self._give_back(place)
            raise
        expiry = asyncio.get_running_loop().call_later(RESERVATION, self.cancel, session)
        self._promises[session] = _Promise(place, tail, expiry)
        session.on_close = lambda _: self.cancel(session)

    def claim(self, session: SignalingSession) -> tuple[Place, Tail] | None:
        """The UE connects: its place, and the tail, which the caller releases. None when nothing is kept for it."""
        promise = self._promises.pop(session, None)
        if promise is None:
            return None
        promise.expiry.cancel()
        return promise.place, promise.tail

    def cancel(self, session: SignalingSession) -> None:
        """Give up what is kept for who is at this socket, if anything is."""
        if (claimed := self.claim(session)) is not None:
            place, tail = claimed
            self._give_back(place)
            self._pool.release(tail)

    def close(self) -> None:
        """Give up everything."""
        for session in list(self._promises):
            self.cancel(session)
