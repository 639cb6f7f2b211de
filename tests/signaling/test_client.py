from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from signaling import (
    DRAINING,
    EDGE_FAILURE,
    EDGE_FULL,
    NO_COMMON_OPERATING_POINT,
    SECOND,
    STANDARD,
    UNAUTHORIZED,
    Criterion,
    Dialect,
    SignalingClient,
    client,
    make_problem,
    normalise_url,
    rejection,
)
from splitrtc_errors import (
    BadArgument,
    ConnectionLost,
    EdgeFull,
    NegotiationTimeout,
    NoCommonOperatingPoint,
    ProtocolError,
    Rejected,
    Unauthorized,
    Unreachable,
)

WAIT = 5.0
OFFER = "v=0 the offer"
TOKEN = "open-sesame-of-the-tests"


def at(server: Any) -> str:
    return f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("dialect", [STANDARD, SECOND], ids=lambda dialect: dialect.name)
async def test_offer_answer_and_close(serve: Any, make_edge: Any, dialect: Dialect) -> None:
    edge = make_edge()
    criteria = (Criterion("service", {"name": "split"}),)
    async with serve(edge, token=TOKEN) as server:
        async with SignalingClient(at(server), token=TOKEN, dialect=dialect) as ue:
            assert await ue.connect(OFFER, criteria) == edge.behaviour
            assert not ue.closed.done()
        assert ue.closed.result() == "lost"
        assert await asyncio.wait_for(edge.closed.get(), WAIT) == "the client closed the session"
        await ue.close()
    (request,) = edge.requests
    assert (request.offer, request.criteria) == (OFFER, criteria)


@pytest.mark.parametrize("dialect", [STANDARD, SECOND], ids=lambda dialect: dialect.name)
async def test_the_edge_closes_the_session(serve: Any, make_edge: Any, dialect: Dialect) -> None:
    edge = make_edge()
    async with serve(edge) as server, SignalingClient(at(server), dialect=dialect) as ue:
        await ue.connect(OFFER)
        await edge.session.close()
        assert await asyncio.wait_for(asyncio.shield(ue.closed), WAIT) == "closed"
    assert edge.closed.empty()


async def test_the_loss_of_the_socket_is_told_apart(serve: Any, make_edge: Any) -> None:
    edge = make_edge()
    async with serve(edge) as server, SignalingClient(at(server)) as ue:
        await ue.connect(OFFER)
        await server.close()
        assert await asyncio.wait_for(asyncio.shield(ue.closed), WAIT) == "lost"
    assert edge.closed.empty()


@pytest.mark.parametrize("dialect", [STANDARD, SECOND], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        (UNAUTHORIZED, Unauthorized),
        (EDGE_FULL, EdgeFull),
        (DRAINING, EdgeFull),
        (NO_COMMON_OPERATING_POINT, NoCommonOperatingPoint),
        (EDGE_FAILURE, Rejected),
    ],
)
async def test_a_reject_becomes_its_exception(
    serve: Any, make_edge: Any, type_: str, kind: type[Rejected], dialect: Dialect
) -> None:
    problem = make_problem(type_, "because", acceptable=("model=a",), retry_after=4)
    async with serve(make_edge(rejection(problem))) as server, SignalingClient(at(server), dialect=dialect) as ue:
        with pytest.raises(Rejected, match="because") as raised:
            await ue.connect(OFFER)
    assert type(raised.value) is kind
    assert raised.value.problem["acceptable"] == ["model=a"]
    assert raised.value.retry_after == 4


async def test_a_wrong_token_is_told(serve: Any, make_edge: Any) -> None:
    async with serve(make_edge(), token=TOKEN) as server:
        for token in (None, "wrong"):
            with pytest.raises(Unauthorized, match="access token"):
                await SignalingClient(at(server), token=token).__aenter__()


async def test_a_full_server_is_told(serve: Any, make_edge: Any) -> None:
    async with serve(make_edge(), max_sockets=1) as server, SignalingClient(at(server)):
        with pytest.raises(EdgeFull) as raised:
            await SignalingClient(at(server)).__aenter__()
    assert raised.value.retry_after == 5


@contextlib.asynccontextmanager
async def answering(handler: Any) -> AsyncIterator[str]:
    """Some HTTP server that is no edge."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_other_servers_are_no_edge() -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def overloaded(_: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})

    async def gateway(_: web.Request) -> web.Response:
        return web.Response(status=502)

    async def chat(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        return ws

    async with answering(page) as address:
        with pytest.raises(ProtocolError, match="HTTP status 200"):
            await SignalingClient(address).__aenter__()
    async with answering(overloaded) as address:
        with pytest.raises(EdgeFull) as raised:
            await SignalingClient(address).__aenter__()
        assert raised.value.retry_after is None
    async with answering(gateway) as address:
        with pytest.raises(Unreachable, match="no edge behind it"):
            await SignalingClient(address).__aenter__()
    async with answering(chat) as address:
        with pytest.raises(ProtocolError, match="sub-protocol"):
            await SignalingClient(address).__aenter__()


async def test_a_chatty_server_is_left() -> None:
    async def chat(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=["3gpp.SWAP.v1"])
        await ws.prepare(request)
        for _ in range(20):
            await ws.send_str("nonsense")
        while (await ws.receive()).type is web.WSMsgType.TEXT:
            pass
        return ws

    async with answering(chat) as address, SignalingClient(address) as ue:
        assert await asyncio.wait_for(asyncio.shield(ue.closed), WAIT) == "lost"
        with pytest.raises(ConnectionLost):
            await ue.connect(OFFER)


async def test_nobody_there_is_unreachable(serve: Any, make_edge: Any) -> None:
    async with serve(make_edge()) as server:
        address = at(server)
    told = f"cannot reach an edge at ws://{address}/3gpp-swap/v1: nothing listens there; is the edge running"
    with pytest.raises(Unreachable, match=told):
        await SignalingClient(address, token=TOKEN).__aenter__()
    with pytest.raises(Unreachable, match=r"no-such-host\.invalid.*is the host's name right"):
        await SignalingClient("no-such-host.invalid:8787").__aenter__()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENETUNREACH, "Connect call failed"), "Network is unreachable; is the edge running there?"),
        (ConnectionResetError(), "it hung up; an edge that serves TLS wants wss://"),
        (ValueError("what nobody foresaw"), "what nobody foresaw; is the edge running there?"),
    ],
)
def test_other_reasons_are_told_in_a_line(error: Exception, told: str) -> None:
    assert client._diagnosis(error) == told


async def test_silence_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "OPEN_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(Unreachable, match="no answer within"):
            await SignalingClient(f"127.0.0.1:{silent.getsockname()[1]}").__aenter__()


async def test_a_proxy_in_the_environment_is_not_used(
    serve: Any, make_edge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "WS_PROXY", "ws_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serve(make_edge()) as server, SignalingClient(at(server)) as ue:
        await ue.connect(OFFER)


async def test_an_edge_that_does_not_answer_in_time(serve: Any, make_edge: Any) -> None:
    edge = make_edge(None)
    async with serve(edge) as server:
        async with SignalingClient(at(server)) as ue:
            with pytest.raises(NegotiationTimeout, match=r"within 0\.1 s"):
                await ue.connect(OFFER, timeout=0.1)
        await asyncio.wait_for(edge.cancelled.wait(), WAIT)


async def test_a_socket_lost_before_the_answer(serve: Any, make_edge: Any) -> None:
    edge = make_edge(None)
    async with serve(edge) as server, SignalingClient(at(server)) as ue:
        connecting = asyncio.create_task(ue.connect(OFFER))
        await asyncio.wait_for(edge.asked.wait(), WAIT)
        await server.close()
        with pytest.raises(ConnectionLost, match="before it answered"):
            await connecting


async def test_a_cancelled_client_leaves_nothing(serve: Any, make_edge: Any) -> None:
    edge = make_edge(None)

    async def use(address: str) -> None:
        async with SignalingClient(address) as ue:
            await ue.connect(OFFER)

    async with serve(edge) as server:
        task = asyncio.create_task(use(at(server)))
        await asyncio.wait_for(edge.asked.wait(), WAIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(edge.cancelled.wait(), WAIT)


async def test_a_client_cancelled_while_opening_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        ue = SignalingClient(f"127.0.0.1:{silent.getsockname()[1]}")
        task = asyncio.create_task(ue.__aenter__())
        accepted, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(silent), WAIT)
        with accepted:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_a_client_that_was_never_opened_can_be_closed() -> None:
    ue = SignalingClient("127.0.0.1:1")
    await ue.close()
    with pytest.raises(AssertionError):
        ue.closed  # noqa: B018
    with pytest.raises(AssertionError):
        await ue.connect(OFFER)


# TLS


async def test_a_certificate_of_ones_own(serve: Any, make_edge: Any, certificate: Any) -> None:
    print_ = certificate.fingerprint
    context = ssl.create_default_context(cafile=certificate.path)
    colons = ":".join(print_[i : i + 2] for i in range(0, 64, 2)).upper()
    async with serve(make_edge(), ssl_context=certificate.context) as server:
        options: list[dict[str, Any]] = [
            {"ca": certificate.path},
            {"ca": str(certificate.path)},
            {"ssl": context},
            {"fingerprint": print_},
            {"fingerprint": colons},
            {"fingerprint": f"sha-256:{print_}"},
        ]
        for trust in options:
            async with SignalingClient(f"https://{at(server)}", token=TOKEN, **trust) as ue:
                await ue.connect(OFFER)


@pytest.mark.parametrize("trust", [{}, {"fingerprint": "00" * 32}])
async def test_a_certificate_of_somebody_else(
    serve: Any, make_edge: Any, certificate: Any, trust: dict[str, Any]
) -> None:
    async with serve(make_edge(), ssl_context=certificate.context) as server:
        with pytest.raises(Unreachable, match="the certificate is not one to trust"):
            await SignalingClient(f"wss://{at(server)}", **trust).__aenter__()


async def test_tls_where_there_is_none(serve: Any, make_edge: Any) -> None:
    async with serve(make_edge()) as server:
        with pytest.raises(Unreachable, match="it does not speak TLS; an edge without it wants ws://"):
            await SignalingClient(f"wss://{at(server)}").__aenter__()


def test_trust_is_given_in_one_way_only(tmp_path: Path, certificate: Any) -> None:
    with pytest.raises(BadArgument, match="one of"):
        SignalingClient("wss://x", ca=certificate.path, fingerprint=certificate.fingerprint)
    with pytest.raises(BadArgument, match="wss"):
        SignalingClient("ws://x", fingerprint=certificate.fingerprint)
    with pytest.raises(BadArgument, match="cannot read certificates"):
        SignalingClient("wss://x", ca=tmp_path / "absent.pem")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(BadArgument, match="cannot read certificates"):
        SignalingClient("wss://x", ca=empty)
    for fingerprint in ("", "zz", "00" * 31, "00" * 20):
        with pytest.raises(BadArgument, match="SHA-256"):
            SignalingClient("wss://x", fingerprint=fingerprint)


def test_a_token_in_the_clear_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    for url in ("wss://edge.example", "localhost:80", "127.0.0.1:80", "[::1]:80"):
        SignalingClient(url, token=TOKEN)
    assert caplog.text == ""
    SignalingClient("edge.example:80", token=TOKEN)
    assert "unprotected" in caplog.text
    assert "edge.example" not in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("127.0.0.1:8080", "ws://127.0.0.1:8080/3gpp-swap/v1"),
        ("edge", "ws://edge/3gpp-swap/v1"),
        ("[::1]:8080", "ws://[::1]:8080/3gpp-swap/v1"),
        ("ws://edge/", "ws://edge/3gpp-swap/v1"),
        ("http://edge:80", "ws://edge:80/3gpp-swap/v1"),
        ("https://edge", "wss://edge/3gpp-swap/v1"),
        ("WSS://edge", "wss://edge/3gpp-swap/v1"),
        ("wss://edge/3gpp-swap/v1", "wss://edge/3gpp-swap/v1"),
        ("wss://edge/3gpp-swap/v1/", "wss://edge/3gpp-swap/v1"),
        ("wss://edge/site/7/", "wss://edge/site/7/3gpp-swap/v1"),
        ("wss://edge/site/3gpp-swap/v1", "wss://edge/site/3gpp-swap/v1"),
    ],
)
def test_urls_are_completed(url: str, expected: str) -> None:
    assert normalise_url(url) == expected
    assert normalise_url(expected) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ws://",
        ":8080",
        "ftp://edge",
        "edge:port",
        "edge:0",
        "edge:70000",
        "[::1",
        "ws://user:secret@edge",
        "ws://edge?token=secret",
        "ws://edge#secret",
    ],
)
def test_what_is_no_url_of_an_edge_is_refused(url: str) -> None:
    with pytest.raises(BadArgument) as raised:
        normalise_url(url)
    assert "secret" not in str(raised.value)


@given(st.text())
def test_any_text_is_a_url_or_a_bad_argument(text: str) -> None:
    try:
        url = normalise_url(text)
    except BadArgument:
        return
    assert url.startswith(("ws://", "wss://"))
    assert url.endswith("/3gpp-swap/v1")
