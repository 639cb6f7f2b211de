"""The picture of an evaluation: rate against accuracy, every contender with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.evaluation.figures import quality
from pipeline.plot import require_matplotlib, save

__all__ = ["plot_rate"]

OURS = ("#c1121f", "#e76f51", "#f4a261", "#780000")
PICTURES = {
    "jpeg 4:2:0": "#8d99ae",
    "jpeg 4:4:4": "#c0c7d3",
    "webp 4:2:0": "#8ab17d",
    "h264": "#2a6f97",
    "vp8": "#b5838d",
    "vp9": "#6d597a",
    "av1": "#2a9d8f",
}


def plot_rate(report: Mapping[str, Any], path: Path) -> None:
    """Draw bytes per frame (logarithmic) against accuracy into a PNG file.

    ``report`` is that of `evaluate_rate`. Raises MissingDependency without matplotlib, SinkError when the file cannot
    be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    labelled = "map" in report
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots()
    series: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in report["contenders"]:
        series.setdefault((row["kind"], row["series"]), []).append(row)
    ours = iter(OURS)
    for (kind, name), rows in series.items():
        rows.sort(key=lambda row: row["bytes_per_frame"])
        codec, _, size = name.rpartition(" ")
        colour = next(ours) if kind == "split" else PICTURES.get(codec, "#bbbbbb")
        values = [quality(row) for row in rows]
        ends = [sorted(-end for end in row["ci"]) if labelled else row["ci"] for row in rows]
        axes.errorbar(
            [row["bytes_per_frame"] for row in rows],
            values,
            yerr=[[max(v - e[0], 0) for v, e in zip(values, ends)], [max(e[1] - v, 0) for v, e in zip(values, ends)]],
            color=colour,
            label=name,
            marker="o",
            linestyle="--" if size == "camera" else "-",
            linewidth=2.4 if kind == "split" else 1.1,
            markersize=7 if kind == "split" else 3,
            elinewidth=0.6,
            zorder=3 if kind == "split" else 2,
        )
    axes.set_xscale("log")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
