from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models import Zoo
from pipeline.settings import EdgeSettings
from splitrtc_errors import BadArgument, MissingDependency, SinkError

Call = Callable[..., Any]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[EdgeSettings, Path | None]]:
    """With what settings an edge was started, instead of starting it."""
    asked: list[tuple[EdgeSettings, Path | None]] = []

    async def serve(settings: EdgeSettings, ready_file: Path | None) -> dict[str, Any]:
        asked.append((settings, ready_file))
        return {"url": "ws://127.0.0.1:1", "ok": 7}

    monkeypatch.setattr("pipeline.edge.serve_until_stopped", serve)
    return asked


def test_the_defaults_are_those_of_the_settings(splitrtc: Call, served: list[object]) -> None:
    done = splitrtc("edge")
    assert (done.exit_code, done.out, done.err) == (0, "", "")
    assert served == [(EdgeSettings(), None)]


def test_every_flag_reaches_its_setting(splitrtc: Call, served: list[object], tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("secret\n")
    words = (
        f"--listen 0.0.0.0:1 --token-file {token_file} --cert c.pem --key k.pem --max-sessions 3 --provider cpu "
        "--threads 2 --workers 4 --bind 192.0.2.1 --ice-server stun:a --ice-server stun:b --models x --models y "
        "--ready-file r --allow-origin https://a.example --allow-origin null"
    )
    assert splitrtc("edge", *words.split()).exit_code == 0
    expected = EdgeSettings(
        "0.0.0.0:1",
        token="secret",
        cert=Path("c.pem"),
        key=Path("k.pem"),
        max_sessions=3,
        provider="cpu",
        threads=2,
        workers=4,
        bind="192.0.2.1",
        ice_servers=("stun:a", "stun:b"),
        models=(Path("x"), Path("y")),
        allow_origins=("https://a.example", "null"),
    )
    assert served == [(expected, Path("r"))]


def test_models_are_named_by_name_or_by_url(splitrtc: Call, served: list[Any], tiny_model: Path) -> None:
    digest = Zoo([tiny_model]).get("tiny").digest.removeprefix("sha-256:")
    url = f"https://example.org/any.onnx#sha-256={digest}"  # not asked, as the file is here
    folder = ("--models", str(tiny_model))
    assert splitrtc("edge", "--model", url, "--model", Zoo().get().name, *folder).exit_code == 0
    ((settings, _),) = served
    assert settings.model == ("tiny", Zoo().get().name)


def test_the_environment_stands_in_for_flags_which_win(
    splitrtc: Call, served: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "LISTEN": "0.0.0.0:1",
        "TOKEN": "secret",
        "SELF_SIGNED": "1",
        "MAX_SESSIONS": "3",
        "ICE_SERVER": "stun:a stun:b",
        "MODELS": f"x{os.pathsep}y",
        "PROVIDER": "cuda",
    }.items():
        monkeypatch.setenv(f"SPLITRTC_{name}", value)
    splitrtc("edge", "--provider", "cpu")
    expected = EdgeSettings(
        "0.0.0.0:1",
        token="secret",
        self_signed=True,
        max_sessions=3,
        provider="cpu",
        ice_servers=("stun:a", "stun:b"),
        models=(Path("x"), Path("y")),
    )
    assert served == [(expected, None)]


@pytest.mark.parametrize("flags", [[], ["--debug"]])
def test_json_is_all_there_is_on_stdout(splitrtc: Call, served: list[object], flags: list[str]) -> None:
    assert splitrtc("edge", "--json", *flags).json == {"url": "ws://127.0.0.1:1", "ok": 7}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--listen nonsense", "expected HOST:PORT"),
        ("--listen 0.0.0.0:8787", "--token or --token-file"),
        ("--token a --token-file b", "either --token or --token-file"),
        ("--token-file /nowhere", "cannot read the token"),
        ("--cert c.pem", "--cert and --key go together"),
        ("--cert c.pem --key k.pem --self-signed", "either"),
        ("--cert /nowhere.pem --key k.pem", "nowhere.pem"),
        ("--max-sessions 0", "max-sessions"),
        ("--models /nowhere", "no model in /nowhere"),
        ("--model http://example.org/a.onnx", "expected https://HOST/PATH#sha-256="),
        ("--listen 192.0.2.1:8787 --token t", "cannot listen on"),
        ("--listen 127.0.0.1:0 --token a\u00e9", "visible ASCII"),
    ],
)
def test_what_cannot_be_is_told(splitrtc: Call, words: str, message: str) -> None:
    done = splitrtc("edge", *words.split())
    assert (done.exit_code, done.out) == (BadArgument.exit_code, "")
    assert message in done.error


def test_a_port_that_is_taken_is_told(splitrtc: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = splitrtc("edge", "--listen", f"127.0.0.1:{port}")
    assert done.exit_code == BadArgument.exit_code
    assert f"cannot listen on port {port}" in done.error


def test_a_missing_runtime_is_told(splitrtc: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = splitrtc("edge", "--listen", "127.0.0.1:0")
    assert done.exit_code == MissingDependency.exit_code
    assert "pip install 'splitrtc[cpu]'" in done.error


def test_a_ready_file_that_cannot_be_written_is_told(splitrtc: Call) -> None:
    done = splitrtc("edge", "--listen", "127.0.0.1:0", "--ready-file", "/nowhere/ready")
    assert done.exit_code == SinkError.exit_code
    assert "/nowhere/ready" in done.error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_with_its_summary(number: signal.Signals) -> None:
    """Its log is on stderr, one JSON object a line; its summary is all there is on stdout."""
    words = [sys.executable, "-m", "splitrtc", "edge", "--listen", "127.0.0.1:0", "--self-signed", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "SPLITRTC_TOKEN"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as edge:
        assert edge.stderr is not None
        watchdog = threading.Timer(60, edge.kill)
        watchdog.start()
        try:
            log: list[dict[str, str]] = []
            while not log or not log[-1]["message"].startswith("edge ready: wss://127.0.0.1:"):
                log.append(json.loads(edge.stderr.readline()))
            edge.send_signal(number)
            out, rest = edge.communicate(timeout=30)
        finally:
            watchdog.cancel()
            edge.kill()
    assert edge.returncode == 0
    assert json.loads(out)["url"] == log[-1]["message"].removeprefix("edge ready: ")
    messages = [entry["message"] for entry in log + [json.loads(line) for line in rest.splitlines()]]
    assert any("--fingerprint " in message for message in messages)
