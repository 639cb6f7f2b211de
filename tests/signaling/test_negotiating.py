"""The procedures over a real socket: client and server, both dialects, and either end going at any point."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from signaling import EDGE_FULL, SECOND, STANDARD, Dialect, SignalingClient, client, make_problem, rejection, session
from signaling.applications import (
    REQUESTS,
    RESPONSES,
    InferenceResponse,
    Request,
    Response,
    SelectionRequest,
    statement,
)
from signaling.endpoint import ApplicationReceived, SwapEndpoint
from signaling.swap import MAX_MESSAGE
from splitrtc_errors import ConnectionLost, EdgeFull, NegotiationTimeout, ProtocolError, Rejected
from tests.signaling.test_procedures import LOCAL, NEED, SELECTION, answer_to, information
from tests.signaling.test_session import wired

WAIT = 5.0
OFFER = "v=0 the offer"


def at(server: Any) -> str:
    return f"127.0.0.1:{server.port}"


async def honest(request: Request, _: Any) -> Response:
    return answer_to(request)


@pytest.mark.parametrize("dialect", [STANDARD, SECOND], ids=lambda dialect: dialect.name)
async def test_both_cases_and_then_the_connect(serve: Any, make_edge: Any, dialect: Dialect) -> None:
    edge = make_edge()
    async with serve(edge, negotiate=honest) as server, SignalingClient(at(server), dialect=dialect) as ue:
        assert (await ue.request_inference(NEED, resume=32 * "a")).selection == SELECTION
        assert await ue.request_information(NEED) == information(2)
        assert (await ue.select(SELECTION)).reserved_ms == 10_000.0
        assert await ue.connect(OFFER) == edge.behaviour


@pytest.mark.parametrize("dialect", [STANDARD, SECOND], ids=lambda dialect: dialect.name)
async def test_a_refusal_says_why_and_is_not_the_end(serve: Any, make_edge: Any, dialect: Dialect) -> None:
    full = [True]

    async def negotiate(request: Request, _: Any) -> Response:
        if full.pop():
            full.append(False)
            raise rejection(make_problem(EDGE_FULL, retry_after=7.0))
        return answer_to(request)

    edge = make_edge()
    async with serve(edge, negotiate=negotiate) as server, SignalingClient(at(server), dialect=dialect) as ue:
        with pytest.raises(EdgeFull) as caught:
            await ue.request_inference(NEED)
        assert caught.value.retry_after == 7.0
        assert (await ue.request_inference(NEED)).selection == SELECTION
        assert await ue.connect(OFFER) == edge.behaviour


async def test_an_edge_without_procedures_refuses_them_and_takes_the_connect(serve: Any, make_edge: Any) -> None:
    edge = make_edge()
    async with serve(edge) as server, SignalingClient(at(server)) as ue:
        with pytest.raises(Rejected):
            await ue.request_information(NEED)
        assert await ue.connect(OFFER) == edge.behaviour


@pytest.mark.parametrize(
    "lie",
    [
        lambda request: InferenceResponse(request.id, replace(SELECTION, profile="raw")),
        lambda request: InferenceResponse(request.id, LOCAL),
    ],
)
async def test_a_selection_that_was_not_offered_is_a_protocol_error(
    serve: Any, make_edge: Any, lie: Callable[[Request], Response]
) -> None:
    async def negotiate(request: Request, _: Any) -> Response:
        return lie(request)

    async with serve(make_edge(), negotiate=negotiate) as server, SignalingClient(at(server)) as ue:
        with pytest.raises(ProtocolError):
            await ue.request_inference(replace(NEED, modes=("split",)))


async def test_an_edge_whose_answer_fits_no_request_has_failed_itself(serve: Any, make_edge: Any) -> None:
    async def negotiate(request: Request, _: Any) -> Response:
        return InferenceResponse(request.id + 1, SELECTION)

    async with serve(make_edge(), negotiate=negotiate) as server, SignalingClient(at(server)) as ue:
        with pytest.raises(Rejected):
            await ue.request_inference(NEED)


async def test_the_socket_may_go_while_an_answer_is_due(serve: Any, make_edge: Any) -> None:
    asked = asyncio.Event()
    gone: asyncio.Queue[str] = asyncio.Queue()

    async def negotiate(_: Request, session: Any) -> Response:
        session.on_close = gone.put_nowait
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets this event")

    async with serve(make_edge(), negotiate=negotiate) as server:
        async with SignalingClient(at(server)) as ue:
            asking = asyncio.create_task(ue.request_inference(NEED))
            await asyncio.wait_for(asked.wait(), WAIT)
            await ue.close()
            with pytest.raises(ConnectionLost):
                await asking
            with pytest.raises(ConnectionLost):
                await ue.select(SELECTION)
        assert await asyncio.wait_for(gone.get(), WAIT) == "the client left without having connected"


async def test_what_was_promised_ends_with_the_socket(serve: Any, make_edge: Any) -> None:
    gone: asyncio.Queue[str] = asyncio.Queue()

    async def negotiate(request: Request, session: Any) -> Response:
        session.on_close = gone.put_nowait
        return answer_to(request)

    async with serve(make_edge(), negotiate=negotiate) as server:
        async with SignalingClient(at(server)) as ue:
            await ue.select(SELECTION)
        assert await asyncio.wait_for(gone.get(), WAIT) == "the client left without having connected"


async def test_a_silent_edge_is_not_waited_for(serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def negotiate(_: Request, __: Any) -> Response:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets this event")

    monkeypatch.setattr(client, "CONNECT_TIMEOUT", 0.05)
    async with serve(make_edge(), negotiate=negotiate) as server, SignalingClient(at(server)) as ue:
        with pytest.raises(NegotiationTimeout):
            await ue.select(SELECTION)


async def test_a_socket_that_asks_and_never_connects_is_closed(
    serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FIRST_MESSAGE_TIMEOUT", 0.2)
    async with serve(make_edge(), negotiate=honest) as server, SignalingClient(at(server)) as ue:
        await ue.select(SELECTION)
        assert await asyncio.wait_for(asyncio.shield(ue.closed), WAIT) == "lost"


async def say(wire: Any, edge: str, request: SelectionRequest, **others: Any) -> None:
    type_ = "urn:splitrtc:ai-split:1:selection-request"
    await wire.send("application", **{"target": edge, "type": type_, "value": request.to_json()} | others)


async def known(wire: Any) -> str:
    await wire.send("register")
    return str((await wire.receive())["source"])


async def test_stale_repeated_and_foolish_requests_are_refused_and_the_rest_goes_on(serve: Any, make_edge: Any) -> None:
    edge = make_edge()
    async with serve(edge, negotiate=honest) as server, wired(server.port) as wire:
        to = await known(wire)
        request = SelectionRequest(5, SELECTION)
        await say(wire, to, request)
        ack, answer = await wire.receive(), await wire.receive()
        assert (ack["type"], answer["message_type"], answer["value"]["id"]) == ("ack", "application", 5)
        for bad in ({}, {"value": 3}, {"value": replace(request, id=4).to_json()}):
            await say(wire, to, request, **bad)
            ack, reject = await wire.receive(), await wire.receive()
            assert (ack["type"], reject["message_type"]) == ("ack", "reject")
            assert reject["request"] == ack["request"]
        await say(wire, to, request, type="urn:other")
        assert (await wire.receive())["type"] == "error"
        await wire.connect()
        assert [(await wire.receive())["message_type"] for _ in range(2)] == ["response", "accept"]
        await say(wire, to, replace(request, id=9))
        assert [(await wire.receive())["message_type"] for _ in range(2)] == ["response", "reject"]


async def test_one_request_at_a_time_and_the_connect_after_it(serve: Any, make_edge: Any) -> None:
    answer = asyncio.Event()

    async def negotiate(request: Request, _: Any) -> Response:
        await answer.wait()
        return answer_to(request)

    edge = make_edge()
    async with serve(edge, negotiate=negotiate) as server, wired(server.port) as wire:
        to = await known(wire)
        await say(wire, to, SelectionRequest(1, SELECTION))
        await say(wire, to, SelectionRequest(2, SELECTION))
        kinds = [(await wire.receive())["message_type"] for _ in range(3)]
        assert kinds == ["response", "response", "reject"]
        await wire.connect()
        assert (await wire.receive())["message_type"] == "response"
        assert not edge.asked.is_set()
        answer.set()  # too late to be of use: the connect was sent without waiting for it
        assert (await wire.receive())["message_type"] == "accept"


async def test_an_answer_that_is_too_long_to_send_is_a_failure(serve: Any, make_edge: Any) -> None:
    async def negotiate(request: Request, _: Any) -> Response:
        entry = information(request.id).models[0]
        known = replace(entry.information, name="x" * MAX_MESSAGE)
        return replace(information(request.id), models=(replace(entry, information=known),))

    async with serve(make_edge(), negotiate=negotiate) as server, SignalingClient(at(server)) as ue:
        with pytest.raises(Rejected):
            await ue.request_information(NEED)


def test_after_the_connect_an_edge_neither_answers_nor_refuses_a_request() -> None:
    ue, edge = SwapEndpoint("client", applications=RESPONSES), SwapEndpoint("server", applications=REQUESTS)

    def exchange() -> list[Any]:
        events = [edge.receive(text) for text in ue.take_outgoing()]
        return events + [ue.receive(text) for text in edge.take_outgoing()]

    ue.register()
    exchange()
    ue.say(*statement(SelectionRequest(1, SELECTION)))
    (asked, *_) = exchange()
    assert isinstance(asked, ApplicationReceived)
    ue.connect(OFFER)
    exchange()
    edge.say(*statement(answer_to(SelectionRequest(1, SELECTION))))
    edge.refuse(asked.number, make_problem(EDGE_FULL))
    assert edge.take_outgoing() == []
