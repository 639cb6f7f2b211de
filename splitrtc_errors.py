"""The project's one exception tree, grouped by who can act.

::

    SplitRtcError
    ├── UserError                    the caller can fix it
    │   ├── BadArgument              a flag, a URL, a value (also a ValueError)
    │   ├── UnknownModel             no such model, partition or profile in the zoo
    │   ├── SourceError              a camera or a file cannot be opened, or has gone
    │   ├── SinkError                an output cannot be opened or written
    │   └── MissingDependency        an optional package or runtime is not installed
    ├── PeerError                    the other side can fix it
    │   ├── ProtocolError            it broke the protocol
    │   └── Rejected                 it refused, with an RFC 7807 problem
    │       ├── Unauthorized         wrong or missing token
    │       ├── EdgeFull             no slot free (draining, or too often); may carry a time to retry
    │       └── NoCommonOperatingPoint
    ├── NetworkError                 the network can fix it, or time
    │   ├── Unreachable              nobody answers at that address
    │   ├── NegotiationTimeout       somebody answered, but not in time
    │   └── ConnectionLost           the session died under way
    ├── ModelError                   the model's owner can fix it
    │   ├── ModelFileError           file missing, damaged, or with the wrong digest
    │   ├── CutError                 the model cannot be cut there
    │   ├── TensorError              wrong shape, element type or value
    │   ├── CodecError               coded data that cannot be decoded, or a value that cannot be coded
    │   └── ProviderError            the execution provider asked for is not in use
    └── ProcessFailed                a process that this one started failed, and has said why

It stands under every layer, beside the facade, because `rtc` and `models` must not know each other and still
share one tree. Every message says what was expected, what came and, where it helps, what to do. ``exit_code``
is what the command line returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "BadArgument",
    "CodecError",
    "ConnectionLost",
    "CutError",
    "EdgeFull",
    "MissingDependency",
    "ModelError",
    "ModelFileError",
    "NegotiationTimeout",
    "NetworkError",
    "NoCommonOperatingPoint",
    "PeerError",
    "ProcessFailed",
    "ProtocolError",
    "ProviderError",
    "Rejected",
    "SinkError",
    "SourceError",
    "SplitRtcError",
    "TensorError",
    "Unauthorized",
    "UnknownModel",
    "Unreachable",
    "UserError",
]


MAX_RETRY_AFTER = 86_400
"""Seconds: who says more than a day means "not now" at best."""


class SplitRtcError(Exception):
    """Base of everything that splitrtc raises on purpose."""

    exit_code: int = 1


class UserError(SplitRtcError):
    """The caller can fix it."""

    exit_code = 2


class BadArgument(UserError, ValueError):
    """A flag, a URL or a value is not what was expected."""


class UnknownModel(UserError):
    """The zoo has no such model, partition or profile."""

    exit_code = 3


class SourceError(UserError):
    """A camera, file or stream cannot be opened, or has gone."""

    exit_code = 4


class SinkError(UserError):
    """An output cannot be opened or written."""

    exit_code = 5


class MissingDependency(UserError):
    """An optional package or a runtime is not installed."""

    exit_code = 6


class PeerError(SplitRtcError):
    """The other side can fix it."""

    exit_code = 10


class ProtocolError(PeerError):
    """The other side broke the protocol."""

    exit_code = 11


class Rejected(PeerError):
    """The other side refused.

    ``problem`` is its RFC 7807 problem document; ``retry_after`` the seconds after which it may be tried again,
    where it said so.
    """

    exit_code = 12

    def __init__(self, message: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.problem: dict[str, Any] = dict(problem or {})

    @property
    def retry_after(self) -> float | None:
        """Seconds until it makes sense to try again; None when the peer did not say, or nothing sensible."""
        value = self.problem.get("retry_after")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_RETRY_AFTER:
            return float(value)
        return None


class Unauthorized(Rejected):
    """Wrong or missing token."""

    exit_code = 13


class EdgeFull(Rejected):
    """The edge has no free slot, is draining, or this address came too often."""

    exit_code = 14


class NoCommonOperatingPoint(Rejected):
    """None of the offered splits is acceptable; ``problem["acceptable"]`` lists what would be."""

    exit_code = 15


class NetworkError(SplitRtcError):
    """The network can fix it, or time."""

    exit_code = 20


class Unreachable(NetworkError):
    """Nobody answers at that address."""

    exit_code = 21


class NegotiationTimeout(NetworkError, TimeoutError):
    """Somebody answered, but the session did not come up in time."""

    exit_code = 22


class ConnectionLost(NetworkError):
    """The session died under way."""

    exit_code = 23


class ModelError(SplitRtcError):
    """The model's owner can fix it."""

    exit_code = 30


class ModelFileError(ModelError):
    """A model file is missing, damaged, or has the wrong digest."""

    exit_code = 31


class CutError(ModelError):
    """The model cannot be cut there."""

    exit_code = 32


class TensorError(ModelError):
    """A tensor has the wrong shape, element type or values."""

    exit_code = 33


class CodecError(ModelError):
    """Coded data cannot be decoded, or a value cannot be coded."""

    exit_code = 34


class ProviderError(ModelError):
    """The execution provider that was asked for is not in use."""

    exit_code = 35


class ProcessFailed(SplitRtcError):
    """A process that this one started has failed, and has said why.

    ``exit_code`` is its own where it has one; ``told`` says whether it has, and so has written its own error line.
    """

    exit_code = 40

    def __init__(self, message: str, returncode: int | None = None) -> None:
        super().__init__(message)
        self.told = returncode is not None and returncode > 0  # not ended by a signal, and not for no reason
        if returncode is not None and self.told:
            self.exit_code = returncode
