"""``splitrtc calibrate``: makes the file that the quantised profiles need, from pictures like those to come."""

from __future__ import annotations

from pathlib import Path

import click

from models.zoo import DEFAULT_MODEL
from pipeline.cli.common import common_options, echo_json, option, set_up_logging
from splitrtc_errors import BadArgument, SinkError

__all__ = ["calibrate"]

EXAMPLES = """\b
Examples:
  splitrtc calibrate --images ./pictures
  splitrtc calibrate --images ./pictures --clip street.mp4 --model M --partition P
  splitrtc calibrate --images ./pictures --profile q8 --out q8.calibration.json      without torch
  splitrtc calibrate --images ./pictures --profile pca --profile q8-range --update   keep the rest of the file
"""


@click.command(epilog=EXAMPLES)
@option("--model", default=DEFAULT_MODEL, metavar="M", help="A model of the zoo.")
@option("--partition", metavar="P", help="A cut of it: a name from `splitrtc models`, or an id (default: its own).")
@option(
    "--images",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of 50 to 100 pictures like those to come; they need no labels.",
)
@option("--every", type=int, default=1, metavar="N", help="Take every Nth picture by name, from the first.")
@option(
    "--clip",
    type=click.Path(path_type=Path),
    help="Video from which to learn how frames follow each other (default: pictures that are moved a little).",
)
@option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="F",
    help="Make what this profile needs; may be repeated (default: what any profile needs).",
)
@option("--update", is_flag=True, help="Keep the file's ranges, and what other profiles need, as they are.")
@option("--percentile", type=float, metavar="X", help="Percent of values clamped at each end of a range.")
@option("--made-from", metavar="TEXT", help="What to say of the pictures in the file (default: how many).")
@option("--out", type=click.Path(path_type=Path), help="File to write (default: the one that the card names).")
@option(
    "--models",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Further folder of model cards; may be repeated.",
)
@common_options
def calibrate(
    model: str,
    partition: str | None,
    images: Path,
    every: int,
    clip: Path | None,
    profiles: tuple[str, ...],
    update: bool,
    percentile: float | None,
    made_from: str | None,
    out: Path | None,
    folders: tuple[Path, ...],
    as_json: bool,
    log_level: str,
    debug: bool,
) -> None:
    """Learn ranges, transforms and probabilities of a model's intermediate data from pictures."""
    set_up_logging(log_level, debug)
    from rich.console import Console
    from rich.progress import Progress

    from models import Zoo, calibration_for, needs_calibration, parse_profile
    from models.calibrate import Material, images_in
    from models.calibrate import calibrate as make
    from models.calibration import DEFAULT_PERCENTILE, TABLES, Calibration
    from models.default_cut import with_cut

    parsed = [parse_profile(profile) for profile in profiles]
    if needless := [str(profile) for profile in parsed if not needs_calibration(profile)]:
        raise BadArgument(f"profile {needless[0]} needs no calibration")
    tables = frozenset().union(*map(calibration_for, parsed)) if parsed else frozenset(TABLES)
    card = with_cut(Zoo(folders).get(model))
    cut = card.partition(partition)
    path = out or card.calibration_path(cut)
    if path is None:
        raise BadArgument(f"the card of model {card.name} names no calibration file for it: say where with --out")
    kept = None
    if update:
        kept = Calibration.load(path)
        if kept.partition != card.partition_id(cut):
            raise BadArgument(f"{path} was made for another model or cut: make it anew, without --update")
        if made_from is None:
            made_from = kept.made_from
    material = Material(images_in(images, every), clip, made_from)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"calibrating {card.name} at {cut.name}")
        data = make(
            card,
            cut,
            material,
            tables=tables,
            kept=kept,
            percentile=DEFAULT_PERCENTILE if percentile is None else percentile,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    try:
        path.write_bytes(data)
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror}") from error
    made = Calibration.from_bytes(data)
    facts = {"file": str(path), "digest": made.digest, "bytes": len(data), "made_from": made.made_from}
    if as_json:
        echo_json(facts)
    else:
        click.echo(f"{path}: {made.digest}, {len(data)} bytes, made from {made.made_from}")
