"""One end of a SWAP WebSocket without the WebSocket: texts in, events and texts out (TS 26.113 clause 13.2.4).

Point-to-point: the server side answers one connect, the client side sends one. Whoever moves the texts also watches the
clock; nothing in here waits.
"""

from __future__ import annotations

import uuid
from collections.abc import Container
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from signaling.messages import (
    Accept,
    Application,
    Body,
    Close,
    Connect,
    Criterion,
    Message,
    Register,
    Reject,
    Response,
    Update,
)
from signaling.problems import MESSAGE_MALFORMATTED, MESSAGE_UNKNOWN, TARGET_UNKNOWN, Problem, make_problem
from signaling.swap import SECOND, STANDARD, Dialect, MalformedMessage, parse, serialise

__all__ = [
    "MAX_BAD_MESSAGES",
    "MAX_MESSAGES",
    "Accepted",
    "Acknowledged",
    "ApplicationReceived",
    "ApplicationRefused",
    "CloseConfirmed",
    "CloseReceived",
    "ConnectReceived",
    "EndpointCounters",
    "Event",
    "Refused",
    "State",
    "SwapEndpoint",
]

MAX_MESSAGES = 1_024
"""Messages taken from one socket; a session outlives its socket, so that this costs an honest peer nothing."""
MAX_BAD_MESSAGES = 16


@dataclass(frozen=True, slots=True)
class ConnectReceived:
    """Server side: the peer offers; answer with accept() or reject()."""

    offer: str
    criteria: tuple[Criterion, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """Client side: the answer came."""

    answer: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Client side: the connect was rejected, or answered by an error."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The peer ends the session; it has been answered."""


@dataclass(frozen=True, slots=True)
class CloseConfirmed:
    """The peer has answered our close."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Client side: the peer has our register or application message, and is known now."""


@dataclass(frozen=True, slots=True)
class ApplicationReceived:
    """An application message, acknowledged; server side it is a request: answer with say() or refuse()."""

    number: int
    type: str
    value: object


@dataclass(frozen=True, slots=True)
class ApplicationRefused:
    """Client side: our last application message was rejected, or answered by an error."""

    problem: Problem


Event = (
    ConnectReceived
    | Accepted
    | Refused
    | CloseReceived
    | CloseConfirmed
    | Acknowledged
    | ApplicationReceived
    | ApplicationRefused
)


class State(Enum):
    """Where the one session of a socket stands."""

    IDLE = auto()
    REQUESTED = auto()
    """a connect was sent or received, its answer is due"""
    ACTIVE = auto()
    CLOSING = auto()
    """we sent a close, its answer is due"""
    CLOSED = auto()
    """rejected or closed; there is no second session on a socket"""


@dataclass(slots=True)
class EndpointCounters:
    """Messages received, and among them those that had no effect."""

    received: int = 0
    malformed: int = 0
    foreign: int = 0
    """from another source than the socket's first message, which clause 13.2.4.4.1.1 says to ignore"""
    unexpected: int = 0
    """well formed, but not now, not for us, or numbered backwards"""

    @property
    def bad(self) -> int:
        """Everything that an honest peer does not send."""
        return self.malformed + self.foreign + self.unexpected


class SwapEndpoint:
    """The protocol of one socket. Every message that is no response is answered with one.

    The server side speaks the dialect of the peer's first message, the client side the one it is made with.
    """

    def __init__(
        self,
        role: Literal["client", "server"],
        *,
        source: str | None = None,
        dialect: Dialect = STANDARD,
        applications: Container[str] = (),
    ) -> None:
        """``applications`` are the types of application messages that are taken before the connect."""
        self.source = source or str(uuid.uuid4())
        self.state = State.IDLE
        self.counters = EndpointCounters()
        self._role = role
        self._dialect = dialect if role == "client" else None
        self._peer: str | None = None
        self._last_received = 0
        self._last_sent = 0
        self._pending = 0
        """number of the connect or close whose answer is due"""
        self._applications = applications
        self._asked = 0
        """number of our register or application message whose answer is due"""
        self._outgoing: list[str] = []

    @property
    def exhausted(self) -> bool:
        """Whether the peer has said more, or more nonsense, than one socket allows: time to close it."""
        return self.counters.received >= MAX_MESSAGES or self.counters.bad >= MAX_BAD_MESSAGES

    def take_outgoing(self) -> list[str]:
        """The texts to send, in this order."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def register(self) -> None:
        """Make ourselves known, and have the peer tell its source: Acknowledged is due. Client side, first of all."""
        self._expect("client", State.IDLE)
        self._asked = self._send(Register())

    def say(self, type_: str, value: object) -> None:
        """Send an application message to the peer, which has said something before. Before the connect."""
        if self.state is State.IDLE:  # else the answer comes too late
            number = self._send(Application(self._to_peer(), type_, value))
            self._asked = number if self._role == "client" else 0

    def refuse(self, number: int, problem: Problem) -> None:
        """Refuse the application message that was received. Server side."""
        if self.state is State.IDLE:
            self._send(Reject(self._to_peer(), number, problem))

    def connect(self, offer: str, criteria: tuple[Criterion, ...] = ()) -> None:
        """Offer a session. Once per socket, client side."""
        self._expect("client", State.IDLE)
        self._pending = self._send(Connect(offer, criteria))
        self.state = State.REQUESTED

    def accept(self, answer: str) -> bool:
        """Answer the connect that was received; False when the peer has closed meanwhile."""
        if self.state is State.CLOSED:
            return False
        self._expect("server", State.REQUESTED)
        self._send(Accept(self._to_peer(), answer))
        self.state = State.ACTIVE
        return True

    def reject(self, problem: Problem) -> bool:
        """Refuse the connect that was received; False when the peer has closed meanwhile."""
        if self.state is State.CLOSED:
            return False
        self._expect("server", State.REQUESTED)
        self._send(Reject(self._to_peer(), self._pending, problem))
        self.state = State.CLOSED
        return True

    def close(self) -> bool:
        """End the session, if there is one: CloseConfirmed is due when this says True."""
        if self.state is not State.ACTIVE:
            return False
        self._pending = self._send(Close(self._to_peer()))
        self.state = State.CLOSING
        return True

    def receive(self, data: str | bytes) -> Event | None:
        """Take one message, whatever it is. Never raises."""
        self.counters.received += 1
        try:
            message, self._dialect = parse(data, self._dialect)
        except MalformedMessage as error:
            self._receive_malformed(error)
            return None
        if self._peer is None:
            self._peer = message.source
        if message.source != self._peer:
            self.counters.foreign += 1
            return None
        body = message.body
        if message.message_id <= self._last_received:
            self._unexpected(message, make_problem(MESSAGE_MALFORMATTED, "message_id does not increase"))
            return None
        self._last_received = message.message_id
        if not isinstance(body, Register | Connect | Response) and body.target != self.source:
            self._unexpected(message, make_problem(TARGET_UNKNOWN))
            return None
        return self._dispatch(message)

    def _receive_malformed(self, error: MalformedMessage) -> None:
        self._dialect = error.dialect
        if self._peer is not None and error.source not in (None, self._peer):
            self.counters.foreign += 1
            return
        self.counters.malformed += 1
        if not error.is_response:  # two peers would go on answering each other
            self._send(Response(error.request, error.source or self._peer, error.problem))

    def _dispatch(self, message: Message) -> Event | None:
        is_server = self._role == "server"
        match message.body, self.state:
            case Response() as response, _:
                return self._receive_response(response)
            case Register(), _ if is_server:
                self._acknowledge(message)
                return None
            case Connect(offer, criteria), State.IDLE if is_server:
                self._acknowledge(message)
                self._pending = message.message_id
                self.state = State.REQUESTED
                return ConnectReceived(offer, criteria)
            case Accept(_, str(answer)), State.REQUESTED if not is_server:
                self._acknowledge(message)
                self.state = State.ACTIVE
                return Accepted(answer)
            case Accept(_, None), State.CLOSING:
                self._acknowledge(message)
                self.state = State.CLOSED
                return CloseConfirmed()
            case Reject(_, _, problem), State.REQUESTED if not is_server:
                self._acknowledge(message)
                self.state = State.CLOSED
                return Refused(problem)
            case Application(_, type_, value), State.IDLE if type_ in self._applications:
                self._acknowledge(message)
                return ApplicationReceived(message.message_id, type_, value)
            case Reject(_, request, problem), State.IDLE if (
                not is_server and self._asked and request in (0, self._asked)
            ):
                self._acknowledge(message)
                self._asked = 0
                return ApplicationRefused(problem)
            case Close(), State.REQUESTED | State.ACTIVE | State.CLOSING:
                return self._receive_close(message)
            case ((Update() | Application()), State.ACTIVE):
                # Sessions change over the control channel; unknown application types are rejected (13.2.4.4.9.1).
                self._acknowledge(message)
                problem = make_problem(MESSAGE_UNKNOWN, "updates and application messages are not supported here")
                self._send(Reject(message.source, message.message_id, problem))
                return None
        name = type(message.body).__name__.lower()
        self._unexpected(message, make_problem(MESSAGE_MALFORMATTED, f"{name} is not expected now"))
        return None

    def _receive_close(self, message: Message) -> CloseReceived:
        self._acknowledge(message)
        if self._dialect is not SECOND:  # there an accept must have an answer; the response is all
            self._send(Accept(message.source))
        self.state = State.CLOSED
        return CloseReceived()

    def _receive_response(self, response: Response) -> Event | None:
        if self.state is State.IDLE and self._asked and response.request in (0, self._asked):
            if response.problem is None:
                return Acknowledged() if response.request else None
            self._asked = 0
            return ApplicationRefused(response.problem)
        # A peer that could not read our only message does not know its number.
        if response.request == self._pending or (response.request == 0 and response.problem is not None):
            if self.state is State.REQUESTED and self._role == "client" and response.problem is not None:
                self.state = State.CLOSED
                return Refused(response.problem)
            if self.state is State.CLOSING and (response.problem is not None or self._dialect is SECOND):
                self.state = State.CLOSED
                return CloseConfirmed()
        if response.request > self._last_sent:
            self.counters.unexpected += 1
        return None

    def _unexpected(self, message: Message, problem: Problem) -> None:
        self.counters.unexpected += 1
        if not isinstance(message.body, Response):
            self._send(Response(message.message_id, message.source, problem))

    def _acknowledge(self, message: Message) -> None:
        self._send(Response(message.message_id, message.source))

    def _expect(self, role: str, state: State) -> None:
        if self._role != role or self.state is not state:
            raise RuntimeError(f"a {self._role} in state {self.state.name} cannot do this")

    def _to_peer(self) -> str:
        assert self._peer is not None  # REQUESTED at the server and ACTIVE are only reached by a message
        return self._peer

    def _send(self, body: Body) -> int:
        self._last_sent += 1
        message = Message(self.source, self._last_sent, body)
        self._outgoing.append(serialise(message, self._dialect or STANDARD))
        return self._last_sent
