"""The plot of an evaluation: rate against accuracy, every contender with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.plot import require_matplotlib, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_rate"]

SPLITS = ("#e76f51", "#9b2226", "#f4a261", "#bb3e03", "#e9c46a")
"""Reds, as the edge's stages have them in the plot of latency: these are to be found at once."""
PICTURES = {
    "jpeg 4:2:0": "#8d99ae",
    "jpeg 4:4:4": "#bcc4d1",
    "webp 4:2:0": "#8ab17d",
    "h264": "#264653",
    "vp8": "#b5838d",
    "vp9": "#577590",
    "av1": "#2a9d8f",
}
OTHER = "#999999"
LOWEST_F1 = 0.6
"""Below it nobody wants to be, and a straggler must not flatten the rest."""
MOST_MAP_LOST = 6.0


def plot_rate(report: Mapping[str, Any], path: Path) -> None:
    """Draw bytes per frame (logarithmic) against accuracy into a PNG file.

    ``report`` is that of `evaluate_rate`. Raises MissingDependency without matplotlib, SinkError when the file cannot
    be written.
    """
    require_matplotlib("the plot of an evaluation")
    from matplotlib.figure import Figure

    labelled = "map" in report
    series: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(report["contenders"], key=lambda row: row["bytes_per_frame"]):
        series.setdefault((row["kind"], row["series"]), []).append(row)

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots()
    accuracy = "map_drop" if labelled else "f1"
    splits = 0
    for (kind, name), rows in series.items():
        if kind == "picture":
            codec, _, size = name.rpartition(" ")
            _draw(axes, rows, accuracy, PICTURES.get(codec, OTHER), "--" if size == "camera" else "-", bold=False)
        else:
            colour = SPLITS[splits % len(SPLITS)]
            _draw(axes, rows, accuracy, colour, "-", bold=True)
            _name_ends(axes, rows, accuracy, colour, above=splits % 2 == 0)
            splits += 1
    axes.set_xscale("log")
    axes.set_xlabel("bytes per frame")
    if labelled:
        worst = max((row["map_drop"] for row in report["contenders"]), default=0)
        best = min((row["map_drop"] for row in report["contenders"]), default=0)
        axes.set_ylim(min(worst + 0.5, MOST_MAP_LOST), min(best - 0.5, -0.5))  # less is better: upwards
        axes.axhline(0, color=OTHER, linewidth=0.6, zorder=1)
        axes.set_ylabel("mAP lost against the whole model [%]")
    else:
        worst = min((row["f1"] for row in report["contenders"]), default=0)
        axes.set_ylim(max(worst - 0.05, LOWEST_F1), 1.015)
        axes.set_ylabel("F1 of the detections against the whole model's")
    axes.set_title(
        f"{report['model']} at {report['partition']}, {report['set']} ({report['frames']} frames; "
        f"bars: {report['level']:.0%} intervals)",
        loc="left",
    )
    axes.grid(which="major", color="#eeeeee", linewidth=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes, [name for kind, name in series if kind == "picture"])
    save(figure, path)


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], accuracy: str, colour: str, style: str, *, bold: bool) -> None:
    """One curve; its intervals faint, since there are many."""
    sizes, values = [row["bytes_per_frame"] for row in rows], [row[accuracy] for row in rows]
    lows, highs = [row["ci"][0] for row in rows], [row["ci"][1] for row in rows]
    axes.vlines(sizes, lows, highs, color=colour, linewidth=2.0 if bold else 1.0, alpha=0.45 if bold else 0.25)
    axes.plot(
        sizes, values, style, color=colour, marker="o", linewidth=2.6 if bold else 1.2,
        markersize=7 if bold else 3, zorder=4 if bold else 3,
    )  # fmt: skip


def _name_ends(axes: Axes, rows: Sequence[Mapping[str, Any]], accuracy: str, colour: str, *, above: bool) -> None:
    """Name the ends of a curve; those of the next one on its other side, since curves come close."""
    from matplotlib.patheffects import withStroke

    for row in {row["name"]: row for row in (rows[0], rows[-1])}.values():
        axes.annotate(
            row["name"], (row["bytes_per_frame"], row[accuracy]), xytext=(0, 8 if above else -8),
            textcoords="offset points", ha="center", va="bottom" if above else "top", fontsize=9, weight="bold",
            color=colour, zorder=5, annotation_clip=True,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip


def _legend(axes: Axes, pictures: Sequence[str]) -> None:
    """Pictures by the colour of their codec and the style of their size; the profiles are named at their points."""
    from matplotlib.lines import Line2D

    there = dict.fromkeys(name.rpartition(" ")[0] for name in pictures)
    known = [codec for codec in PICTURES if codec in there]
    codecs = [*known, *(codec for codec in there if codec not in PICTURES)]
    handles = [Line2D([], [], color=PICTURES.get(codec, OTHER), marker="o", label=codec) for codec in codecs]
    handles.append(Line2D([], [], color="black", linestyle="-", label="at the model's input size"))
    handles.append(Line2D([], [], color="black", linestyle="--", label="at the camera's size"))
    for handle in handles:
        handle.set(linewidth=1.2, markersize=3)
    handles.append(Line2D([], [], color=SPLITS[0], linewidth=2.6, marker="o", markersize=7, label="intermediate data"))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
