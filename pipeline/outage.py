"""What the loss of an edge looked like, from the frames of a run: figures, and a picture."""

from __future__ import annotations

from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.outcome import ANSWERED
from pipeline.plot import require_matplotlib, save

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["outage_figures", "plot_modes"]

COLOURS = {"split": "#2a9d8f", "local": "#e9c46a", "remote": "#457b9d"}


class _Shown(NamedTuple):
    """A result, when it was there, and when its frame had been captured; seconds of the monotonic clock."""

    at: float
    captured: float
    mode: str


def _shown(frames: Sequence[dict[str, Any]]) -> list[_Shown]:
    """The results in the order in which they came; what is older than one that was there already is left out."""
    answered = [frame for frame in frames if frame["status"] in ANSWERED]
    results = sorted(
        _Shown(frame["captured"] + frame["timings_ms"]["total"] / 1000, frame["captured"], frame["mode"])
        for frame in answered
    )
    newest, shown = float("-inf"), []
    for result in results:
        if result.captured > newest:
            newest = result.captured
            shown.append(result)
    return shown


def outage_figures(frames: Sequence[dict[str, Any]], killed: float, ready: float | None) -> dict[str, float | None]:
    """How an edge was missed that was ``killed``, and ``ready`` again (None: never), in seconds of the monotonic clock.

    ``fallback_gap_s``: the longest time between two results from then on; ``resume_split_s``: from when the edge was
    ready again to the first result with it. None for what did not happen.
    """
    shown = _shown(frames)
    gaps = [after.at - before.at for before, after in pairwise(shown) if after.at > killed]
    back = [result.at - ready for result in shown if result.mode == "split" and ready is not None and result.at > ready]
    return {
        "fallback_gap_s": round(max(gaps), 4) if gaps else None,
        "resume_split_s": round(back[0], 4) if back else None,
    }


def plot_modes(frames: Sequence[dict[str, Any]], killed: float, ready: float | None, path: Path) -> None:
    """Draw how old the newest result was at each moment, over a band of the modes, into a PNG file.

    Arguments as for `outage_figures`. Raises MissingDependency without matplotlib, SinkError when the file cannot be
    written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    shown = _shown(frames)
    begin = min((frame["captured"] for frame in frames), default=killed)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots()
    # A result grows older until the next one is there.
    times, ages = [], []
    for before, after in pairwise(shown):
        times += [before.at - begin, after.at - begin]
        ages += [before.at - before.captured, after.at - before.captured]
    axes.plot(times, [1000 * age for age in ages], color="#264653", linewidth=0.8)
    ends = [result.at for result in shown[1:]] + [shown[-1].at] if shown else []
    named: set[str] = set()
    for mode, group in groupby(zip(shown, ends, strict=True), key=lambda pair: pair[0].mode):
        spans = list(group)
        label = "_" if mode in named else mode
        named.add(mode)
        first, last = spans[0][0].at, spans[-1][1]
        axes.axvspan(first - begin, last - begin, color=COLOURS[mode], alpha=0.35, linewidth=0, label=label)
    for at, text in ((killed, "edge killed"), (ready, "edge ready again")):
        if at is not None:
            axes.axvline(at - begin, color="#c1121f", linestyle="--", linewidth=1)
            note = axes.annotate(
                text, (at - begin, 0.98), xycoords=("data", "axes fraction"), xytext=(4, 0),
                textcoords="offset points", va="top", fontsize=9, color="#c1121f",
            )  # fmt: skip
            note.set_in_layout(False)
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.set_xlabel("time [s]")
    axes.set_ylabel("age of the newest result [ms]")
    figures = outage_figures(frames, killed, ready)
    gap, back = (f"{value:.2f} s" if value is not None else "-" for value in figures.values())
    axes.set_title(f"An edge is lost: longest gap between results {gap}, split again after {back}", loc="left")
    if named:
        axes.legend(title="answered by", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
