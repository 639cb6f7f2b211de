from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from pipeline.settings import EdgeOptions, EdgeSettings, UeOptions, UeSettings, ice_server
from splitrtc_errors import BadArgument, UnknownModel

NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "url", "login"),
    [
        ("stun:stun.example", "stun:stun.example", (None, None)),
        ("stun:192.0.2.1:3478", "stun:192.0.2.1:3478", (None, None)),
        ("turn:me:secret@turn.example", "turn:turn.example", ("me", "secret")),
        ("turns:me:s:e@c@t@turn.example:443?transport=tcp", "turns:turn.example:443?transport=tcp", ("me", "s:e@c@t")),
    ],
)
def test_an_ice_server_is_read(text: str, url: str, login: tuple[str | None, str | None]) -> None:
    server = ice_server(text)
    assert server.url == url
    assert (server.username, server.credential) == login


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stun:",
        "stun:user@stun.example",
        "stun:user:hunter2@stun.example",
        "stun:stun.example:port",
        "turn:turn.example",
        "turn:user@turn.example",
        "turn:user:@turn.example",
        "turn::hunter2@turn.example",
        "turn:user:hunter2@",
        "turn:user:hunter2@turn.example?transport=pigeon",
        "http://user:hunter2@turn.example",
    ],
)
def test_an_ice_server_that_is_none_is_refused_without_telling_its_password(text: str) -> None:
    with pytest.raises(BadArgument, match="ICE server: expected") as caught:
        ice_server(text)
    assert "hunter2" not in str(caught.value)


def test_the_defaults_are_what_a_newcomer_needs() -> None:
    assert EdgeSettings().listen == "127.0.0.1:8787"
    assert UeSettings("ws://gpu-box:8787").provider == "auto"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"fps": 0}, "fps"),
        ({"fps": -1}, "fps"),
        ({"fps": 1001}, "fps"),
        ({"fps": 0.0001}, "fps"),  # would be 0 in an ai-split line
        ({"fps": NAN}, "fps"),
        ({"budget": 0}, "budget"),
        ({"budget": 61}, "budget"),
        ({"budget": NAN}, "budget"),
        ({"mode": "cloud"}, "mode: expected auto, local, split, remote, got 'cloud'"),
        ({"privacy": "some"}, "privacy: expected any, no-pictures, got 'some'"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": NAN}, "timeout"),
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": 1.1}, "threshold"),
        ({"threshold": NAN}, "threshold"),
        ({"threads": 0}, "threads"),
        ({"threads": 10**12}, "threads"),
        ({"privacy": "some"}, "privacy: expected any, no-pictures"),
        ({"mode": "remote", "privacy": "no-pictures"}, "sends the picture"),
        ({"bind": "gpu-box"}, "bind: expected an IP address"),
        ({"bind": "0.0.0.0"}, "bind: expected one address"),
        ({"bind": "::"}, "bind: expected one address"),
        ({"ice_servers": ("stun:ok.example", "nonsense")}, "ICE server"),
    ],
)
def test_a_ue_is_not_told_what_cannot_be(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        UeSettings("ws://gpu-box:8787", **setting)


@pytest.mark.parametrize(
    "setting",
    [
        {"fps": 0.001},
        {"fps": 1000},
        {"budget": 0.001},
        {"budget": 60},
        {"threshold": 0},
        {"threshold": 1},
        {"bind": "192.0.2.1"},
        {"bind": "fe80::1"},
    ],
)
def test_limits_are_allowed(setting: dict[str, Any]) -> None:
    UeSettings("ws://gpu-box:8787", **setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"listen": "0.0.0.0:8787"}, "token"),
        ({"listen": "[::]:8787"}, "token"),
        ({"listen": "gpu-box:8787"}, "token"),
        ({"listen": "8787"}, "listen"),
        ({"token": ""}, "token"),
        ({"listen": "0.0.0.0:8787", "token": ""}, "token"),
        ({"cert": Path("cert.pem")}, "--cert and --key"),
        ({"key": Path("key.pem")}, "--cert and --key"),
        ({"cert": Path("cert.pem"), "key": Path("key.pem"), "self_signed": True}, "either"),
        ({"max_sessions": 0}, "max-sessions"),
        ({"threads": 0}, "threads"),
        ({"workers": 0}, "workers"),
        ({"time_limit": 0}, "time-limit"),
        ({"time_limit": 3601}, "time-limit"),
        ({"time_limit": NAN}, "time-limit"),
        ({"drain_time": -1}, "drain-time"),
        ({"drain_time": 3601}, "drain-time"),
        ({"drain_time": NAN}, "drain-time"),
        ({"connect_rate": 0}, "connect-rate"),
        ({"allow_origins": ("app.example",)}, "origin"),
        ({"connect_rate": 1e7}, "connect-rate"),
        ({"connect_rate": NAN}, "connect-rate"),
        ({"bind": "::"}, "bind"),
        ({"bind": "everywhere"}, "bind"),
        ({"ice_servers": ("stun:",)}, "ICE server"),
    ],
)
def test_an_edge_is_not_told_what_cannot_be(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        EdgeSettings(**setting)


def test_an_edge_for_others_wants_a_token() -> None:
    EdgeSettings("0.0.0.0:8787", token="secret", ice_servers=("stun:stun.example",), workers=2)
    EdgeSettings("0.0.0.0:8787", token="secret", cert=Path("cert.pem"), key=Path("key.pem"))
    EdgeSettings("localhost:0", self_signed=True)


@pytest.mark.parametrize(
    ("url", "bind"),
    [
        ("ws://127.0.0.1:8787", "127.0.0.1"),
        ("wss://localhost", "127.0.0.1"),
        ("localhost:8787", "127.0.0.1"),
        ("ws://[::1]:8787", "::1"),
        ("ws://gpu-box:8787", None),
        ("192.0.2.1:8787", None),
        ("", None),
    ],
)
def test_media_of_a_local_edge_stay_on_loopback(url: str, bind: str | None) -> None:
    assert UeSettings(url).media_bind == bind
    assert UeSettings(url, bind="192.0.2.7").media_bind == "192.0.2.7"


@pytest.mark.parametrize(
    ("listen", "bind"),
    [("127.0.0.1:0", "127.0.0.1"), ("localhost:0", "127.0.0.1"), ("[::1]:0", "::1"), ("0.0.0.0:0", None)],
)
def test_an_edge_on_loopback_has_its_media_there(listen: str, bind: str | None) -> None:
    assert EdgeSettings(listen, token="secret").media_bind == bind
    assert EdgeSettings(listen, token="secret", bind="192.0.2.7").media_bind == "192.0.2.7"


@pytest.mark.parametrize(
    "settings",
    [
        UeSettings("ws://gpu-box", token="hunter2", ice_servers=("turn:u:hunter2@turn.example",)),
        EdgeSettings(token="hunter2", ice_servers=("turn:u:hunter2@turn.example",)),
    ],
)
def test_secrets_are_not_shown(settings: UeSettings | EdgeSettings) -> None:
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(("settings", "options"), [(UeSettings, UeOptions), (EdgeSettings, EdgeOptions)])
def test_the_keyword_arguments_are_the_settings(settings: Any, options: Any) -> None:
    """The facade's keyword arguments are typed twice; these must not drift apart."""
    positional, *named = fields(settings)
    assert positional.name in ("url", "listen")
    hints = get_type_hints(settings)
    assert get_type_hints(options) == {field.name: hints[field.name] for field in named}
    assert all(field.default is not MISSING for field in named)


def test_settings_load_no_network_library() -> None:
    code = "import sys, pipeline.settings as s; s.UeSettings('ws://x'); sys.exit('aiortc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_link_is_checked_at_once() -> None:
    assert UeSettings("ws://localhost:8787", link="rtt=40,loss=1%,rate=5M").link is not None
    with pytest.raises(BadArgument, match="rate=fast"):
        UeSettings("ws://localhost:8787", link="rate=fast")


def test_a_link_stands_on_one_address() -> None:
    with pytest.raises(BadArgument, match="give --bind"):
        UeSettings("ws://gpu-box:8787", link="rtt=40")
    assert UeSettings("ws://gpu-box:8787", link="rtt=40", bind="192.0.2.7").media_bind == "192.0.2.7"


def test_video_is_a_profile_that_an_edge_may_accept() -> None:
    assert EdgeSettings(accept=("video", "q8-zstd")).accept == ("video", "q8-zstd")
    with pytest.raises(UnknownModel):  # it takes no parameters
        EdgeSettings(accept=("video:rate=1",))


def test_further_edges_come_after_the_first() -> None:
    settings = UeSettings("ws://one", edges=("127.0.0.1:2", "ws://three"))
    assert settings.urls == ("ws://one", "127.0.0.1:2", "ws://three")
    assert [settings.media_bind_to(url) for url in settings.urls] == [None, "127.0.0.1", None]


@pytest.mark.parametrize(("mode", "reconnect"), [("auto", False), ("split", True), ("auto", True)])
def test_who_goes_on_trying(mode: str, reconnect: bool) -> None:
    assert UeSettings("ws://one", mode=mode, reconnect=reconnect).keeps_trying
    assert not UeSettings("ws://one").keeps_trying
