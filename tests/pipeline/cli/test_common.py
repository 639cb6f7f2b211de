from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipeline.cli.common import MAX_TOKEN_FILE, Group, echo_json, option, read_token, run_async
from splitrtc_errors import BadArgument


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return tmp_path / "token"


def test_a_token_is_given_or_read_or_absent(token_file: Path) -> None:
    token_file.write_text("  secret \nsecond line\n")
    assert read_token(None, None) is None
    assert read_token("given", None) == "given"
    assert read_token(None, token_file) == "secret"


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_end_of_a_line_is_no_part_of_the_token(token_file: Path, ending: str) -> None:
    token_file.write_bytes(f"secret{ending}".encode())
    assert read_token(None, token_file) == "secret"


def test_a_token_comes_from_one_place(token_file: Path) -> None:
    token_file.write_text("secret")
    with pytest.raises(BadArgument, match="either"):
        read_token("other", token_file)


@pytest.mark.parametrize("content", [b"", b"\n", b"   \nsecret\n"])
def test_a_file_without_a_token_is_told(token_file: Path, content: bytes) -> None:
    token_file.write_bytes(content)
    with pytest.raises(BadArgument, match="first line"):
        read_token(None, token_file)


def test_a_token_is_never_cut_short(token_file: Path) -> None:
    token_file.write_text("x" * (MAX_TOKEN_FILE + 1))
    with pytest.raises(BadArgument, match="first line"):
        read_token(None, token_file)
    token_file.write_text("x" * (MAX_TOKEN_FILE - 1))
    assert read_token(None, token_file) == "x" * (MAX_TOKEN_FILE - 1)


def test_a_file_that_is_no_text_is_told_without_its_content(token_file: Path) -> None:
    token_file.write_bytes(b"secret\xff")
    with pytest.raises(BadArgument, match="expected text") as caught:
        read_token(None, token_file)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadArgument, match="cannot read the token from .*directory"):
        read_token(None, tmp_path / name)


def test_json_is_one_line_whatever_the_encoding_of_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "größe\udcff\n", "numbers": [1, 2.5, None]}
    echo_json(value)
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.count("\n") == 1
    assert json.loads(out) == value


def test_what_json_cannot_say_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        echo_json(float("nan"))
    assert capsys.readouterr().out == ""


def test_an_option_has_its_environment_variable_and_shows_its_default() -> None:
    @click.command()
    @option("-n", "--max-sessions", "sessions", type=int, default=7, help="How many.")
    @option("--quiet/--loud", default=False, help="How.")
    def command(sessions: int, quiet: bool) -> None:
        """Nothing."""

    sessions, quiet = command.params
    assert isinstance(sessions, click.Option)
    assert (sessions.envvar, sessions.show_default) == ("SPLITRTC_MAX_SESSIONS", True)
    assert isinstance(quiet, click.Option)
    assert (quiet.envvar, quiet.show_default) == ("SPLITRTC_QUIET", None)


def test_a_group_imports_a_command_only_when_it_is_called(tmp_path: Path) -> None:
    group = Group(commands={"absent": "no.such.module:command"})
    context = click.Context(group)
    assert group.list_commands(context) == ["absent"]
    assert group.get_command(context, "other") is None
    with pytest.raises(ModuleNotFoundError):
        group.get_command(context, "absent")


def test_a_coroutine_is_run_with_or_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert run_async(main()).startswith("asyncio")
    monkeypatch.undo()
    pytest.importorskip("uvloop")
    assert run_async(main()).startswith("uvloop")


@pytest.mark.parametrize(
    ("flags", "environment", "token"),
    [
        (["--token-file"], {"SPLITRTC_TOKEN": "other"}, "secret"),
        (["--token", "given"], {"SPLITRTC_TOKEN_FILE": "file"}, "given"),
    ],
)
def test_a_flag_counts_more_than_the_environment(
    token_file: Path, flags: list[str], environment: dict[str, str], token: str
) -> None:
    @click.command()
    @option("--token")
    @option("--token-file", type=click.Path(path_type=Path))
    def command(token: str | None, token_file: Path | None) -> None:
        click.echo(read_token(token, token_file))

    token_file.write_text("secret")
    words = [*flags, str(token_file)] if flags[-1] == "--token-file" else flags
    variables = {name: str(token_file) if value == "file" else value for name, value in environment.items()}
    assert CliRunner().invoke(command, words, env=variables).output.strip() == token
