from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.endpoint import (
    MAX_BAD_MESSAGES,
    MAX_MESSAGES,
    Accepted,
    CloseConfirmed,
    CloseReceived,
    ConnectReceived,
    Event,
    Refused,
    State,
    SwapEndpoint,
)
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
from signaling.problems import (
    EDGE_FULL,
    MESSAGE_MALFORMATTED,
    MESSAGE_UNKNOWN,
    TARGET_UNKNOWN,
    make_problem,
)
from signaling.swap import SECOND, STANDARD, Dialect, parse, serialise

FULL = make_problem(EDGE_FULL, retry_after=5.0)
CRITERIA = (Criterion("service", "split"),)

both = pytest.mark.parametrize("dialect", [STANDARD, SECOND], ids=lambda dialect: dialect.name)


class Pair:
    """A client and a server whose texts are handed over until nobody has anything to say."""

    def __init__(self, dialect: Dialect = STANDARD) -> None:
        self.client = SwapEndpoint("client", dialect=dialect)
        self.server = SwapEndpoint("server")
        self.dialect = dialect
        self.said: list[Body] = []

    def exchange(self) -> list[Event]:
        events: list[Event | None] = []
        busy = True
        while busy:
            busy = False
            for sender, receiver in ((self.client, self.server), (self.server, self.client)):
                for text in sender.take_outgoing():
                    busy = True
                    self.said.append(parse(text, self.dialect)[0].body)
                    events.append(receiver.receive(text))
        return [event for event in events if event is not None]

    def establish(self) -> Pair:
        self.client.connect("offer")
        self.exchange()
        assert self.server.accept("answer")
        self.exchange()
        assert (self.client.state, self.server.state) == (State.ACTIVE, State.ACTIVE)
        self.said.clear()
        return self

    def assert_no_complaint(self) -> None:
        for endpoint in (self.client, self.server):
            assert endpoint.counters.bad == 0


def say(endpoint: SwapEndpoint, body: Body, number: int, source: str = "a-strange-peer") -> Event | None:
    return endpoint.receive(serialise(Message(source, number, body), STANDARD))


def replies(endpoint: SwapEndpoint) -> list[Body]:
    return [parse(text)[0].body for text in endpoint.take_outgoing()]


def complaint(endpoint: SwapEndpoint) -> str:
    """The type of the problem in the one reply that is due."""
    (reply,) = replies(endpoint)
    assert isinstance(reply, Response)
    assert reply.problem is not None
    return reply.problem.type


@both
def test_a_session_from_offer_to_close(dialect: Dialect) -> None:
    pair = Pair(dialect)
    pair.client.connect("offer", CRITERIA)
    assert pair.exchange() == [ConnectReceived("offer", CRITERIA)]
    assert pair.server.accept("answer")
    assert pair.exchange() == [Accepted("answer")]
    assert pair.client.close()
    assert pair.exchange() == [CloseReceived(), CloseConfirmed()]
    assert (pair.client.state, pair.server.state) == (State.CLOSED, State.CLOSED)
    pair.assert_no_complaint()


@both
def test_the_edge_closes(dialect: Dialect) -> None:
    pair = Pair(dialect).establish()
    assert pair.server.close()
    assert pair.exchange() == [CloseReceived(), CloseConfirmed()]
    assert not pair.server.close()
    assert not pair.client.close()
    pair.assert_no_complaint()


@both
def test_both_close_at_once(dialect: Dialect) -> None:
    pair = Pair(dialect).establish()
    assert pair.client.close()
    assert pair.server.close()
    events = pair.exchange()
    assert CloseReceived() in events
    assert (pair.client.state, pair.server.state) == (State.CLOSED, State.CLOSED)


@both
def test_a_connect_is_rejected_with_its_problem(dialect: Dialect) -> None:
    pair = Pair(dialect)
    pair.client.connect("offer")
    pair.exchange()
    assert pair.server.reject(FULL)
    assert pair.exchange() == [Refused(FULL)]
    assert (pair.client.state, pair.server.state) == (State.CLOSED, State.CLOSED)
    pair.assert_no_complaint()


@both
def test_every_message_but_a_response_is_answered_by_a_response(dialect: Dialect) -> None:
    pair = Pair(dialect)
    pair.client.connect("offer")
    pair.exchange()
    pair.server.accept("answer")
    pair.exchange()
    pair.client.close()
    pair.exchange()
    spoken = [body for body in pair.said if not isinstance(body, Response)]
    answers = [body for body in pair.said if isinstance(body, Response)]
    assert len(spoken) == len(answers)
    assert all(answer.problem is None for answer in answers)


def test_a_close_is_answered_by_an_accept_without_an_answer_where_the_dialect_has_one() -> None:
    for dialect, expected in ((STANDARD, [Accept]), (SECOND, [])):
        pair = Pair(dialect).establish()
        pair.client.close()
        pair.exchange()
        spoken = [type(body) for body in pair.said if not isinstance(body, Close | Response)]
        assert spoken == expected


def test_a_rejection_names_its_request() -> None:
    server = SwapEndpoint("server")
    say(server, Connect("offer"), 41)
    server.take_outgoing()
    server.reject(FULL)
    assert replies(server) == [Reject("a-strange-peer", 41, FULL)]


def test_message_numbers_increase_and_the_source_stays() -> None:
    pair = Pair().establish()
    pair.client.close()
    texts = [json.loads(text) for text in pair.client.take_outgoing()]
    assert [text["message_id"] for text in texts] == [3]
    assert {text["source"] for text in texts} == {pair.client.source}
    assert len(pair.client.source) >= 10
    assert pair.client.source != pair.server.source
    assert SwapEndpoint("client", source="given-by-caller").source == "given-by-caller"


def test_a_registration_is_acknowledged() -> None:
    server = SwapEndpoint("server")
    assert say(server, Register(CRITERIA), 1) is None
    assert replies(server) == [Response(1, "a-strange-peer")]
    assert server.state is State.IDLE


def test_the_dialect_follows_the_first_message() -> None:
    server = SwapEndpoint("server")
    server.receive(serialise(Message("a-strange-peer", 1, Connect("offer")), SECOND))
    assert "response_to" in json.loads(server.take_outgoing()[0])
    # and is fixed then
    server.receive(serialise(Message("a-strange-peer", 2, Close(server.source)), STANDARD))
    assert server.counters.malformed == 1
    assert "response_to" in json.loads(server.take_outgoing()[0])


def test_the_dialect_follows_even_a_malformed_first_message() -> None:
    server = SwapEndpoint("server")
    server.receive('{"source_id": "a-strange-peer", "message_id": 1}')
    assert json.loads(server.take_outgoing()[0])["response_to"] == 1


@pytest.mark.parametrize("data", ["", "garbage", "[]", "[" * 100_000, b"\x00", "{}", '{"message_type": "connect"}'])
def test_malformed_messages_are_answered_and_change_nothing(data: str | bytes) -> None:
    server = SwapEndpoint("server")
    assert server.receive(data) is None
    assert complaint(server) == MESSAGE_MALFORMATTED
    assert server.counters.malformed == 1
    assert isinstance(say(server, Connect("offer"), 1), ConnectReceived)


def test_an_unknown_type_is_answered_as_such() -> None:
    server = SwapEndpoint("server")
    server.receive('{"version": 1, "source": "a-strange-peer", "message_id": 5, "message_type": "dance"}')
    (reply,) = replies(server)
    assert reply == Response(5, "a-strange-peer", make_problem(MESSAGE_UNKNOWN))


def test_a_malformed_response_is_never_answered() -> None:
    server = SwapEndpoint("server")
    server.receive('{"source": "a-strange-peer", "message_type": "response"}')
    assert server.take_outgoing() == []
    assert server.counters.malformed == 1


def test_a_changed_source_is_ignored() -> None:
    server = SwapEndpoint("server")
    say(server, Register(), 1)
    server.take_outgoing()
    assert say(server, Connect("offer"), 2, source="another-source") is None
    server.receive('{"source": "another-source", "message_type": "connect"}')
    assert server.take_outgoing() == []
    assert server.counters.foreign == 2
    assert isinstance(say(server, Connect("offer"), 2), ConnectReceived)


@pytest.mark.parametrize("number", [5, 4, 1])
def test_message_numbers_that_do_not_increase_are_refused(number: int) -> None:
    server = SwapEndpoint("server")
    say(server, Register(), 5)
    server.take_outgoing()
    assert say(server, Connect("offer"), number) is None
    assert complaint(server) == MESSAGE_MALFORMATTED
    say(server, Response(1), number)
    assert server.take_outgoing() == []
    assert server.counters.unexpected == 2
    assert server.state is State.IDLE


def test_a_message_to_somebody_else_is_refused() -> None:
    pair = Pair().establish()
    say(pair.server, Close("somebody-else"), 9, source=pair.client.source)
    assert complaint(pair.server) == TARGET_UNKNOWN
    assert pair.server.state is State.ACTIVE


@pytest.mark.parametrize("make", [lambda to: Update(to, "sdp"), lambda to: Application(to, "urn:x:y", {})])
def test_updates_and_application_messages_are_rejected_in_a_session(make: Any) -> None:
    pair = Pair().establish()
    say(pair.server, make(pair.server.source), 9, source=pair.client.source)
    ack, reject = replies(pair.server)
    assert ack == Response(9, pair.client.source)
    assert isinstance(reject, Reject)
    assert (reject.request, reject.problem.type) == (9, MESSAGE_UNKNOWN)
    assert pair.server.state is State.ACTIVE


@pytest.mark.parametrize(
    "make",
    [
        lambda to: Accept(to, "answer"),
        lambda to: Accept(to),
        lambda to: Update(to, "sdp"),
        lambda to: Reject(to, 1, FULL),
        lambda to: Close(to),
        lambda to: Application(to, "urn:x:y", {}),
    ],
)
def test_what_comes_at_the_wrong_time_is_refused(make: Any) -> None:
    server = SwapEndpoint("server")
    assert say(server, make(server.source), 1) is None
    assert complaint(server) == MESSAGE_MALFORMATTED
    assert server.counters.unexpected == 1
    assert server.state is State.IDLE


def test_a_socket_carries_one_connect() -> None:
    server = SwapEndpoint("server")
    assert isinstance(say(server, Connect("offer"), 1), ConnectReceived)
    for number in (2, 3):
        server.take_outgoing()
        assert say(server, Connect("again"), number) is None
        assert complaint(server) == MESSAGE_MALFORMATTED
        server.reject(FULL)
    assert server.state is State.CLOSED


def test_a_client_takes_no_requests_of_a_server() -> None:
    client = SwapEndpoint("client")
    bodies: list[Body] = [Connect("offer"), Register()]
    for number, body in enumerate(bodies, 1):
        assert say(client, body, number) is None
        assert complaint(client) == MESSAGE_MALFORMATTED
    assert client.state is State.IDLE


def test_a_server_is_not_accepted_by_its_client() -> None:
    server = SwapEndpoint("server")
    say(server, Connect("offer"), 1)
    server.take_outgoing()
    bodies: list[Body] = [Accept(server.source, "answer"), Reject(server.source, 1, FULL)]
    for number, body in enumerate(bodies, 2):
        assert say(server, body, number) is None
        assert complaint(server) == MESSAGE_MALFORMATTED
    assert server.state is State.REQUESTED
    # Nor is a response with an error to its own acknowledgement a refusal.
    assert say(server, Response(1, None, FULL), 9) is None
    assert server.state is State.REQUESTED


def test_a_client_that_gives_up_closes_before_the_answer() -> None:
    server = SwapEndpoint("server")
    say(server, Connect("offer"), 1)
    assert say(server, Close(server.source), 2) == CloseReceived()
    server.take_outgoing()
    assert not server.accept("answer")
    assert not server.reject(FULL)
    assert server.take_outgoing() == []


@pytest.mark.parametrize("request_", [1, 0])
def test_an_error_response_refuses_the_connect(request_: int) -> None:
    client = SwapEndpoint("client")
    client.connect("offer")
    assert say(client, Response(request_, None, FULL), 1) == Refused(FULL)
    assert client.state is State.CLOSED


def test_other_responses_change_nothing() -> None:
    client = SwapEndpoint("client")
    client.connect("offer")
    client.take_outgoing()
    assert say(client, Response(1), 1) is None
    assert say(client, Response(0), 2) is None
    assert client.counters.bad == 0
    assert say(client, Response(2, None, FULL), 3) is None
    assert client.counters.unexpected == 1
    assert client.state is State.REQUESTED
    assert client.take_outgoing() == []


def test_an_error_response_to_a_close_ends_it_too() -> None:
    pair = Pair().establish()
    pair.client.close()
    assert say(pair.client, Response(3, None, FULL), 99, source=pair.server.source) == CloseConfirmed()


def test_the_acknowledgement_of_a_close_is_not_yet_its_end() -> None:
    pair = Pair().establish()
    pair.client.close()
    assert say(pair.client, Response(3), 99, source=pair.server.source) is None
    assert pair.client.state is State.CLOSING


@pytest.mark.parametrize("role", ["client", "server"])
def test_the_owner_is_told_when_it_errs(role: Any) -> None:
    endpoint = SwapEndpoint(role)
    with pytest.raises(RuntimeError, match="IDLE"):
        endpoint.accept("answer")
    with pytest.raises(RuntimeError, match="IDLE"):
        endpoint.reject(FULL)
    assert not endpoint.close()
    if role == "client":
        endpoint.connect("offer")
    with pytest.raises(RuntimeError, match="cannot do this"):
        endpoint.connect("offer")


def test_nonsense_exhausts_a_socket() -> None:
    server = SwapEndpoint("server")
    for _ in range(MAX_BAD_MESSAGES):
        assert not server.exhausted
        server.receive("nonsense")
    assert server.exhausted


def test_a_flood_exhausts_a_socket() -> None:
    server = SwapEndpoint("server")
    for number in range(1, MAX_MESSAGES + 1):
        assert not server.exhausted
        say(server, Register(), number)
    assert server.exhausted


SOURCES = st.sampled_from(["a-strange-peer", "another-source"])
TARGETS = st.sampled_from(["the-endpoint-itself", "somebody-else"])
BODIES = st.one_of(
    st.just(Register()),
    st.just(Connect("offer")),
    st.builds(Response, st.integers(0, 5), st.none(), st.sampled_from([None, FULL])),
    st.builds(Accept, TARGETS, st.sampled_from([None, "answer"])),
    st.builds(Update, TARGETS, st.just("sdp")),
    st.builds(Reject, TARGETS, st.integers(0, 5), st.just(FULL)),
    st.builds(Close, TARGETS),
    st.builds(Application, TARGETS, st.just("urn:x:y"), st.none()),
)
INCOMING = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20),
    st.builds(
        lambda source, number, body, dialect: serialise(Message(source, number, body), dialect),
        SOURCES,
        st.integers(1, 40),
        BODIES,
        st.sampled_from([STANDARD, SECOND]),
    ),
)
ACTIONS = st.sampled_from(["connect", "accept", "reject", "close"])


@given(st.sampled_from(["client", "server"]), st.lists(INCOMING | ACTIONS.map(lambda name: (name,)), max_size=30))
def test_no_sequence_of_messages_and_actions_breaks_an_endpoint(role: Any, steps: list[Any]) -> None:
    endpoint = SwapEndpoint(role, source="the-endpoint-itself")
    calls = {
        "connect": lambda: endpoint.connect("offer"),
        "accept": lambda: endpoint.accept("answer"),
        "reject": lambda: endpoint.reject(FULL),
        "close": endpoint.close,
    }
    events: list[Event] = []
    sent = 0
    for step in steps:
        if isinstance(step, tuple):
            try:
                calls[step[0]]()
            except RuntimeError:
                assert endpoint.take_outgoing() == []
        elif (event := endpoint.receive(step)) is not None:
            events.append(event)
        outgoing = [json.loads(text) for text in endpoint.take_outgoing()]
        assert len(outgoing) <= 2
        assert [text["message_id"] for text in outgoing] == list(range(sent + 1, sent + 1 + len(outgoing)))
        sent += len(outgoing)
    for kind in (ConnectReceived, Accepted, Refused, CloseReceived, CloseConfirmed):
        assert sum(isinstance(event, kind) for event in events) <= 1
