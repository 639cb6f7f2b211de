from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.addresses import is_loopback, parse_listen
from splitrtc_errors import BadArgument


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:8787", ("127.0.0.1", 8787)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("gpu-box.lan:80", ("gpu-box.lan", 80)),
    ],
)
def test_a_listen_address_is_read(listen: str, expected: tuple[str, int]) -> None:
    assert parse_listen(listen) == expected


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "8787",
        ":8787",
        "localhost",
        "localhost:",
        "localhost:65536",
        "localhost:-1",
        "localhost:８７",
        "localhost:" + "1" * 5000,
        "::1",
        "::1:8787",
        "[::1]",
        "[::1]80:80",
        "[:.]:80",
        "http://localhost:80",
        "a b:80",
        "a..b:80",
        "user@host:80",
        "h:1/x",
        "localhost:80\n",
    ],
)
def test_a_listen_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(BadArgument, match=r"expected HOST:PORT"):
        parse_listen(listen)


@given(st.text(max_size=40))
def test_any_text_is_a_listen_address_or_a_bad_argument(text: str) -> None:
    try:
        host, port = parse_listen(text)
    except BadArgument:
        return
    assert host
    assert 0 <= port <= 65535


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.8.9.1", "::1"])
def test_this_machine_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "localhost.example", "127.0.0.1.example", ""])
def test_what_others_can_reach_is_not_this_machine(host: str) -> None:
    assert not is_loopback(host)
