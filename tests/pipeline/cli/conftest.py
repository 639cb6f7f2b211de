"""What every test of the command line gets: an environment without flags, and a log that is given back as it was."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.cli import run
from pipeline.logs import CHATTY


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("SPLITRTC_") and name != "SPLITRTC_CACHE":
            monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


class Done:
    """How a command ended, and what it wrote."""

    def __init__(self, exit_code: int, out: str, err: str) -> None:
        self.exit_code = exit_code
        self.out = out
        self.err = err

    @property
    def error(self) -> str:
        """The error: the only line on stderr that is not log."""
        (line,) = [line for line in self.err.splitlines() if not line.startswith("{")]
        assert line.startswith("splitrtc: ")
        return line.removeprefix("splitrtc: ")

    @property
    def json(self) -> Any:
        """The one JSON value on stdout."""
        return json.loads(self.out)


@pytest.fixture
def splitrtc(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """A function that runs the command line in this process."""

    def call(*words: str) -> Done:
        capfd.readouterr()
        return Done(run(words), *capfd.readouterr())

    return call
