"""The messages of SWAP version 1 (TS 26.113 clause 13.2.4.4) as values, which do not know how they are written."""

from __future__ import annotations

from dataclasses import dataclass

from signaling.problems import Problem

__all__ = [
    "Accept",
    "Application",
    "Body",
    "Close",
    "Connect",
    "Criterion",
    "Message",
    "Register",
    "Reject",
    "Response",
    "Update",
]


@dataclass(frozen=True, slots=True)
class Criterion:
    """What an endpoint has to match; ``value`` is any JSON value."""

    type: str
    value: object


@dataclass(frozen=True, slots=True)
class Register:
    """Makes the sender known to a SWAP server; point-to-point it changes nothing."""

    criteria: tuple[Criterion, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """Answers the message ``request`` (0: one whose number could not be read); ``problem`` is None for an ack."""

    request: int
    target: str | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Connect:
    """An SDP offer."""

    offer: str
    criteria: tuple[Criterion, ...] = ()


@dataclass(frozen=True, slots=True)
class Accept:
    """An SDP answer; without one, the answer to a close."""

    target: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """A new description of a running session."""

    target: str
    sdp: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuses the connect, update or application message ``request`` (0 where the dialect does not say which)."""

    target: str
    request: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class Close:
    """Ends the session."""

    target: str


@dataclass(frozen=True, slots=True)
class Application:
    """Something between the two applications; ``type`` is a URN, ``value`` any JSON value."""

    target: str
    type: str
    value: object


Body = Register | Response | Connect | Accept | Update | Reject | Close | Application


@dataclass(frozen=True, slots=True)
class Message:
    """A body with the fields that all messages have (clause 13.2.4.4.1)."""

    source: str
    message_id: int
    body: Body
