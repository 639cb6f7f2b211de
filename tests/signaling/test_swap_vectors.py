"""The vectors of docs/protocol.md section 1.1: SWAP messages in both dialects, whole conversations, tokens."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from signaling.auth import TokenGuard, check_token, token_subprotocol
from signaling.endpoint import Accepted, CloseConfirmed, CloseReceived, ConnectReceived, Refused, SwapEndpoint
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
from signaling.problems import Problem
from signaling.swap import SECOND, STANDARD, Dialect, MalformedMessage, parse, serialise
from splitrtc_errors import BadArgument

FOLDER = Path(__file__).parents[1] / "vectors"
VECTORS = json.loads((FOLDER / "swap.json").read_text(encoding="utf-8"))
TOKENS = json.loads((FOLDER / "token.json").read_text(encoding="utf-8"))

DIALECTS = {"standard": STANDARD, "second": SECOND}
BODIES: dict[str, type[Body]] = {
    kind.__name__: kind for kind in (Register, Response, Connect, Accept, Update, Reject, Close, Application)
}

both = pytest.mark.parametrize("dialect", DIALECTS)


def vectors(kind: str, source: dict[str, Any] = VECTORS) -> list[Any]:
    return [pytest.param(v, id=" ".join(filter(None, (v.get("dialect"), v["name"])))) for v in source[kind]]


def body_of(fields: dict[str, Any], dialect: Dialect) -> Body:
    values = {name: value for name, value in fields.items() if name not in ("type", "kind")}
    if "kind" in fields:
        values["type"] = fields["kind"]
    if "criteria" in values:
        values["criteria"] = tuple(Criterion(**criterion) for criterion in values["criteria"])
    if "problem" in values:
        problem = values["problem"]
        values["problem"] = Problem(**{**problem, "acceptable": tuple(problem.get("acceptable", ()))})
    body = BODIES[fields["type"]](**values)
    if dialect is SECOND:  # what it cannot say
        if isinstance(body, Response):
            return replace(body, target=None)
        if isinstance(body, Reject):
            return replace(body, request=0)
    return body


def as_json(fields: dict[str, Any]) -> dict[str, Any]:
    """With a problem in a text as the object that it is."""
    if "target" in fields and isinstance(fields.get("reason"), str):
        return {**fields, "reason": json.loads(fields["reason"])}
    return fields


def message_of(vector: dict[str, Any], dialect: str) -> Message | None:
    fields = vector[dialect]
    if fields is None:
        return None
    source = fields["source" if dialect == "standard" else "source_id"]
    return Message(source, fields["message_id"], body_of(vector["body"], DIALECTS[dialect]))


@both
@pytest.mark.parametrize("vector", vectors("both_ways"))
def test_a_message_is_read_and_written_as_its_vector(vector: dict[str, Any], dialect: str) -> None:
    message = message_of(vector, dialect)
    if message is None:
        assert vector["body"] == {"type": "Accept", "target": "ue-7f3a9c21", "answer": None}
        return
    assert parse(json.dumps(vector[dialect])) == (message, DIALECTS[dialect])
    assert as_json(json.loads(serialise(message, DIALECTS[dialect]))) == as_json(vector[dialect])


@pytest.mark.parametrize("vector", vectors("read_only"))
def test_what_a_dialect_forgives(vector: dict[str, Any]) -> None:
    dialect = DIALECTS[vector["dialect"]]
    message, spoken = parse(vector["text"])
    assert (message.body, spoken) == (body_of(vector["body"], dialect), dialect)


@pytest.mark.parametrize("vector", vectors("refused"))
def test_a_malformed_vector_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage, match=re.escape(vector["reason"])) as raised:
        parse(vector["text"], DIALECTS[vector["dialect"]])
    assert (raised.value.request, raised.value.problem.type) == (vector["request"], vector["problem"])


class End:
    """One end of a conversation, which does by itself what its vector says that it does."""

    def __init__(self, name: str, vector: dict[str, Any]) -> None:
        self.name = name
        self.dialect = DIALECTS[vector["dialect"]]
        role = "client" if name == "ue" else "server"
        source = {"ue": "ue-7f3a9c21", "edge": "edge-b81d4e60"}[name]
        self.endpoint = SwapEndpoint(role, source=source, dialect=self.dialect)  # type: ignore[arg-type]
        self.events: list[object] = []
        self.unsaid: list[str] = []

    def says(self, fields: dict[str, Any]) -> None:
        """Check that this is what the end says next."""
        if not self.unsaid:
            message, _ = parse(json.dumps(fields), self.dialect)
            match message.body:
                case Connect(offer, criteria):
                    self.endpoint.connect(offer, criteria)
                case Accept(_, str(answer)):
                    assert self.endpoint.accept(answer)
                case Reject(_, _, problem):
                    assert self.endpoint.reject(problem)
                case Close():
                    assert self.endpoint.close()
            self.unsaid = self.endpoint.take_outgoing()
        assert as_json(json.loads(self.unsaid.pop(0))) == as_json(fields)

    def hears(self, fields: dict[str, Any]) -> None:
        event = self.endpoint.receive(json.dumps(fields))
        if event is not None:
            self.events.append(event)
        self.unsaid += self.endpoint.take_outgoing()


def play(vector: dict[str, Any], *names: str) -> list[list[object]]:
    """Let ends take part in a conversation, in which the messages of the others just come; returns the ends' events."""
    ends = [End(name, vector) for name in names]
    for step in vector["steps"]:
        for end in ends:
            if end.name == step["from"]:
                end.says(step["message"])
            else:
                end.hears(step["message"])
    assert [end.unsaid for end in ends] == [[] for _ in ends]
    return [end.events for end in ends]


@pytest.mark.parametrize("vector", vectors("conversations"))
def test_both_ends_say_what_a_conversation_says(vector: dict[str, Any]) -> None:
    at_ue, at_edge = play(vector, "ue", "edge")
    offer = vector["steps"][0]["message"]["offer"]
    assert at_edge[0] == ConnectReceived(offer, ())
    if vector["name"].startswith("a rejected"):
        (refused,) = at_ue
        assert isinstance(refused, Refused)
        assert refused.problem.acceptable
        assert len(at_edge) == 1
        return
    closing = (CloseConfirmed(), CloseReceived())
    by_ue, by_edge = closing if vector["name"].endswith("the UE closes") else closing[::-1]
    assert at_ue == [Accepted(vector["steps"][2]["message"]["answer"]), by_ue]
    assert at_edge[1:] == [by_edge]


@pytest.mark.parametrize("vector", vectors("edge_conversations"))
def test_the_edge_answers_what_a_conversation_says(vector: dict[str, Any]) -> None:
    (events,) = play(vector, "edge")
    assert len(events) == 1


# Tokens


@pytest.mark.parametrize("vector", vectors("good", TOKENS))
def test_a_token_travels_in_both_forms(vector: dict[str, Any]) -> None:
    assert token_subprotocol(vector["token"]) == vector["subprotocol"]
    guard = TokenGuard(vector["token"])
    assert guard.admits(vector["authorization"], None)
    assert guard.admits(None, vector["subprotocol"])


@pytest.mark.parametrize("kind", ["admitted", "refused"])
def test_headers_with_a_token_and_without(kind: str) -> None:
    for vector in TOKENS[kind]:
        admitted = TokenGuard(vector["token"]).admits(vector["authorization"], vector["subprotocols"])
        assert admitted is (kind == "admitted"), vector["name"]


@pytest.mark.parametrize("vector", vectors("malformed", TOKENS))
def test_what_is_no_token(vector: dict[str, Any]) -> None:
    with pytest.raises(BadArgument):
        check_token(vector["token"])
