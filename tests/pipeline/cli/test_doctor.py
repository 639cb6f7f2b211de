from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline import doctor
from pipeline.doctor import Finding

Call = Callable[..., Any]


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, str, str]]]:
    """A function that lays down what is found, and gives what was asked."""

    def arrange(*found: Finding) -> list[tuple[str, str, str]]:
        asked = []

        def examine(camera: str, provider: str, listen: str) -> Iterator[Finding]:
            asked.append((camera, provider, listen))
            yield from found

        monkeypatch.setattr(doctor, "examine", examine)
        return asked

    return arrange


OK = Finding("Python", "ok", "3.11")
NOTE = Finding("display", "note", "none [/dim] here", "set DISPLAY")
WRONG = Finding("runtime", "wrong", "not installed", "pip install 'splitrtc[cpu]'")


def test_every_finding_is_a_line_and_its_advice_another_below_it(splitrtc: Call, findings: Call) -> None:
    findings(OK, NOTE, WRONG)
    done = splitrtc("doctor")
    assert done.out.splitlines() == [
        "ok     Python           3.11",
        "note   display          none [/dim] here",
        "                        set DISPLAY",
        "wrong  runtime          not installed",
        "                        pip install 'splitrtc[cpu]'",
    ]


@pytest.mark.parametrize(("found", "exit_code"), [([], 0), ([OK], 0), ([OK, NOTE], 0), ([WRONG, OK], 1)])
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_only_what_is_wrong_is_a_failure(
    splitrtc: Call, findings: Call, found: list[Finding], exit_code: int, flags: list[str]
) -> None:
    findings(*found)
    assert splitrtc("doctor", *flags).exit_code == exit_code


def test_json_is_all_there_is_on_stdout(splitrtc: Call, findings: Call) -> None:
    findings(OK, NOTE)
    done = splitrtc("doctor", "--json")
    assert done.json == [
        {"subject": "Python", "verdict": "ok", "detail": "3.11", "advice": ""},
        {"subject": "display", "verdict": "note", "detail": "none [/dim] here", "advice": "set DISPLAY"},
    ]
    assert "display" in done.err


def test_flags_and_environment_say_what_to_look_at(
    splitrtc: Call, findings: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = findings()
    monkeypatch.setenv("SPLITRTC_CAMERA", "2")
    splitrtc("doctor", "--provider", "cpu", "--listen", "[::1]:1")
    assert asked == [("2", "cpu", "[::1]:1")]


def test_it_looks_at_this_machine(splitrtc: Call) -> None:
    done = splitrtc(
        "doctor", "--json", "--provider", "cpu", "--camera", "/dev/no-such-camera", "--listen", "127.0.0.1:0"
    )
    verdicts = {finding["subject"]: finding["verdict"] for finding in done.json}
    assert verdicts.pop("display") in ("ok", "note")
    assert verdicts.pop("camera") == "note"
    assert set(verdicts.values()) == {"ok"}
    assert done.exit_code == 0
