"""The picture of a run: stacked latency of every stage over time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.outcome import ANSWERED
from pipeline.summary import STAGES
from splitrtc_errors import MissingDependency, SinkError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_latency", "read_lines", "require_matplotlib", "save"]

COLOURS = {
    "wait": "#c8ccd4",
    "preprocess": "#9fd3c7",
    "head": "#2a9d8f",
    "encode": "#8ab17d",
    "network": "#e9c46a",
    "queue": "#f4d9a8",
    "decode": "#f4a261",
    "tail": "#e76f51",
    "post": "#b5838d",
}
"""The device's stages are green, the network's yellow, the edge's red."""


def require_matplotlib(what: str = "the latency plot") -> None:
    """Raise MissingDependency when there is nothing to draw with; loads it otherwise."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"{what} needs matplotlib: pip install 'splitrtc[plot]'") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The frames of a run, as the JSON lines sink wrote them."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def plot_latency(frames: list[dict[str, Any]], latency_ms: dict[str, dict[str, float | None]], path: Path) -> None:
    """Draw the stages of every answered frame over the time of its capture into a PNG file.

    ``frames`` are the objects of `read_lines`, ``latency_ms`` is that of the run's summary. Raises MissingDependency
    without matplotlib, SinkError when the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure  # without pyplot, whose state and windows belong to the whole program

    answered = [frame for frame in frames if frame["status"] in ANSWERED]
    begin = min((frame["captured"] for frame in frames), default=0.0)
    lost = [frame["captured"] - begin for frame in frames if frame["status"] not in ANSWERED]
    times = [frame["captured"] - begin for frame in answered]
    series = [[frame["timings_ms"].get(stage) or 0.0 for frame in answered] for stage in STAGES]
    total = latency_ms["total"]

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots()
    labels = [f"{stage}  {_figure(latency_ms[stage]['p50'])}" for stage in STAGES]
    axes.stackplot(times, series, labels=labels, colors=[COLOURS[stage] for stage in STAGES], linewidth=0)
    for name, style in (("p50", "-"), ("p95", "--"), ("p99", ":")):
        if (value := total[name]) is not None:
            axes.axhline(value, color="#264653", linestyle=style, linewidth=1)
            axes.annotate(
                f"{name} {value:.1f} ms", (1, value), xycoords=("axes fraction", "data"), xytext=(-4, 2),
                textcoords="offset points", ha="right", va="bottom", fontsize=9, color="#264653",
            )  # fmt: skip
    if lost:
        axes.plot(lost, [0] * len(lost), "|", color="black", markersize=12, label=f"not answered  {len(lost)}")
    if (p99 := total["p99"]) is not None:
        axes.set_ylim(0, 1.6 * p99)  # a single outlier must not flatten the rest
    axes.margins(x=0)
    axes.set_xlabel("capture time [s]")
    axes.set_ylabel("capture to result [ms]")
    axes.set_title(f"Where a frame spends its time ({len(answered)} of {len(frames)} frames answered)", loc="left")
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        names[::-1],
        title="stage, median in ms",
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
    )
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file; SinkError when that fails."""
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise SinkError(f"cannot write the plot {path}: {error.strerror or error}") from error


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
