from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.fetching import progress_bar
from pipeline.demo import edge_process, start_edge, stop_edge
from pipeline.settings import UeSettings
from pipeline.summary import Summary
from splitrtc_errors import (
    BadArgument,
    MissingDependency,
    ProtocolError,
    SourceError,
    Unauthorized,
    UnknownModel,
    Unreachable,
)

Call = Callable[..., Any]

DESCRIBED = {"mode": "split", "reason": "connected", "model": "m", "partition": "p", "profile": "q4-zstd"}
SUMMARY = {**DESCRIBED, **Summary().to_json()}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a UE was told, instead of starting it."""
    asked: list[dict[str, Any]] = []

    async def play(settings: UeSettings, source: str, **options: Any) -> dict[str, Any]:
        assert options.pop("show") is progress_bar
        asked.append({"settings": settings, "source": source, **options})
        return SUMMARY

    monkeypatch.setattr("pipeline.live.play", play)
    return asked


@pytest.fixture(scope="module")
def edge_url() -> Iterator[str]:
    """An edge in a process of its own, with the token ``secret``."""
    with edge_process("--token", "secret") as url:
        yield url


def test_the_defaults_are_those_of_the_settings(splitrtc: Call, played: list[dict[str, Any]]) -> None:
    done = splitrtc("ue", "--edge", "gpu-box:8787")
    assert (done.exit_code, done.out) == (0, "")
    assert "m at p, q4-zstd" in done.err
    assert played == [
        {
            "settings": UeSettings("gpu-box:8787", mode="auto"),
            "source": "clip",
            "sinks": (),
            "seconds": None,
            "repeat": False,
            "table": False,
        }
    ]


def test_a_terminal_gets_a_live_table_and_no_other(
    splitrtc: Call, played: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = splitrtc("ue", "--edge", "gpu-box:8787")
    assert played[0]["table"] is True
    assert (done.out, done.err) == ("", "")


def test_every_flag_reaches_its_setting(splitrtc: Call, played: list[dict[str, Any]], tiny_model: Path) -> None:
    words = (
        "--edge wss://gpu-box --source 0 --sink a.mp4 --sink - --model tiny --partition p --profile f --fps 10 "
        "--seconds 3 --loop --token t --ca c.pem --fingerprint ab --bind 192.0.2.1 --ice-server stun:a "
        "--provider cpu --threads 2 --budget 0.2 --timeout 3 --threshold 0.7 --mode split --no-fallback "
        "--privacy no-pictures --edge second:1 --reconnect"
    )
    assert splitrtc("ue", *words.split(), "--models", str(tiny_model)).exit_code == 0
    settings = UeSettings(
        "wss://gpu-box",
        model="tiny",
        partition="p",
        profile="f",
        fps=10,
        token="t",
        ca=Path("c.pem"),
        fingerprint="ab",
        bind="192.0.2.1",
        ice_servers=("stun:a",),
        provider="cpu",
        threads=2,
        models=(tiny_model,),
        budget=0.2,
        timeout=3,
        threshold=0.7,
        mode="split",
        fallback=False,
        privacy="no-pictures",
        edges=("second:1",),
        reconnect=True,
    )
    assert played == [
        {"settings": settings, "source": "0", "sinks": ("a.mp4", "-"), "seconds": 3, "repeat": True, "table": False}
    ]


def test_the_environment_stands_in_for_flags_which_win(
    splitrtc: Call, played: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"EDGE": "one:1", "SINK": "a.mp4 b.jsonl", "FPS": "5", "THRESHOLD": "0", "LOOP": "yes"}.items():
        monkeypatch.setenv(f"SPLITRTC_{name}", value)
    splitrtc("ue", "--edge", "other:1")
    (told,) = played
    assert told["settings"] == UeSettings("other:1", fps=5, threshold=0, mode="auto")
    assert (told["sinks"], told["repeat"]) == (("a.mp4", "b.jsonl"), True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--json --sink -", "both want stdout"),
        ("--token a --token-file b", "either --token or --token-file"),
        ("--fps 0", "fps"),
        ("--threshold 2", "threshold"),
        ("--ice-server nonsense", "ICE server"),
        ("--ca a.pem", "certificate"),
        ("--profile Q4!", "profile"),
        ("--mode remote --privacy no-pictures", "no-pictures"),
        ("--models /nowhere", "/nowhere"),
    ],
)
def test_what_cannot_be_is_told(splitrtc: Call, words: str, message: str) -> None:
    done = splitrtc("ue", "--edge", "127.0.0.1:1", *words.split())
    assert (done.exit_code, done.out) == (BadArgument.exit_code, "")
    assert message in done.error


@pytest.mark.parametrize(
    "url", ["", "ftp://gpu-box", "[::1", "ws://user:hunter2@gpu-box", "ws://gpu-box?token=hunter2"]
)
def test_a_url_that_is_none_is_told_without_what_may_be_secret(splitrtc: Call, url: str) -> None:
    done = splitrtc("ue", "--edge", url)
    assert done.exit_code == BadArgument.exit_code
    assert "hunter2" not in done.err


@pytest.mark.parametrize("flag", ["--model", "--partition", "--profile"])
def test_what_neither_zoo_nor_edge_has_is_told(splitrtc: Call, edge_url: str, flag: str) -> None:
    done = splitrtc("ue", "--edge", edge_url, "--token", "secret", flag, "nonsense")
    assert done.exit_code == UnknownModel.exit_code
    assert "the edge" in done.error
    assert "nonsense" in done.error


@pytest.mark.parametrize("flag", ["--model", "--partition", "--profile"])
def test_what_the_zoo_does_not_have_is_told_offline(splitrtc: Call, flag: str) -> None:
    done = splitrtc("ue", "--edge", "127.0.0.1:1", "--offline", flag, "nonsense")
    assert done.exit_code == UnknownModel.exit_code
    assert "nonsense" in done.error


def test_an_edge_that_is_not_there_is_told(splitrtc: Call) -> None:
    done = splitrtc("ue", "--edge", "127.0.0.1:1", "--mode", "split", "--json")
    assert (done.exit_code, done.out) == (Unreachable.exit_code, "")
    assert "127.0.0.1:1" in done.error


def test_without_an_edge_it_goes_on_alone(splitrtc: Call) -> None:
    done = splitrtc("ue", "--edge", "127.0.0.1:1", "--source", "testsrc", "--seconds", "0.3", "--json")
    assert done.exit_code == 0, done.err
    assert (done.json["mode"], done.json["outcomes"].get("ok", 0)) == ("local", done.json["frames_answered"])
    assert done.json["frames_answered"] > 0


def test_local_needs_no_edge_and_all_others_do(splitrtc: Call) -> None:
    done = splitrtc("ue", "--mode", "local", "--source", "testsrc", "--seconds", "0.3", "--json")
    assert done.exit_code == 0, done.err
    assert (done.json["mode"], done.json["bytes_per_frame"]) == ("local", 0)
    assert "link_statistics" not in done.json
    done = splitrtc("ue")
    assert done.exit_code == BadArgument.exit_code
    assert "--mode local" in done.error


def test_a_missing_runtime_is_told(splitrtc: Call, monkeypatch: pytest.MonkeyPatch, edge_url: str) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = splitrtc("ue", "--edge", edge_url, "--token", "secret")
    assert done.exit_code == MissingDependency.exit_code
    assert "pip install 'splitrtc[cpu]'" in done.error


@pytest.mark.parametrize("flags", [[], ["--token", "wrong"]])
def test_a_wrong_token_is_told(splitrtc: Call, edge_url: str, flags: list[str]) -> None:
    done = splitrtc("ue", "--edge", edge_url, *flags)
    assert done.exit_code == Unauthorized.exit_code
    assert "token" in done.error


def test_another_path_of_the_server_is_told(splitrtc: Call, edge_url: str) -> None:
    assert splitrtc("ue", "--edge", f"{edge_url}/elsewhere", "--token", "secret").exit_code == ProtocolError.exit_code


@pytest.mark.parametrize(
    ("flags", "exit_code"),
    [
        (["--source", "/nowhere.mp4"], SourceError.exit_code),
        (["--source", "gopher://"], BadArgument.exit_code),
        (["--sink", "result.xyz"], BadArgument.exit_code),
    ],
)
def test_a_source_or_a_sink_that_is_none_is_told(
    splitrtc: Call, edge_url: str, flags: list[str], exit_code: int
) -> None:
    done = splitrtc("ue", "--edge", edge_url, "--token", "secret", *flags)
    assert (done.exit_code, done.out) == (exit_code, "")
    assert flags[1] in done.error


def test_json_is_all_there_is_on_stdout(splitrtc: Call, edge_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITRTC_TOKEN", "secret")
    done = splitrtc("ue", "--edge", edge_url, "--source", "testsrc", "--seconds", "0.3", "--json")
    assert done.exit_code == 0, done.err
    assert done.json["frames_answered"] > 0
    assert (done.json["source"], done.json["mode"]) == ("testsrc", "split")


def test_lines_on_stdout_leave_the_table_to_stderr(splitrtc: Call, edge_url: str, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("secret\n")
    words = ["--edge", edge_url, "--source", "testsrc", "--seconds", "0.3", "--sink", "-"]
    done = splitrtc("ue", *words, "--token-file", str(token_file))
    assert done.exit_code == 0, done.err
    frames = [json.loads(line) for line in done.out.splitlines()]
    assert [frame for frame in frames if frame["status"] == "ok"]
    assert "frames answered" in " ".join(done.err.split())


def test_ctrl_c_ends_it_as_the_end_of_the_source_does(splitrtc: Call, edge_url: str, tmp_path: Path) -> None:
    lines = tmp_path / "pipe.jsonl"
    os.mkfifo(lines)

    def interrupt_at_the_first_result() -> None:
        with lines.open() as results:
            results.readline()
            os.kill(os.getpid(), signal.SIGINT)
            for _ in results:
                pass

    watcher = threading.Thread(target=interrupt_at_the_first_result)
    watcher.start()
    done = splitrtc(
        "ue", "--edge", edge_url, "--token", "secret", "--source", "testsrc", "--json", "--sink", str(lines)
    )
    watcher.join(10)
    assert done.exit_code == 0, done.err
    assert done.json["frames_answered"] > 0


def test_changes_of_the_mode_are_lines_before_the_summary(splitrtc: Call, unused_tcp_port: int, tmp_path: Path) -> None:
    lines = tmp_path / "pipe.jsonl"
    os.mkfifo(lines)

    def come_late_and_end_it() -> None:
        with lines.open() as results:
            results.readline()
            with running_edge("127.0.0.1", unused_tcp_port):
                for line in results:
                    if json.loads(line)["mode"] == "split":
                        os.kill(os.getpid(), signal.SIGINT)
                        break
                for _ in results:
                    pass

    watcher = threading.Thread(target=come_late_and_end_it)
    watcher.start()
    words = ["--edge", f"127.0.0.1:{unused_tcp_port}", "--source", "testsrc", "--json", "--sink", str(lines)]
    done = splitrtc("ue", *words)
    watcher.join(10)
    assert done.exit_code == 0, done.err
    *changes, summary = map(json.loads, done.out.splitlines())  # on a busy machine the edge may fall silent meanwhile
    change = next(change for change in changes if change["mode"] == "split")
    assert (change["event"], change["point"]["partition"]) == ("mode", "bottleneck_7")
    assert summary["mode"] == changes[-1]["mode"]


@contextlib.contextmanager
def running_edge(host: str, port: int) -> Iterator[None]:
    process, _ = start_edge(f"{host}:{port}")
    try:
        yield
    finally:
        stop_edge(process)
