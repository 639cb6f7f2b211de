"""``splitrtc models draw``: a picture of a model and its cuts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.common import common_options, echo_json, option, set_up_logging
from pipeline.cli.models.options import find_model, model_argument, open_model, parse_shapes, shape_option

if TYPE_CHECKING:
    from models.graph.candidates import Candidate
    from models.graph.costs import Costs
    from pipeline.cutplot import Reference
    from pipeline.frames import Image

__all__ = ["draw"]

EXAMPLES = """\b
Examples:
  splitrtc models draw ssdlite_mbv2_coco_300
  splitrtc models draw model.onnx --out model.svg
"""

JPEG_QUALITY = 75


@click.command(epilog=EXAMPLES)
@model_argument
@shape_option
@option("--out", type=click.Path(path_type=Path), default=Path("cuts.png"), help="The picture, a .png or .svg file.")
@common_options
def draw(
    model: str,
    folders: tuple[Path, ...],
    shapes: tuple[str, ...],
    out: Path,
    as_json: bool,
    log_level: str,
    debug: bool,
) -> None:
    """Draw a model's graph, folded to readable size, and the bytes and device work of its cuts against depth.

    MODEL is a name in the zoo or the path of an ONNX file. The labelled cuts are those of `cuts --pareto`.
    """
    set_up_logging(log_level, debug)
    from models.graph.candidates import Catalogue
    from models.graph.costs import costs_of
    from pipeline.cutplot import plot_cuts

    path = find_model(model, folders)
    costs = costs_of(open_model(model, folders), parse_shapes(shapes) or None)
    found = Catalogue(costs).frontier()
    chosen = _worth_a_label(found)
    work = f"{costs.total_macs / 1e6:,.0f} million MACs"
    title = f"{path.stem}: where to cut it  ({len(found)} cuts in the order of its nodes, {work})"
    plot_cuts(costs, found, chosen, _references(costs), title, out)
    if as_json:
        echo_json({"file": str(out), "cuts": [cut.to_json() for cut in chosen]})
    else:
        click.echo(f"{out}: {len(found)} cuts, of which {len(chosen)} are labelled")


def _worth_a_label(found: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats, without the picture itself; the ones with the fewest bytes where there are many."""
    from models.graph.candidates import on_pareto_front
    from pipeline.cutplot import LABELLED

    front = [cut for cut in on_pareto_front(found) if cut.device_macs and cut.device_macs_share < 1]
    return sorted(sorted(front, key=lambda cut: cut.bytes)[:LABELLED], key=lambda cut: cut.nodes)


def _references(costs: Costs) -> list[Reference]:
    """The picture instead: its bytes raw, as PNG and as JPEG, where an input is one."""
    from pipeline.cutplot import Reference

    for shape in costs.inputs.values():
        sides = shape[2:] if len(shape) == 4 and shape[1] == 3 else shape[1:3] if shape[3:] == (3,) else ()
        if len(sides) == 2 and min(sides) >= 16:
            height, width = sides
            image = _picture(width, height)
            found = [Reference(f"the picture, {width}×{height}, raw", width * height * 3)]
            import cv2

            for name, ending, flags in (
                ("PNG", ".png", []),
                (f"JPEG {JPEG_QUALITY}", ".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]),
            ):
                _, data = cv2.imencode(ending, image, flags)
                found.append(Reference(f"as {name}", len(data)))
            return found
    return []


def _picture(width: int, height: int) -> Image:
    import cv2
    import numpy as np

    from pipeline.sources import open_source

    source = open_source("clip")
    source.open()
    try:
        picture = source.read()
    finally:
        source.close()
    assert picture is not None
    image: Image = np.asarray(cv2.resize(picture.image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return image
