"""The live table of stages on a terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.events import point_text
from pipeline.summary import STAGES

__all__ = ["LiveTable", "summary_table"]

REFRESH_SECONDS = 0.5
"""Drawing takes some milliseconds of the interpreter's time, which frames need too."""


def summary_table(summary: Mapping[str, Any]) -> RenderableType:
    """Stages with p50, p95 and p99, what became of the frames, and the link as far as the answers tell.

    ``summary`` is what `UeSession.describe` and `Summary.to_json` return, perhaps with ``link_statistics``
    (`LinkStatistics.snapshot`).
    """
    table = Table()
    table.add_column("stage")
    for heading in ("p50 ms", "p95 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    rows = {**{stage: summary["latency_ms"][stage] for stage in (*STAGES, "total")}, "overhead": summary["overhead_ms"]}
    for stage, values in rows.items():
        style = "bold" if stage == "total" else "dim" if stage == "overhead" else ""
        cells = (values[name] for name in ("p50", "p95", "p99"))
        table.add_row(stage, *("-" if value is None else f"{value:.1f}" for value in cells), style=style)
    # Not the table's own title and caption, which are wrapped to its width. Texts, because brackets in a plain string
    # would be taken for markup.
    title = Text(f"{summary['mode']}: {point_text(summary)}", style="bold")
    title.append(f"  ({summary['reason']})", style="dim")
    return Group(title, table, Text(_caption(summary)))


def _caption(summary: Mapping[str, Any]) -> str:
    text = f"{summary['frames_answered']} of {summary['frames_produced']} frames answered, "
    text += f"{summary['detections']} boxes, {summary['bytes_per_frame'] / 1000:.1f} kB a frame"
    if summary.get("reconnects"):
        text += f"; reconnects: {summary['reconnects']}, without a session for {summary['disconnected_s']:.1f} s"
    if summary.get("source_reopened"):
        text += f"; source opened again: {summary['source_reopened']}"
    if summary.get("mode_switches"):
        shares = ", ".join(f"{mode}: {count}" for mode, count in summary["frames_by_mode"].items())
        text += f"; answered by {shares}; longest gap between results {summary['longest_gap_s']:.2f} s"
    if summary["dropped_at"]:
        text += "; dropped at " + ", ".join(f"{where}: {count}" for where, count in summary["dropped_at"].items())
    if summary.get("disconnected"):
        text += f"\nno session: {summary['disconnected']}; trying again"
    if seen := summary.get("link_statistics"):
        text += "\n" + _link(seen)
    return text


def _link(seen: Mapping[str, float]) -> str:
    """The link in one line; what is not known yet is left out."""
    parts = [f"goodput {seen['goodput'] / 1e6:.2f} Mbit/s"]
    for name, label, scale, unit in (
        ("slice_loss", "slices lost", 100, "%"),
        ("network_p50", "network", 1000, "ms"),
        ("age_p50", "age", 1000, "ms"),
        ("age_p95", "p95", 1000, "ms"),
    ):
        if name in seen:
            parts.append(f"{label} {seen[name] * scale:.1f} {unit}")
    return "link: " + ", ".join(parts)


class LiveTable:
    """Draws the table twice a second, in a thread of its own, while the context lasts, and once more at the end."""

    def __init__(self, figures: Callable[[], Mapping[str, Any]]) -> None:
        """Draw what ``figures`` returns, which is as for `summary_table`. It is called in the table's thread."""
        self._figures = figures
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=False)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="table", daemon=True)

    def __enter__(self) -> Self:
        self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._live.stop()

    def _draw(self) -> None:
        while not self._stopping.wait(REFRESH_SECONDS):
            self._update()
        self._update()

    def _update(self) -> None:
        self._live.update(summary_table(self._figures()), refresh=True)
