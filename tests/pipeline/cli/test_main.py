from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest

import splitrtc_errors
from pipeline.cli import INTERRUPTED, UNFORESEEN, cli, main
from splitrtc_errors import SinkError, SplitRtcError

Call = Callable[..., Any]

COMMANDS = ["demo", "edge", "ue", "doctor", "models"]
ERRORS = [kind for kind in vars(splitrtc_errors).values() if isinstance(kind, type) and issubclass(kind, SplitRtcError)]


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def options() -> Iterator[tuple[str, click.Option]]:
    for name in COMMANDS:
        for parameter in command(name).params:
            assert isinstance(parameter, click.Option)
            yield name, parameter


def test_without_a_command_it_helps(splitrtc: Call) -> None:
    done = splitrtc()
    assert done.exit_code == 0
    assert done.out == splitrtc("--help").out == splitrtc("-h").out
    at = [done.out.index(f"\n  {name} ") for name in COMMANDS]
    assert at == sorted(at)  # in the order in which a newcomer needs them


def test_the_version_is_that_of_the_distribution(splitrtc: Call) -> None:
    done = splitrtc("--version")
    assert (done.exit_code, done.out) == (0, f"splitrtc, version {metadata.version('splitrtc')}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_with_examples_and_every_flag(splitrtc: Call, name: str) -> None:
    done = splitrtc(name, "--help")
    assert (done.exit_code, done.err) == (0, "")
    assert f"Usage: splitrtc {name}" in done.out
    assert f"  splitrtc {name}" in done.out.partition("Examples:")[2]
    for parameter in command(name).params:
        assert isinstance(parameter, click.Option)
        assert parameter.help
        assert parameter.opts[0] in done.out
        assert str(parameter.envvar) in done.out


def test_every_flag_has_its_environment_variable() -> None:
    for _, option in options():
        (flag,) = [word for word in option.opts if word.startswith("--")]
        assert option.envvar == "SPLITRTC_" + flag[2:].upper().replace("-", "_")
        assert option.envvar != "SPLITRTC_CACHE"  # which is not a flag


def test_help_and_version_load_no_heavy_library() -> None:
    code = (
        "import sys\nfrom pipeline.cli import run\n"
        "for words in ('--version', '--help', 'ue --help', 'edge --help', 'demo --help'): run(words.split())\n"
        "heavy = {'aiortc', 'aiohttp', 'av', 'cv2', 'onnxruntime', 'onnx', 'numpy', 'matplotlib'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.split() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "No such command 'fly'."),
        (["--fly"], "No such option"),
        (["edge", "--fly"], "No such option"),
        (["edge", "somewhere"], "unexpected extra argument"),
        (["ue"], "no edge: give --edge URL"),
        (["ue", "--edge"], "'--edge' requires an argument"),
        (["ue", "--edge", "x", "--fps", "many"], "'many' is not a valid float"),
        (["ue", "--edge", "x", "--seconds", "0"], "0.0 is not in the range"),
        (["demo", "--seconds", "-1"], "-1.0 is not in the range"),
        (["edge", "--provider", "tpu"], "'tpu' is not one of"),
        (["edge", "--log-level", "loud"], "'loud' is not one of"),
    ],
)
def test_wrong_usage_is_one_line(splitrtc: Call, words: list[str], message: str) -> None:
    done = splitrtc(*words)
    assert (done.exit_code, done.out) == (2, "")
    assert message in done.error


@pytest.fixture
def edge_raises(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """A function that makes `splitrtc edge` raise."""

    def arrange(error: BaseException) -> None:
        async def serve(*_: object) -> None:
            raise error

        monkeypatch.setattr("pipeline.edge.serve_until_stopped", serve)

    return arrange


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_one_line_with_its_exit_code(
    splitrtc: Call, edge_raises: Call, kind: type[SplitRtcError]
) -> None:
    edge_raises(kind("expected this,\n  and that came"))
    done = splitrtc("edge")
    assert (done.exit_code, done.out) == (kind.exit_code, "")
    assert done.error == "expected this, and that came"
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_debug_shows_where_an_error_comes_from(
    splitrtc: Call, edge_raises: Call, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    edge_raises(splitrtc_errors.CutError("not there"))
    if how == "environment":
        monkeypatch.setenv("SPLITRTC_DEBUG", "1")
    done = splitrtc("edge", *(["--debug"] if how == "flag" else []))
    assert done.exit_code == splitrtc_errors.CutError.exit_code
    assert "Traceback (most recent call last)" in done.err
    assert done.err.endswith("\nsplitrtc: not there\n")
    assert done.out == ""


def test_the_value_of_another_flag_is_not_the_debug_flag(splitrtc: Call, edge_raises: Call) -> None:
    edge_raises(splitrtc_errors.CutError("not there"))
    assert splitrtc("edge", "--token=--debug").error == "not there"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.ENOSPC, "No space left on device")])
def test_what_nobody_thought_of_is_one_line_too(splitrtc: Call, edge_raises: Call, error: Exception) -> None:
    edge_raises(error)
    done = splitrtc("edge")
    assert done.exit_code == UNFORESEEN
    assert str(error) in done.error
    assert "--debug" in done.error
    assert "Traceback" in splitrtc("edge", "--debug").err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupted_command_ends_as_shells_expect(
    splitrtc: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr("models.Zoo", interrupted)
    done = splitrtc("models")
    assert (done.exit_code, done.out) == (INTERRUPTED, "")
    assert "Traceback" not in done.err


def test_main_leaves_with_the_exit_code(edge_raises: Call, capsys: pytest.CaptureFixture[str]) -> None:
    edge_raises(splitrtc_errors.EdgeFull("all taken"))
    with pytest.raises(SystemExit) as caught:
        main(["edge"])
    assert caught.value.code == splitrtc_errors.EdgeFull.exit_code
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0


def test_main_reads_the_words_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["splitrtc", "fly"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """As in ``splitrtc models --json | true``."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "splitrtc", "models", "--json"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("redirection", "exit_code", "said"),
    [
        (">/dev/full", SinkError.exit_code, "splitrtc: cannot write standard output: No space left on device\n"),
        (">&-", 0, ""),
        ("<&- >/dev/null", 0, ""),
    ],
)
def test_a_standard_output_that_takes_nothing(redirection: str, exit_code: int, said: str) -> None:
    words = f"{shlex.quote(sys.executable)} -m splitrtc models --json"
    script = f"({words}; echo $? >&3) {redirection}"
    reading, writing = os.pipe()
    with os.fdopen(reading) as code, os.fdopen(writing) as pipe:
        done = subprocess.run(
            ["bash", "-c", f"exec 3>&{pipe.fileno()}; {script}"],
            pass_fds=[pipe.fileno()],
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        pipe.close()
        assert (int(code.read()), done.stderr) == (exit_code, said)
