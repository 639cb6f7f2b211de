from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from pipeline.logs import CHATTY, JsonFormatter, configure


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The log belongs to the whole process: give it back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


Capture = pytest.CaptureFixture[str]


def lines(capsys: Capture) -> list[dict[str, object]]:
    """What was written to stderr since the last time."""
    text = capsys.readouterr().err
    assert text.isascii()
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_is_one_json_object(capsys: Capture) -> None:
    configure()
    logging.getLogger("pipeline.edge").warning("two\nlines of %s", "größe")
    (line,) = lines(capsys)
    assert (line["level"], line["logger"], line["message"]) == ("warning", "pipeline.edge", "two\nlines of größe")
    assert isinstance(line["time"], float)
    assert set(line) == {"time", "level", "logger", "message"}


def test_an_error_comes_with_its_traceback(capsys: Capture) -> None:
    configure()
    try:
        raise ValueError("no good")
    except ValueError:
        logging.getLogger("x").exception("failed")
    (line,) = lines(capsys)
    assert line["error"] == "ValueError('no good')"
    assert "test_an_error_comes_with_its_traceback" in str(line["traceback"])


def test_there_may_be_no_error_where_one_is_asked_for() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "hm", (), (None, None, None))
    assert set(json.loads(JsonFormatter().format(record))) == {"time", "level", "logger", "message"}


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_counts(capsys: Capture, level: str, shown: int) -> None:
    configure(level)
    logger = logging.getLogger("pipeline")
    for say in (logger.debug, logger.info, logger.warning, logger.error):
        say("said")
    assert len(lines(capsys)) == shown


@pytest.mark.parametrize("name", ["aioice.ice", "aiortc.rtcpeerconnection", "aiohttp.access", "asyncio"])
def test_libraries_talk_of_addresses_only_when_debugging(capsys: Capture, name: str) -> None:
    configure("debug")
    logging.getLogger(name).info("candidate 192.0.2.1")
    assert lines(capsys) == []
    configure("error", debug=True)
    logging.getLogger(name).debug("candidate 192.0.2.1")
    assert len(lines(capsys)) == 1


def test_configuring_again_says_nothing_twice(capsys: Capture) -> None:
    configure()
    configure()
    logging.getLogger("x").info("once")
    assert len(lines(capsys)) == 1


def test_a_terminal_gets_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    configure()
    logging.getLogger("x").warning("edge ready")
    assert terminal.getvalue().endswith(" WARNING edge ready\n")
