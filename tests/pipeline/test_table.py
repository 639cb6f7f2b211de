from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from pipeline import table
from pipeline.outcome import FrameResult
from pipeline.summary import STAGES, Summary
from pipeline.table import LiveTable, summary_table

Make = Callable[..., FrameResult]


DESCRIBED = {"mode": "split", "reason": "connected", "model": "m", "partition": "p", "profile": "q8"}


def figures_of(summary: Summary, **told: Any) -> dict[str, Any]:
    return {**DESCRIBED, **summary.to_json(), **told}


def text_of(summary: Summary, **told: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as capture:
        console.print(summary_table(figures_of(summary, **told)))
    return capture.get()


def row(text: str, name: str) -> list[str]:
    """The cells of the row that begins with a name."""
    (line,) = [line for line in text.splitlines() if line.strip("│┃ ").startswith(name)]
    return line.replace("│", " ").split()


def test_every_stage_has_a_row(make_result: Make) -> None:
    summary = Summary()
    summary.add(make_result())
    text = text_of(summary)
    for stage in STAGES:
        assert row(text, stage) == ([stage, *["4.0"] * 3] if stage == "head" else [stage, "-", "-", "-"])
    assert row(text, "total") == ["total", "20.0", "20.0", "20.0"]
    assert row(text, "overhead") == ["overhead", "-", "-", "-"]


def test_it_says_what_became_of_the_frames(make_result: Make) -> None:
    summary = Summary()
    summary.add(make_result())
    assert "dropped" not in text_of(summary)
    summary.add(replace(make_result(answered=False), dropped_at="network"))
    text = " ".join(text_of(summary).split())
    assert "1 of 2 frames answered, 1 boxes, 9.0 kB a frame" in text
    assert "dropped at network: 1" in text


def test_it_says_how_the_session_and_the_source_held() -> None:
    console = Console(file=io.StringIO(), width=200)

    def shown(**told: Any) -> str:
        with console.capture() as capture:
            console.print(summary_table(figures_of(Summary(), **told)))
        return capture.get()

    steady = shown(reconnects=0, disconnected_s=0.0, disconnected=None, source_reopened=0)
    assert not [word for word in ("reconnects", "session", "source") if word in steady]
    text = shown(reconnects=2, disconnected_s=3.25, disconnected="nobody there", source_reopened=1)
    assert "; reconnects: 2, without a session for 3.2 s; source opened again: 1" in text
    assert "no session: nobody there; trying again" in text


def test_it_says_what_is_known_of_the_link() -> None:
    console = Console(file=io.StringIO(), width=120)

    def shown(seen: dict[str, float]) -> str:
        with console.capture() as capture:
            console.print(summary_table(figures_of(Summary(), link_statistics=seen)))
        return " ".join(capture.get().split())

    assert "link: goodput 0.00 Mbit/s" in shown({"goodput": 0.0})
    known = {"goodput": 2.16e6, "slice_loss": 0.012, "network_p50": 0.0421, "age_p50": 0.0612, "age_p95": 0.08}
    line = "link: goodput 2.16 Mbit/s, slices lost 1.2 %, network 42.1 ms, age 61.2 ms, p95 80.0 ms"
    assert line in shown(known)
    assert "link:" not in text_of(Summary())


def test_brackets_in_a_title_are_no_markup() -> None:
    text = " ".join(text_of(Summary(), partition="[bold]x", reason="cut [/red]").split())
    assert "split: m at [bold]x, q8 (cut [/red])" in text


def test_it_says_who_answered(make_result: Make) -> None:
    summary = Summary()
    assert "answered by" not in text_of(summary, mode_switches=0)
    for completed, mode in ((1.0, "split"), (1.75, "local"), (1.8, "local")):
        summary.add(replace(make_result(), completed=completed, mode=mode))
    text = " ".join(text_of(summary, mode="local", partition=None, reason="no result", mode_switches=1).split())
    assert "local: m (no result)" in text
    assert "answered by local: 2, split: 1; longest gap between results 0.75 s" in text


def test_the_live_table_shows_the_last_state_on_stderr(
    make_result: Make, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "REFRESH_SECONDS", 0.001)
    summary = Summary()
    with LiveTable(lambda: figures_of(summary)):
        summary.add(make_result())
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "1 of 1 frames answered" in " ".join(shown.err.split())
    assert not [thread for thread in threading.enumerate() if thread.name == "table"]


def test_the_live_table_is_drawn_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "REFRESH_SECONDS", 0.001)
    drawn = threading.Semaphore(0)

    def watched() -> dict[str, Any]:
        drawn.release()
        return figures_of(Summary())

    with LiveTable(watched):
        assert drawn.acquire(timeout=5)
        assert drawn.acquire(timeout=5)


def test_the_live_table_ends_with_its_context_when_that_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        with LiveTable(lambda: figures_of(Summary())):
            raise ZeroDivisionError
    assert not [thread for thread in threading.enumerate() if thread.name == "table"]


def test_a_summary_may_be_read_while_it_grows(make_result: Make) -> None:
    """The table's thread reads, the event loop's writes."""
    summary, stopping, failures = Summary(window=100), threading.Event(), []

    def read() -> None:
        try:
            while not stopping.is_set():
                summary.to_json()
        except Exception as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    results = [replace(make_result(answered=False), dropped_at=f"place {number % 50}") for number in range(50)]
    for number in range(3000):
        summary.add(make_result() if number % 2 else results[number % 50])
    stopping.set()
    reader.join(10)
    assert failures == []
