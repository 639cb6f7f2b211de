from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models import Zoo
from pipeline.demo import edge_process
from pipeline.summary import Summary
from splitrtc_errors import ProcessFailed, SinkError, Unreachable

Call = Callable[..., Any]

DESCRIBED = {"mode": "split", "reason": "connected", "model": "m", "partition": "p", "profile": "q4-zstd"}
SUMMARY = {**DESCRIBED, **Summary().to_json()}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What the demo was asked to play, instead of playing it: see test_demo of the pipeline for that."""
    asked: list[tuple[object, ...]] = []

    def run_demo(*arguments: object, **models: object) -> dict[str, object]:
        asked.append((*arguments, models))
        return SUMMARY

    monkeypatch.setattr("pipeline.demo.run_demo", run_demo)
    return asked


def test_it_plays_the_clip_and_says_where_to_look(splitrtc: Call, played: list[object]) -> None:
    done = splitrtc("demo")
    assert (done.exit_code, done.out) == (0, "")
    assert played == [
        (
            "clip",
            None,
            Path("out"),
            None,
            {"profile": None, "model": None, "models": (), "kill_edge": None, "mode": "auto"},
        )
    ]
    assert "out/latency.png" in done.err
    assert "m at p, q4-zstd" in done.err


def test_flags_and_environment_say_what_to_play(
    splitrtc: Call, played: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPLITRTC_SECONDS", "2.5")
    (tmp_path / "a.onnx").touch()
    name = Zoo().get().name
    of_model = (
        "--model",
        name,
        "--models",
        str(tmp_path),
        "--profile",
        "klt",
        "--kill-edge",
        "1.5",
        "--mode",
        "remote",
    )
    splitrtc("demo", "--source", "0", "--out", str(tmp_path), *of_model)
    assert played == [
        (
            "0",
            2.5,
            tmp_path,
            None,
            {"profile": "klt", "model": name, "models": (tmp_path,), "kill_edge": 1.5, "mode": "remote"},
        )
    ]


def test_a_model_that_may_not_be_fetched_ends_it_before_it_begins(splitrtc: Call, played: list[object]) -> None:
    done = splitrtc("demo", "--model", "yolox_tiny", "--offline")
    assert done.exit_code == Unreachable.exit_code
    assert "yolox_tiny.onnx may not be fetched (--offline)" in done.error
    assert not played


def test_json_is_all_there_is_on_stdout(splitrtc: Call, played: list[object]) -> None:
    assert splitrtc("demo", "--json").json == json.loads(json.dumps(SUMMARY))


@pytest.mark.parametrize(
    ("error", "exit_code"), [(SinkError("cannot"), 5), (ProcessFailed("no", 31), 31), (ProcessFailed("no", -9), 40)]
)
def test_a_failure_is_the_demo_s_failure(
    splitrtc: Call, monkeypatch: pytest.MonkeyPatch, error: Exception, exit_code: int
) -> None:
    def run_demo(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pipeline.demo.run_demo", run_demo)
    done = splitrtc("demo")
    assert done.exit_code == exit_code
    # What the process of that exit code has told already is not told twice.
    assert (f"splitrtc: {error}" in done.err) == (exit_code != 31)


def test_flags_in_the_environment_do_not_reach_its_processes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else the edge's JSON would stand on stdout too, and the UE would not trust the edge's certificate."""
    monkeypatch.setenv("SPLITRTC_JSON", "1")
    monkeypatch.setenv("SPLITRTC_SELF_SIGNED", "1")
    with edge_process() as url:
        assert url.startswith("ws://127.0.0.1:")
    assert capfd.readouterr().out == ""


def test_on_a_terminal_the_table_is_there_already(
    splitrtc: Call, played: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = splitrtc("demo")
    assert played
    assert "m at p" not in done.err
    assert "latency.png" in done.err
