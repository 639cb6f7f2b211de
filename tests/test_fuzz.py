"""Every parser survives some thousands of hostile inputs; `make fuzz` gives each a million."""

from __future__ import annotations

import mmap
import signal
from itertools import islice

import pytest

from benchmarks import fuzz
from benchmarks.fuzz_targets import Target, targets
from splitrtc_errors import ProtocolError

INPUTS = 2_000
TARGETS = targets()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_parser_survives(target: Target) -> None:
    outcome = fuzz.run(target, INPUTS)
    assert outcome.failures == []
    assert 0 < outcome.accepted <= outcome.inputs == INPUTS  # some inputs get past the first check


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_parser_takes_what_is_good(target: Target) -> None:
    for data in target.good:
        target.read(data)


def test_inputs_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    target = TARGETS[0]
    first = list(islice(fuzz.mutations(target, 1), 100))
    assert first == list(islice(fuzz.mutations(target, 1), 100))
    assert first != list(islice(fuzz.mutations(target, 2), 100))
    assert len(set(first)) > 90


def broken(read: object) -> Target:
    return Target("broken", read, [b"good"], (ProtocolError,))  # type: ignore[arg-type]


def test_what_is_not_declared_is_found() -> None:
    def read(data: bytes) -> None:
        if len(data) > 4:
            raise IndexError("beyond the end")
        raise ProtocolError("not good")

    outcome = fuzz.run(broken(read), 1000)
    assert len(outcome.failures) == 10
    assert outcome.failures[0].startswith("IndexError: beyond the end from ")


def test_a_slow_input_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS_PER_INPUT", 0.01)

    def read(data: bytes) -> None:
        if data.startswith(b"good"):
            sum(range(2_000_000))

    outcome = fuzz.run(broken(read), 100)
    assert outcome.failures
    assert " s for 676f6f64" in outcome.failures[0]


def test_a_hang_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "HANG_SECONDS", 0.05)

    def read(data: bytes) -> None:
        while data:
            pass

    outcome = fuzz.run(broken(read), 100, max_failures=1)
    assert outcome.failures[0].startswith("Hang: still busy")
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_growth_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def keep(_: bytes) -> None:
        memory = mmap.mmap(-1, 100_000)  # from the system: the heap of a long test run may have as much to spare
        memory.write(b"x" * 100_000)
        kept.append(memory)

    outcome = fuzz.run(broken(keep), 1000)
    assert "memory grew" in outcome.failures[0]
    assert outcome.growth_mb > 50


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        fuzz.main(["--inputs", "50", "unit", "ai-split"])
    assert left.value.code == 0
    assert "unit" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        fuzz.main(["--inputs", "50", "--json", "unit"])
    assert '"inputs": 50' in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        fuzz.main(["nothing"])
    assert left.value.code == 2
