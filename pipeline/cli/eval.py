"""``splitrtc eval``: how accurate the model is, whole and cut in two, and what every byte buys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from models.card import VARIANTS
from pipeline.cli.common import Group, common_options, echo_json, option, set_up_logging
from pipeline.cli.fetching import fetched, offline_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.evaluation.run import Track

__all__ = ["accuracy", "evaluate", "rate"]

RATE_EXAMPLES = """\b
Examples:
  splitrtc eval rate --data street.mp4
  splitrtc eval rate --data images/ --annotations labels.json
  splitrtc eval rate --data street.mp4 --profiles q4-zstd --pictures h264,jpeg:90@camera
"""
ACCURACY_EXAMPLES = """\b
Examples:
  splitrtc eval accuracy --images val2017/ --annotations instances_val2017.json
"""

F = TypeVar("F", bound=Callable[..., Any])
WIDE = 160
_PATH = click.Path(path_type=Path)


@click.group(
    cls=Group, commands={"rate": "pipeline.cli.eval:rate", "accuracy": "pipeline.cli.eval:accuracy"}, name="eval"
)
def evaluate() -> None:
    """Measure accuracy, and bytes against accuracy, on your own images and clips (docs/evaluation.md)."""


def _model_options(command: F) -> F:
    """What both commands need to know of the model and the machine."""
    for decorate in (
        option("--jobs", type=click.IntRange(1), help="How many run at once (default: as many as cores)."),
        option("--seed", type=click.IntRange(0), default=0, help="Of the draws for the intervals, and of slice loss."),
        option("--provider", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="What runs the model."),
        option("--partition", metavar="P", help="A cut of the model (default: the one its card recommends)."),
        option("--variant", type=click.Choice(VARIANTS), default="fp32", help="The head's weights."),
        option("--models", "models", multiple=True, type=_PATH, help="Further folder of cards; may be repeated."),
        offline_option,
        option("--model", metavar="M", help="A model: a name, or https://...#sha-256=... (default: the bundled one)."),
    ):
        command = decorate(command)
    return command


@click.command(epilog=RATE_EXAMPLES)
@option("--data", required=True, type=_PATH, metavar="PATH", help="A video file or a folder of images.")
@option("--annotations", type=_PATH, metavar="FILE", help="Labels of the images, in COCO's format: measure mAP.")
@_model_options
@option("--profiles", metavar="LIST", help="Profiles, with commas between (default: all that the model's card names).")
@option("--pictures", metavar="LIST", help="CODEC[:QUALITY][@input|@camera][,...], or none (default: all codecs).")
@option("--frames", type=click.IntRange(1), metavar="N", help="At most so many frames or images (default: 300).")
@option("--segments", metavar="START:COUNT,...", help="The parts of the clip to take, instead of those chosen.")
@option("--rtt-frames", type=click.IntRange(1, 100), default=2, help="Frames until a frame's acknowledgement is back.")
@option("--slice-loss", type=click.FloatRange(0, 1), default=0.0, help="Share of the slices that get lost.")
@option("--slice-burst", type=click.FloatRange(1), default=1.0, help="Mean length of a run of lost slices.")
@option("--at", type=float, metavar="X", help="Accuracy to compare bytes at: F1 (0.96), or mAP lost at most (0.3).")
@option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out"), help="Folder for the results.")
@common_options
def rate(
    data: Path,
    annotations: Path | None,
    profiles: str | None,
    pictures: str | None,
    segments: str | None,
    out: Path,
    as_json: bool,
    log_level: str,
    debug: bool,
    **others: Any,
) -> None:
    """Compare the bytes of intermediate data with those of pictures, at equal accuracy, in the same run."""
    set_up_logging(log_level, debug)
    from pipeline.evaluation.material import parse_segments
    from pipeline.evaluation.plot import plot_rate
    from pipeline.evaluation.run import Evaluation, evaluate_rate
    from pipeline.evaluation.split import parse_profiles
    from pipeline.evaluation.table import rate_table
    from pipeline.plot import require_matplotlib

    require_matplotlib("the plot of an evaluation")
    evaluation = Evaluation(
        data=data,
        annotations=annotations,
        profiles=parse_profiles(profiles) if profiles else (),
        segments=parse_segments(segments) if segments else (),
        **_given(others | {"pictures": "" if pictures == "none" else pictures}),
    )
    with _progress() as track:
        report = evaluate_rate(evaluation, _say, track)
    _write(out, "rate.json", report)
    plot_rate(report, out / "rate.png")
    _say(f"wrote {out / 'rate.json'} and {out / 'rate.png'}")
    if as_json:
        echo_json(report)
    else:
        _show(rate_table(report))


@click.command(epilog=ACCURACY_EXAMPLES)
@option("--images", required=True, type=_PATH, metavar="DIR", help="A folder of images.")
@option("--annotations", required=True, type=_PATH, metavar="FILE", help="Their labels, in COCO's format.")
@option("--profile", "profiles", multiple=True, metavar="F", help="May be repeated (default: raw, and the card's).")
@_model_options
@option("--frames", type=click.IntRange(1), metavar="N", help="At most so many images (default: all).")
@common_options
def accuracy(
    images: Path,
    annotations: Path,
    profiles: tuple[str, ...],
    as_json: bool,
    log_level: str,
    debug: bool,
    **others: Any,
) -> None:
    """Measure COCO's mAP of the whole model, and of the model cut in two."""
    set_up_logging(log_level, debug)
    from pipeline.evaluation.run import Evaluation, evaluate_accuracy
    from pipeline.evaluation.table import accuracy_table

    evaluation = Evaluation(data=images, annotations=annotations, profiles=profiles, **_given(others))
    with _progress() as track:
        report = evaluate_accuracy(evaluation, _say, track)
    if as_json:
        echo_json(report)
    else:
        _show(accuracy_table(report))


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """The flags without those whose default is the evaluation's own; the model's file is here afterwards."""
    model = values.pop("model")
    values["model"] = None if model is None else fetched([model], values["models"])[0]
    return {name: value for name, value in values.items() if value is not None}


def _say(text: str) -> None:
    click.echo(text, err=True)


@contextlib.contextmanager
def _progress() -> Iterator[Track]:
    """A progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def track(total: int) -> Callable[[], None]:
            task = progress.add_task("", total=total)
            return lambda: progress.advance(task)

        yield track


def _show(table: RenderableType) -> None:
    from rich.console import Console

    console = Console()
    # A file or a pipe has room for whole figures.
    Console(width=None if console.is_terminal else WIDE).print(table)


def _write(folder: Path, name: str, report: dict[str, Any]) -> None:
    import json

    from splitrtc_errors import SinkError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise SinkError(f"cannot write {folder / name}: {error.strerror or error}") from error
