"""How much one UE may send to the edge: multiples of what was negotiated. Sans-I/O: the time is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto

from models import TensorSpec, bits_per_element, parse_profile
from rtc import DEFAULT_UNIT, MAX_SLICES, unit_payload_limit
from rtc.limits import TokenBucket
from rtc.reassembly import MAX_FRAME_BYTES

__all__ = ["Intake", "Verdict", "frame_units"]

GENEROSITY = 8.0
"""How many times what was negotiated a UE may send: its camera may be faster than it said, its slices smaller."""
FRAME_GENEROSITY = 8.0
"""How many times its uncompressed size is kept of a frame: small slices hold their messages alive."""
MIN_FPS = 30.0
"""Frames per second that are granted to a UE that announces fewer."""
MIN_UNITS = 16
"""Units that are granted for a frame which would fill fewer: slices may be smaller than a unit can hold."""
BURST = 2.0
"""Seconds of its rate that a UE may send at once: what a network held back comes all at once."""
CONTROL_RATE = 200.0
"""Control messages per second; an honest UE sends a few in all."""
PATIENCE = 2.0
"""Seconds of its rate that a UE may send in vain, all of it beyond the limit, before its session is ended."""
FORGIVENESS = 0.1
"""Share of its rate that a UE may send in vain for ever."""


class Verdict(Enum):
    """What is to be done with a message."""

    ADMITTED = auto()
    DROPPED = auto()
    """Beyond the limit."""
    EXCEEDED = auto()
    """Beyond the limit, and not for the first time: the session is to be ended."""


class _Gate:
    """Two buckets, one behind the other: what the first refuses is dropped, and what the second refuses is too much."""

    def __init__(self, rate: float, now: float) -> None:
        self._granted = TokenBucket(rate, rate * BURST, now)
        self._patience = TokenBucket(rate * FORGIVENESS, rate * PATIENCE, now)

    def take(self, now: float, tokens: float = 1.0) -> Verdict:
        if self._granted.take(now, tokens):
            return Verdict.ADMITTED
        return Verdict.DROPPED if self._patience.take(now, tokens) else Verdict.EXCEEDED


class Intake:
    """The limits of one session: units, their bytes, and control messages."""

    def __init__(self, fps: float, units: int, now: float) -> None:
        """``fps``: the frame rate agreed on; ``units``: those of a frame, see `frame_units`."""
        units = max(units, MIN_UNITS)
        rate = GENEROSITY * max(fps, MIN_FPS) * units
        self.frame_bytes = min(int(FRAME_GENEROSITY * units * DEFAULT_UNIT), MAX_FRAME_BYTES)
        """Bytes that may be kept of one frame."""
        self._units = _Gate(rate, now)
        self._bytes = _Gate(rate * DEFAULT_UNIT, now)
        self._control = _Gate(CONTROL_RATE, now)

    def unit(self, size: int, now: float) -> Verdict:
        """What to do with a message of so many bytes on the channel "intermediate"."""
        verdict = self._units.take(now)
        return self._bytes.take(now, size) if verdict is Verdict.ADMITTED else verdict

    def control(self, now: float) -> Verdict:
        """What to do with a control message."""
        return self._control.take(now)


def frame_units(tensors: Sequence[TensorSpec], profiles: Iterable[str]) -> int:
    """Units of the default size that a frame of ``tensors`` fills, in that of the profiles which needs most of them.

    Counted without compression, which is the encoder's luck.
    """
    payload = unit_payload_limit()
    bits = [bits_per_element(parse_profile(profile)) for profile in profiles]
    sizes = [sum(-(-_size(spec, b) // payload) for spec in tensors) for b in bits]
    return min(max(sizes, default=1), MAX_SLICES)


def _size(spec: TensorSpec, bits: int | None) -> int:
    return spec.nbytes if bits is None else -(-spec.elements * bits // 8)
