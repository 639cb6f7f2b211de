"""``splitrtc models split``: write the parts of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import common_options, echo_json, option, set_up_logging
from pipeline.cli.models.options import cut_options, model_argument, open_model, parse_shapes, read_cuts, shape_option
from splitrtc_errors import BadArgument, CutError, UserError

if TYPE_CHECKING:
    from models.graph import Cut, Model, Part

__all__ = ["split"]

EXAMPLES = """\b
Examples:
  splitrtc models split ssdlite_mbv2_coco_300 --at Conv__979:0
  splitrtc models split model.onnx --after Conv_12 --out parts
  splitrtc models split model.onnx --after Conv_12 --up-to Concat_40     three parts
"""


@click.command(epilog=EXAMPLES)
@model_argument
@cut_options
@option("--out", type=click.Path(path_type=Path), default=Path(), help="Folder that the parts are written to.")
@shape_option
@option("--fix", is_flag=True, help="Make parts for the inputs' shapes of --shape only.")
@option("--batch", is_flag=True, help="Free the batch dimension of the last part, where that is provably safe.")
@option("--unchecked", is_flag=True, help="Do not run the parts and the whole model to compare them.")
@common_options
def split(
    model: str,
    folders: tuple[Path, ...],
    out: Path,
    shapes: tuple[str, ...],
    fix: bool,
    batch: bool,
    unchecked: bool,
    as_json: bool,
    log_level: str,
    debug: bool,
    **where: tuple[str, ...],
) -> None:
    """Cut a model and write its parts: head.onnx and tail.onnx, or part-1.onnx and so on where there are more.

    MODEL is a name in the zoo or the path of an ONNX file. The parts are run and compared with the whole, bit for bit.
    """
    set_up_logging(log_level, debug)
    sizes = parse_shapes(shapes)
    whole = open_model(model, folders)
    if fix:
        whole = whole.fixed(sizes)
    cuts = read_cuts(whole.graph, **where)
    if not cuts:
        raise BadArgument("where to cut? Give --after, --before, --at or --up-to")
    from models.graph import batched, find_inputs, verify
    from models.graph import split as make_parts

    parts = list(make_parts(whole, cuts))
    if not unchecked:
        found = verify(whole, cuts, find_inputs(whole, sizes))
        if not found.ok:
            raise CutError("the parts do not compute what the whole model does: is there chance in it?")
    if batch:
        parts[-1] = batched(parts[-1])
    names = ["head.onnx", "tail.onnx"] if len(parts) == 2 else [f"part-{i + 1}.onnx" for i in range(len(parts))]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror or error}") from error
    files = [part.write(out / name) for part, name in zip(parts, names, strict=True)]
    if as_json:
        echo_json(_described(whole, cuts, parts, files, verified=not unchecked))
    else:
        _print(cuts, parts, files, whole)


def _described(
    model: Model, cuts: list[Cut], parts: list[Part], files: list[list[Path]], verified: bool
) -> dict[str, Any]:
    return {
        "cuts": [
            {
                "tensors": [model.type_of(name).to_json() for name in cut.crossing],
                "carries_input": cut.carries_input,
            }
            for cut in cuts
        ],
        "parts": [
            {
                "files": [str(path) for path in paths],
                "nodes": len(part.nodes),
                "inputs": [kind.to_json() for kind in part.inputs],
                "outputs": [kind.to_json() for kind in part.outputs],
            }
            for part, paths in zip(parts, files, strict=True)
        ],
        "verified": verified,
    }


def _print(cuts: list[Cut], parts: list[Part], files: list[list[Path]], model: Model) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column("part", overflow="fold"), "nodes", "MB", Column("then crosses", overflow="fold"))
    for number, (part, paths) in enumerate(zip(parts, files, strict=True)):
        crossing = [str(model.type_of(name)) for name in cuts[number].crossing] if number < len(cuts) else []
        if number < len(cuts) and cuts[number].carries_input:
            crossing.append("(a model input crosses: the picture itself)")
        size = sum(path.stat().st_size for path in paths)
        table.add_row(Text(str(paths[0])), str(len(part.nodes)), f"{size / 1e6:.2f}", Text("\n".join(crossing)))
    Console().print(table)
