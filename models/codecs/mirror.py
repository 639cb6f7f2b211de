"""What a sender knows of its receiver's pictures, from acknowledgements that come late, out of order, or never.

A frame is predicted from the last one sent, before anybody can know what became of that. So the sender keeps what it
sent and replays it as the receiver must have seen it: frames that were answered with the slices that arrived, frames
in flight as if they had arrived. What it predicts from is then what the receiver really has, one round trip after
any loss. Nothing is said of what a state is or how one follows from another; that is `Content`'s.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

__all__ = ["KEPT_STATES", "Mirror", "Replayable"]

KEPT_STATES = 16
"""Frames whose states a receiver keeps: those that it took in last (docs/protocol.md, section 4.6)."""
WINDOW = 64
"""Frames that the sender remembers: two seconds at 30 frames per second."""
REACH = 12
"""How far back a frame refers at most: less than what is kept, as the receiver takes in more until it comes."""
REORDERED = 3
"""A frame without an answer is given up when one that was sent so many later is answered."""


class Replayable(Protocol):
    """A frame as it was sent."""

    @property
    def slices(self) -> int:
        """How many slices it has."""

    def onto(self, base: Any, latest: Any, received: Sequence[bool] | None = None) -> Any:
        """The receiver's state after it, see `models.codecs.klt_state.Content.onto`."""


class _Inputs(NamedTuple):
    """What a state follows from, the frame apart."""

    received: tuple[bool, ...] | None
    base: Any
    latest: Any

    def same(self, other: _Inputs | None) -> bool:
        """Whether the same state follows. States are compared by identity: they are never written to."""
        if other is None or self.base is not other.base or self.latest is not other.latest:
            return False
        return (_complete(self.received) and _complete(other.received)) or self.received == other.received


def _complete(received: tuple[bool, ...] | None) -> bool:
    return received is None or all(received)


@dataclass(slots=True)
class _Sent:
    """One frame; what follows from what is known by now is worked out by `Mirror._replay`."""

    content: Replayable
    reference: int | None
    received: tuple[bool, ...] | None = None
    """What is known to have arrived; None as long as there is no answer."""
    taken: bool | None = True
    """Whether the receiver has taken it in, as far as known or assumed; None when nobody can tell."""
    state: Any = None
    """After it; None when it cannot be told."""
    sure: bool = False
    """Whether all that the state follows from is known, not assumed."""
    inputs: _Inputs | None = None
    """What was replayed last,"""
    replayed: Any = None
    """and the state that came of it."""


class Mirror:
    """The receiver as the sender knows it. Frame ids only grow."""

    def __init__(self) -> None:
        self._sent: OrderedDict[int, _Sent] = OrderedDict()
        self._forgotten = 0
        """The newest frame that is not remembered any more."""
        self._answered = 0
        """The newest frame that is known to have been taken in."""

    def sent(self, frame_id: int, content: Replayable, reference: int | None) -> None:
        """Remember a frame that is on its way."""
        self._sent[frame_id] = _Sent(content, reference)
        if len(self._sent) > WINDOW:
            self._forgotten, _ = self._sent.popitem(last=False)

    def acknowledged(self, frame_id: int, received: Sequence[bool]) -> bool:
        """Take note of which slices the receiver took in, none for a frame that it passed over or that never came.

        Returns whether that was news of a frame that is remembered.
        """
        frame = self._sent.get(frame_id)
        if frame is None or frame.received is not None or len(received) != frame.content.slices:
            return False
        frame.received = tuple(received)
        if any(received):
            self._answered = max(self._answered, frame_id)
        return True

    def best(self, next_id: int, certain: bool = False) -> tuple[int, Any] | None:
        """Return what the next frame is best predicted from, a frame's id and the state after it; None for nothing.

        Args:
            next_id: id of the next frame.
            certain: only frames that are known to have arrived complete.
        """
        self._replay()
        for frame_id, frame in reversed(self._sent.items()):
            if next_id - frame_id > REACH:
                return None
            complete = frame.sure and frame.received is not None and all(frame.received)
            if frame.taken and frame.state is not None and (complete or not certain):
                return frame_id, frame.state
        return None

    def _replay(self) -> None:
        for frame_id, frame in self._sent.items():
            if not frame.sure:
                self._work_out(frame_id, frame)

    def _work_out(self, frame_id: int, frame: _Sent) -> None:
        """What the receiver has after a frame, all before it being worked out."""
        if frame.received is not None:
            frame.taken = any(frame.received)
        else:
            frame.taken = True if frame_id > self._answered - REORDERED else None
        frame.state, frame.sure = None, False
        if not frame.taken:
            frame.sure = frame.taken is False
            return
        whole = _complete(frame.received)
        sources = []
        if frame.reference is not None:
            sources.append(self._newest(frame.reference, frame_id))
        if not whole:
            sources.append(self._newest(frame_id - 1, frame_id))
        if not all(known for known, _, _ in sources):
            return
        states = [state for _, _, state in sources]
        base = states[0] if frame.reference is not None else None
        latest = states[-1] if not whole else None
        inputs = _Inputs(frame.received, base, latest)
        if not inputs.same(frame.inputs):
            frame.inputs, frame.replayed = inputs, frame.content.onto(base, latest, frame.received)
        frame.state = frame.replayed
        frame.sure = frame.received is not None and all(sure for _, sure, _ in sources)

    def _newest(self, limit: int, frame_id: int) -> tuple[bool, bool, Any]:
        """The newest frame up to ``limit`` that the receiver has when ``frame_id`` comes.

        Returns whether that can be told, whether that is certain, and the state after it, None for a blank one.
        """
        certain = True
        for earlier, frame in reversed(self._sent.items()):
            if earlier > limit or earlier >= frame_id:
                continue
            if frame.taken is None:
                return False, False, None
            certain = certain and frame.received is not None
            if frame.taken:
                kept = frame_id - earlier <= KEPT_STATES
                return kept and frame.state is not None, certain and frame.sure, frame.state
        return not self._forgotten, certain, None
