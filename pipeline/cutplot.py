"""The picture of a model's cuts: its graph folded to readable size, above it bytes and device work against depth.

Both parts share the axis of depth, the number of nodes that have run. A cut is a vertical line through both: what is
left of it runs on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.plot import require_matplotlib
from splitrtc_errors import BadArgument, SinkError

if TYPE_CHECKING:
    from models.graph.candidates import Candidate
    from models.graph.costs import Costs
    from models.graph.folding import Block

__all__ = ["FORMATS", "Reference", "plot_cuts"]

FORMATS = (".png", ".svg")

INK = "#264653"
BYTES = "#2a9d8f"
WORK = "#e9c46a"
CUT = "#e76f51"
STAGES = ("#2a9d8f", "#8ab17d", "#e9c46a", "#f4a261", "#e76f51", "#b5838d", "#6d6875", "#457b9d", "#9fd3c7", "#c8ccd4")

_BADGE: dict[str, Any] = {
    "ha": "center",
    "va": "center",
    "fontsize": 7.5,
    "color": "white",
    "zorder": 7,
    "bbox": {"boxstyle": "circle,pad=0.22", "facecolor": CUT, "edgecolor": "white", "linewidth": 0.8},
}

LABELLED = 9
"""Cuts that get a label; the others a mark."""
MAX_LANES = 14


class Reference(NamedTuple):
    """A size to compare with, as that of the picture."""

    name: str
    bytes: int


def plot_cuts(
    costs: Costs,
    candidates: Sequence[Candidate],
    chosen: Sequence[Candidate],
    references: Sequence[Reference],
    title: str,
    path: Path,
) -> None:
    """Draw a model's graph and what all its cuts cost into a PNG or SVG file.

    Args:
        costs: of the model.
        candidates: all cuts in topological order.
        chosen: those worth looking at, which are labelled.
        references: horizontal lines.
        title: over the picture.
        path: the file; its ending says what it becomes.

    Raises:
        BadArgument: no such ending, or nothing to draw.
        MissingDependency: matplotlib is not installed.
        SinkError: the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise BadArgument(f"a picture is a {' or '.join(FORMATS)} file, not {path.name}")
    if not candidates:
        raise BadArgument("no cut of this model can be sent: there is nothing to draw")
    require_matplotlib("the picture of the cuts")
    from matplotlib.figure import Figure

    from models.graph.folding import fold, lanes

    blocks = fold(costs.path, _stages(costs))
    lane_of = [min(lane, MAX_LANES - 1) for lane in lanes(blocks)]
    rows = max(lane_of, default=0) + 1
    height = 0.9 + 0.3 * rows
    figure = Figure(figsize=(14, 5.4 + height), layout="constrained")
    plot, graph = figure.subplots(2, 1, sharex=True, height_ratios=(5, height))
    _draw_sizes(plot, costs, candidates, chosen, references)
    _draw_graph(graph, costs, blocks, lane_of)
    for number, cut in enumerate(chosen):
        for axes in (plot, graph):
            axes.axvline(cut.nodes, color=CUT, linewidth=1, linestyle=(0, (4, 3)), zorder=1, alpha=0.8)
        graph.annotate(str(number + 1), (cut.nodes, rows - 0.15), annotation_clip=False, **_BADGE)
    _legend(figure, chosen)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=INK)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise SinkError(f"cannot write the picture {path}: {error.strerror or error}") from error


def _draw_sizes(
    axes: Any,
    costs: Costs,
    candidates: Sequence[Candidate],
    chosen: Sequence[Candidate],
    references: Sequence[Reference],
) -> None:
    depth = [cut.nodes for cut in candidates]
    sizes = [cut.bytes for cut in candidates]
    axes.step(depth, sizes, where="post", color=BYTES, linewidth=1.6, label="bytes that cross", zorder=3)
    axes.fill_between(depth, sizes, step="post", color=BYTES, alpha=0.10, linewidth=0)
    single = [cut for cut in candidates if cut.single]
    axes.plot(
        [cut.nodes for cut in single], [cut.bytes for cut in single], "o", color=BYTES, markersize=4,
        markeredgecolor="white", markeredgewidth=0.6, label="at a single tensor", zorder=4,
    )  # fmt: skip
    axes.set_yscale("log")
    low = min([*sizes, *(reference.bytes for reference in references)])
    high = max([*sizes, *(reference.bytes for reference in references)])
    axes.set_ylim(low / 2, high * 5)
    axes.set_xlim(-0.01 * len(costs.path.nodes), 1.01 * len(costs.path.nodes))
    for reference in references:
        axes.axhline(reference.bytes, color=INK, linewidth=0.9, linestyle=":", zorder=2)
        axes.annotate(
            f"{reference.name}  {_size(reference.bytes)}", (1, reference.bytes), xycoords=("axes fraction", "data"),
            xytext=(-4, 2), textcoords="offset points", ha="right", va="bottom", fontsize=8, color=INK,
        )  # fmt: skip
    work = axes.twinx()
    done = [100 * cut.device_macs_share for cut in candidates]
    work.plot(depth, done, color=WORK, linewidth=1.6, zorder=2, label="work on the device")
    work.set_ylim(0, 105)
    work.set_ylabel("MACs on the device [%]", color="#b8860b")
    work.tick_params(colors="#b8860b")
    axes.set_zorder(work.get_zorder() + 1)
    axes.patch.set_visible(False)
    for number, cut in enumerate(chosen):
        axes.annotate(str(number + 1), (cut.nodes, cut.bytes), **_BADGE)
    axes.set_ylabel("bytes per frame, not compressed")
    axes.yaxis.set_major_formatter(lambda value, _: _size(value))
    axes.yaxis.set_minor_formatter(lambda *_: "")
    axes.grid(axis="y", color=INK, alpha=0.10, linewidth=0.6)
    handles, names = axes.get_legend_handles_labels()
    more, others = work.get_legend_handles_labels()
    axes.legend(handles + more, names + others, loc="upper right", frameon=False, fontsize=8, ncols=3)
    for each in (axes, work):
        each.spines[["top"]].set_visible(False)
        each.tick_params(axis="x", bottom=False, labelbottom=False)


def _legend(figure: Any, chosen: Sequence[Candidate]) -> None:
    """What the numbers are, beside the picture: bytes, device share and the node after which it is cut."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", color=CUT, markersize=11, markeredgecolor="none", linestyle="none") for _ in chosen
    ]
    labels = []
    for cut in chosen:
        many = f" in {len(cut.tensors)} tensors" if len(cut.tensors) > 1 else ""
        labels.append(f"{_size(cut.bytes)}{many}, {100 * cut.device_macs_share:.0f} % of the MACs\n{_short(cut.name)}")
    if not chosen:
        return
    legend = figure.legend(
        handles, labels, loc="outside right upper", frameon=False, fontsize=8, labelcolor=INK, labelspacing=1.1,
        title="cuts that no other beats", title_fontsize=9, alignment="left",
    )  # fmt: skip
    for number, handle in enumerate(legend.legend_handles):
        handle.set_marker(f"${number + 1}$")
        handle.set_markersize(7)


def _draw_graph(axes: Any, costs: Costs, blocks: Sequence[Block], lane_of: Sequence[int]) -> None:
    from matplotlib.patches import FancyBboxPatch, PathPatch
    from matplotlib.path import Path as Curve

    rows = max(lane_of, default=0) + 1
    names = list(dict.fromkeys(block.stage for block in blocks))
    colours = {name: STAGES[number % len(STAGES)] for number, name in enumerate(names)}
    heights = [rows - 1 - lane for lane in lane_of]
    for block, y in zip(blocks, heights, strict=True):
        for reader in block.readers:
            x0, x1, y1 = block.end + 1, blocks[reader].begin, heights[reader]
            if x1 < x0:  # it began before this one had ended
                x0 = min(x0, max(block.begin + 1, x1))
            middle = (x0 + x1) / 2
            curve = Curve([(x0, y), (middle, y), (middle, y1), (x1, y1)], [1, 4, 4, 4])
            axes.add_patch(PathPatch(curve, facecolor="none", edgecolor=INK, linewidth=0.8, alpha=0.45, zorder=2))
    count = max(1, len(costs.path.nodes))
    crowded = rows == MAX_LANES  # the last lane has all that would have further ones
    for block, y in zip(blocks, heights, strict=True):
        width = max(block.end + 1 - block.begin, 0.004 * count)
        axes.add_patch(
            FancyBboxPatch(
                (block.begin, y - 0.3), width, 0.6,
                boxstyle=f"round,pad=0,rounding_size={min(0.004 * count, width / 2)}",
                mutation_aspect=20 / count, facecolor=colours[block.stage], edgecolor="white", linewidth=0.8, zorder=3,
            )
        )  # fmt: skip
        for text in (f"{block.stage} · {len(block.places)}", block.stage):
            if text and not (crowded and y == 0) and width / count > 0.0068 * len(text):
                axes.annotate(
                    text, (block.begin + width / 2, y), ha="center", va="center", fontsize=7, color=INK, zorder=5
                )
                break
    axes.set_ylim(-0.6, rows - 0.1)
    axes.set_yticks([])
    axes.set_xlabel(f"nodes that have run, of {len(costs.path.nodes)}; a block: the tensors that it makes · its nodes")
    axes.spines[["top", "left", "right"]].set_visible(False)


def _stages(costs: Costs) -> list[str]:
    """What each node works on: the place dimensions of its largest output, or its length."""
    names = costs.model.graph.tensor_names
    found = []
    for made in costs.path.makes:
        largest = max(made, key=lambda t: costs.sizes.get(t, 0))
        kind = costs.types.get(names[largest])
        sizes = [size for size in (kind.shape or () if kind is not None else ()) if isinstance(size, int)]
        inner = [size for size in sizes[1:] if size > 1] or sizes
        if len(inner) == 3:  # with channels, which come first or last
            inner = sorted(inner, key=lambda size: inner.count(size))[-2:] if len(set(inner)) < 3 else inner[1:]
        found.append("×".join(map(str, inner)))
    return found


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else "…" + name[-most:]


def _size(value: float) -> str:
    if value <= 0 or not math.isfinite(value):
        return ""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
