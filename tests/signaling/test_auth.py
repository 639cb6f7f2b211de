from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signaling.auth import OriginGuard, TokenGuard, check_token, redact, token_subprotocol
from splitrtc_errors import BadArgument

TOKEN = "correct-horse/battery=staple"
TOKENS = st.from_regex(r"[!-~]{1,40}", fullmatch=True)
GUARD = TokenGuard(TOKEN)


@given(TOKENS)
def test_a_token_passes_in_both_forms(token: str) -> None:
    guard = TokenGuard(token)
    assert guard.admits(f"Bearer {token}", None)
    assert guard.admits(None, token_subprotocol(token))
    assert guard.admits(None, f"3gpp.SWAP.v1, {token_subprotocol(token)}")


@given(TOKENS, TOKENS)
def test_another_token_does_not(token: str, other: str) -> None:
    assert TokenGuard(token).admits(f"Bearer {other}", token_subprotocol(other)) is (token == other)


@given(st.none() | st.text(), st.none() | st.text())
@example("Bearer \udcff\ud800", None)
def test_whatever_stands_in_the_headers_is_no_token(authorization: str | None, subprotocols: str | None) -> None:
    assert not GUARD.admits(authorization, subprotocols)
    assert TokenGuard(None).admits(authorization, subprotocols)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_ignores_case(scheme: str) -> None:
    assert GUARD.admits(f"{scheme}  {TOKEN} ", None)


@pytest.mark.parametrize(
    ("authorization", "subprotocols"),
    [
        (None, None),
        ("", ""),
        (TOKEN, None),
        ("Bearer", None),
        ("Bearer ", None),
        (f"Basic {TOKEN}", None),
        (f"Bearer {TOKEN} {TOKEN}", None),
        (f"Bearer {TOKEN[:-1]}", None),
        (None, TOKEN),
        (None, "splitrtc.token."),
        (None, f"splitrtc.token.{TOKEN}"),
        (None, token_subprotocol(TOKEN) + "=="),
        (None, "splitrtc.token.AAAAA"),
        (None, token_subprotocol("other") + "," + token_subprotocol(TOKEN)),
    ],
)
def test_nearly_is_not_enough(authorization: str | None, subprotocols: str | None) -> None:
    assert not GUARD.admits(authorization, subprotocols)


def test_the_header_counts_before_the_subprotocol() -> None:
    assert not GUARD.admits("Bearer wrong", token_subprotocol(TOKEN))


def test_the_subprotocol_is_a_token_of_http() -> None:
    assert token_subprotocol("a") == "splitrtc.token.YQ"
    encoded = token_subprotocol(TOKEN).removeprefix("splitrtc.token.")
    assert base64.urlsafe_b64decode(encoded + "==").decode() == TOKEN
    assert set(encoded).isdisjoint("=/+")


@pytest.mark.parametrize("token", ["", "two words", "tab\t", "line\n", "Ä", "x" * 1_025])
def test_a_token_is_visible_ascii(token: str) -> None:
    for use in (check_token, TokenGuard, token_subprotocol):
        with pytest.raises(BadArgument, match="visible ASCII") as raised:
            use(token)
        assert not token or token not in str(raised.value)


def test_the_guard_does_not_hold_the_token() -> None:
    assert TOKEN not in repr(vars(GUARD))


@given(TOKENS.filter(lambda token: len(token) > 8 and not set(token) & set(",;'\"")))
def test_tokens_are_redacted(token: str) -> None:
    text = f"GET / Authorization: Bearer {token} Sec-WebSocket-Protocol: 3gpp.SWAP.v1,{token_subprotocol(token)}"
    assert redact(text) == "GET / Authorization: Bearer *** Sec-WebSocket-Protocol: 3gpp.SWAP.v1,splitrtc.token.***"


def test_other_text_is_left_alone() -> None:
    assert redact("the bearer-token was wrong") == "the bearer-token was wrong"


# Web pages, where there is no token.

PAGES = OriginGuard(["https://App.example", "http://127.0.0.1:8000", "null"])


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "127.0.0.1:8787"),  # no browser
        (None, None),
        ("https://app.example", "127.0.0.1:8787"),
        ("HTTPS://APP.EXAMPLE", None),
        ("http://127.0.0.1:8000", "127.0.0.1:8787"),
        ("null", "127.0.0.1:8787"),
        ("http://127.0.0.1:8787", "127.0.0.1:8787"),  # the edge's own
        ("https://localhost:8787", "LOCALHOST:8787"),
        ("http://[::1]:8787", "[::1]:8787"),
        ("http://127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_page_that_may_connect(origin: str | None, host: str | None) -> None:
    assert PAGES.admits(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "127.0.0.1:8787"),
        ("http://127.0.0.1:9999", "127.0.0.1:8787"),
        ("http://evil.example:8787", "evil.example:8787"),  # a name that was made to lead here
        ("http://192.0.2.7:8787", "192.0.2.7:8787"),
        ("http://app.example", "127.0.0.1:8787"),
        ("https://app.example.evil", "127.0.0.1:8787"),
        ("", "127.0.0.1:8787"),
        ("http://", ""),
        ("http://", None),
        ("http://[::1:8787", "[::1:8787"),
        ("ftp://127.0.0.1:8787", "127.0.0.1:8787"),
    ],
)
def test_a_page_that_may_not(origin: str | None, host: str | None) -> None:
    assert not PAGES.admits(origin, host)


@given(st.text(), st.none() | st.text())
def test_whatever_stands_in_the_headers_is_no_page(origin: str, host: str | None) -> None:
    assert not OriginGuard().admits(origin, host)


@pytest.mark.parametrize("origin", ["", "*", "app.example", "https://app.example/", "https://app.example/x", "a b"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(BadArgument, match="expected SCHEME://HOST"):
        OriginGuard([origin])
