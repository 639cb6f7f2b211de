"""What the commands of ``splitrtc models`` share: which model, which cut, which shapes, progress."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli.common import option
from pipeline.cli.fetching import find_model, offline_option
from splitrtc_errors import BadArgument

if TYPE_CHECKING:
    from models.graph import Cut, Graph, Model

__all__ = [
    "cut_options",
    "find_model",
    "folders_option",
    "model_argument",
    "open_model",
    "parse_shapes",
    "progress",
    "read_cuts",
    "shape_option",
]

F = TypeVar("F", bound=Callable[..., Any])


def folders_option(command: F) -> F:
    """``--models``: where further model cards are."""
    return option(
        "--models",
        "folders",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Further folder of model cards or model files; may be repeated.",
    )(command)


def model_argument(command: F) -> F:
    """``MODEL``: a name in the zoo, the path of an ONNX file, or its URL with digest; fetched if it is not here."""
    return click.argument("model")(folders_option(offline_option(command)))


def shape_option(command: F) -> F:
    """``--shape``: the sizes of an input's free dimensions."""
    return option(
        "--shape",
        "shapes",
        multiple=True,
        metavar="NAME=1x3x320x320",
        help="The shape of an input with free dimensions; may be repeated. Otherwise sizes are sought at which the"
        " whole model runs.",
    )(command)


def cut_options(command: F) -> F:
    """``--after``, ``--before``, ``--at``, ``--up-to``: where to cut; several times for more than two parts."""
    for flag, metavar, text in (
        ("--up-to", "NODE", "Cut after everything up to this node in topological order."),
        ("--at", "TENSOR[,TENSOR...]", "Cut at these tensors: the head is all their ancestors."),
        ("--before", "NODE", "Cut before this node: the head is its ancestors."),
        ("--after", "NODE", "Cut after this node: the head is the node and its ancestors."),
    ):
        name = flag[2:].replace("-", "_")
        command = option(flag, name, multiple=True, metavar=metavar, help=f"{text} May be repeated.")(command)
    return command


def open_model(text: str, folders: Sequence[Path]) -> Model:
    """Find and load the model that the command line names; one of the zoo as its card fixes it."""
    from models import Zoo
    from models.fixed import fixed_model
    from models.graph import Model

    path = find_model(text, folders)
    zoo = Zoo(folders)
    return fixed_model(zoo.get(text)) if text in zoo.names() else Model.load(path)


def read_cuts(
    graph: Graph, after: Sequence[str], before: Sequence[str], at: Sequence[str], up_to: Sequence[str]
) -> list[Cut]:
    """The cuts that the flags name, from the first to the last; CutError for what is not in the model."""
    from models.graph import cuts

    found = [cuts.after(graph, node) for node in after]
    found += (cuts.before(graph, node) for node in before)
    found += (cuts.at(graph, [text] if graph.has_tensor(text) else text.split(",")) for text in at)
    found += (cuts.up_to(graph, node) for node in up_to)
    return sorted(found, key=lambda cut: len(cut.head))


def parse_shapes(texts: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """Read ``NAME=1x3x320x320``; a scalar is ``NAME=``. BadArgument when it is something else."""
    shapes = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.split("x")) if sizes else ()
        except ValueError:
            shape = (-1,)
        if not equals or not name or min(shape, default=0) < 0:
            raise BadArgument(f"a shape is NAME=1x3x320x320, not {text[:100]!r}")
        shapes[name] = shape
    return shapes


@contextlib.contextmanager
def progress(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr, where that is a terminal; yields a function that is told how much more is done."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.advance(task, more)
