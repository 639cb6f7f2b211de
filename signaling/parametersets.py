r"""The life of AI parameter sets on both ends of the control channel (docs/protocol.md section 2).

::

    sender      announce -> ANNOUNCED --aips-ack--> USABLE --release--> RELEASING --aips-released--> (id free)
                                |   \-------------------release--------^
                                \--aips-reject--> (id free)
    receiver    --aips--> open or reject;  --aips-release--> forgotten

Both ends take messages and return messages; neither waits. What the peer sends out of turn is counted and dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Generic, TypeVar

from signaling.aisplit import Direction
from signaling.control import (
    MAX_SET_ID,
    ControlMessage,
    ParameterSet,
    ParameterSetAck,
    ParameterSetReject,
    ParameterSetRelease,
    ParameterSetReleased,
    PeerFailure,
)
from splitrtc_errors import BadArgument, SplitRtcError

__all__ = ["MAX_OPEN_SETS", "ReceivedSets", "SentSets", "SetState"]

MAX_OPEN_SETS = 8
"""Sets of one direction that are not yet free again."""

T = TypeVar("T")


class SetState(Enum):
    """How far a set is at its sender."""

    ANNOUNCED = auto()
    USABLE = auto()
    RELEASING = auto()


@dataclass(slots=True)
class _Sent:
    set: ParameterSet
    state: SetState = SetState.ANNOUNCED


class SentSets:
    """The sender's side: hands out ids and knows which sets may be used."""

    def __init__(self) -> None:
        self.ignored = 0
        """messages that fit no set"""
        self._sets: dict[int, _Sent] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._sets)

    def announce(self, parameters: ParameterSet) -> ParameterSet:
        """Give ``parameters`` an id (the one it has is ignored) and return the set as it is to be sent.

        BadArgument when MAX_OPEN_SETS are open: release one first.
        """
        if len(self._sets) == MAX_OPEN_SETS:
            raise BadArgument(f"{MAX_OPEN_SETS} parameter sets are open: release one first")
        # The id that was free for longest comes next, so that a late unit of an old set finds no new one.
        self._last_id = next(
            id_ for id_ in ((self._last_id + i) % MAX_SET_ID + 1 for i in range(MAX_SET_ID)) if id_ not in self._sets
        )
        announced = replace(parameters, id=self._last_id)
        self._sets[self._last_id] = _Sent(announced)
        return announced

    def release(self, id_: int) -> ParameterSetRelease:
        """Stop using a set and return the message that says so; BadArgument when it is not open."""
        sent = self._sets.get(id_)
        if sent is None or sent.state is SetState.RELEASING:
            raise BadArgument(f"parameter set {id_} is not open")
        sent.state = SetState.RELEASING
        return ParameterSetRelease(id_)

    def receive(self, message: ParameterSetAck | ParameterSetReject | ParameterSetReleased) -> ParameterSet | None:
        """Take the peer's word on a set; returns the set if its state changed by it, else None."""
        sent = self._sets.get(message.id)
        match message, sent.state if sent else None:
            case ParameterSetAck(id_), SetState.ANNOUNCED:
                self._sets[id_].state = SetState.USABLE
                return self._sets[id_].set
            case ParameterSetReject(id_), SetState.ANNOUNCED | SetState.RELEASING:
                return self._sets.pop(id_).set
            case ParameterSetReleased(id_), SetState.RELEASING:
                return self._sets.pop(id_).set
            case ParameterSetAck(), SetState.RELEASING:
                return None  # it crossed our release
        self.ignored += 1
        return None

    def usable(self, id_: int) -> bool:
        """Whether units may refer to the set."""
        sent = self._sets.get(id_)
        return sent is not None and sent.state is SetState.USABLE


class ReceivedSets(Generic[T]):
    """The receiver's side: what is open, and what the owner keeps for each open set.

    ``open_set`` makes that from an announced set, such as its decoder; a SplitRtcError from it refuses the set, with
    its message as the reason.
    """

    def __init__(self, open_set: Callable[[ParameterSet], T], direction: Direction = "up") -> None:
        self.ignored = 0
        """messages that fit no set"""
        self._open_set = open_set
        self._direction = direction
        self._open: dict[int, T] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._open

    def get(self, id_: int) -> T | None:
        """What ``open_set`` made for the open set ``id_``."""
        return self._open.get(id_)

    def receive(self, message: ParameterSet | ParameterSetRelease) -> ControlMessage | None:
        """Open or forget a set and return what is to be answered, None for nothing."""
        if isinstance(message, ParameterSetRelease):
            if message.id in self._open:
                del self._open[message.id]
                return ParameterSetReleased(message.id)
            self.ignored += 1  # refused before: its id is free already
            return None
        if message.id in self._open:
            # A reject would free the id of the set that is open.
            self.ignored += 1
            return PeerFailure("aips-in-use", f"parameter set {message.id} was announced again before its release")
        if message.direction != self._direction:
            return ParameterSetReject(message.id, f"expected a parameter set of direction {self._direction}")
        if len(self._open) == MAX_OPEN_SETS:
            return ParameterSetReject(message.id, f"{MAX_OPEN_SETS} parameter sets are open")
        try:
            self._open[message.id] = self._open_set(message)
        except SplitRtcError as error:
            return ParameterSetReject(message.id, str(error))
        return ParameterSetAck(message.id)
