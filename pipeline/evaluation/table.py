"""The figures of an evaluation as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

__all__ = ["accuracy_table", "rate_table"]

Row = Mapping[str, Any]


def rate_table(report: Row) -> RenderableType:
    """Every contender with its bytes, accuracy and times; what could not run; and which are the cheapest."""
    labelled = "map" in report
    label = "mAP lost" if labelled else "F1"
    table = Table()
    table.add_column("contender", no_wrap=True)
    for heading in ("bytes", "first", label, f"{report['level']:.0%}", "encode", "decode", "device", "edge ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind in ("split", "picture"):
        for row in (row for row in report["contenders"] if row["kind"] == kind):
            accuracy = f"{row['map_drop']:.2f}" if labelled else f"{row['f1']:.3f}"
            first = row["first_frame_bytes"]
            table.add_row(
                row["name"],
                f"{row['bytes_per_frame']:.0f}",
                "-" if first is None else f"{first:.0f}",
                accuracy,
                _range(row["ci"], 2 if labelled else 3),
                *(f"{row[f'{name}_ms']:.1f}" for name in ("encode", "decode", "device", "edge")),
                style="bold" if kind == "split" else "",
            )
        table.add_section()
    lines = [f"{row['name']}: not available: {row['reason']}" for row in report["unavailable"]]
    title = f"{report['model']} at {report['partition']} on {report['set']}, {report['frames']} frames"
    return Group(Text(title, style="bold"), table, Text("\n".join([*lines, _cheapest(report, label)])))


def _cheapest(report: Row, label: str) -> str:
    best = report["cheapest"]
    bytes_of = {row["name"]: row["bytes_per_frame"] for row in report["contenders"]}
    names = [best["split"], best["picture"]]
    found = [f"{name}, {bytes_of[name]:.0f} bytes" if name else "none" for name in names]
    sign = "at most" if "map" in report else "at least"
    ratio = f" (the picture takes {best['ratio']:.2g} times the bytes)" if best["ratio"] else ""
    return f"cheapest with {label} {sign} {best['at']:g}: split {found[0]}; picture {found[1]}{ratio}"


def accuracy_table(report: Row) -> RenderableType:
    """The mAP of the whole model and of its parts, profile by profile."""
    headings = ("bytes", "mAP", "AP50", "AP75", "lost", f"{report['level']:.0%}")
    table = Table("", *(Column(heading, justify="right") for heading in headings))
    whole = report["whole"]
    table.add_row("whole model", "", *_precisions(whole), "", _range(whole["ci"], 2))
    for row in report["splits"]:
        cells = [f"{row['bytes_per_frame']:.0f}", *_precisions(row), f"{row['map_drop']:.2f}", _range(row["ci"], 2)]
        table.add_row(row["profile"], *cells)
    title = f"{report['model']} at {report['partition']} on {report['set']}, {report['images']} images"
    return Group(Text(title, style="bold"), table)


def _precisions(row: Row) -> list[str]:
    return [f"{row[name]:.2f}" for name in ("map", "ap50", "ap75")]


def _range(ends: Sequence[float], digits: int) -> str:
    low, high = ends
    return f"{low:.{digits}f} .. {high:.{digits}f}"
