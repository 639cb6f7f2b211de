"""What lost slices cost: F1 that a profile gives up on a clip, and the bytes that it takes meanwhile.

Each row is several runs with other slices lost in each, taken together; the interval is that of the difference to the
run without loss, on the same frames (docs/evaluation.md). A loss is ``SHARE`` or ``SHARE/BURST``: 0.05/3 loses 5 %, in
runs of three slices on average.

``--parity N`` says what redundancy would bring: after each frame go N units, each the exclusive or of every N-th slice,
so that one loss in each group can be made good. They are counted and may get lost, but are not coded: what comes back
is exact.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from models import Zoo
from pipeline.evaluation.figures import agreement, given_up, rate_figures
from pipeline.evaluation.material import parse_segments, survey
from pipeline.evaluation.measure import Measured, measure
from pipeline.evaluation.split import Split, parse_profiles
from pipeline.evaluation.vision import DETECTION_SCORE, Vision
from pipeline.offers import points

LOSSES = "0.01,0.05,0.05/3"
PARITY_FIELD = 2
"""Bytes of a slice's length, without which what was recovered would not end where it should."""


@dataclass(frozen=True, slots=True, eq=False)
class Redundant(Split):
    """A profile with units of parity after those of each frame."""

    parity: int = 0

    def sizes(self, units: Sequence[bytes]) -> list[int]:
        """See Split.sizes()."""
        own = Split.sizes(self, units)
        return own + [max(group) + PARITY_FIELD for group in self._groups(own)]

    def received(self, arrived: list[bool], slices: int) -> list[bool]:
        """See Split.received()."""
        received = arrived[:slices]
        for number, there in enumerate(arrived[slices:]):
            group = received[number :: self.parity]
            if there and group.count(False) == 1:
                received[number :: self.parity] = [True] * len(group)
        return received

    def _groups(self, sizes: list[int]) -> list[list[int]]:
        return [sizes[number :: self.parity] for number in range(min(self.parity, len(sizes)))]


def rows(profile: str, losses: list[tuple[float, float]], measured: Measured) -> list[Any]:
    """The figures of one profile: without loss, then by loss."""
    runs = measured.outcomes.items()
    of_profile = {split: run for split, run in runs if isinstance(split, Split) and split.series == profile}
    clean = next(outcomes for split, outcomes in of_profile.items() if not split.loss)
    found = [outcome.found for outcome in clean]
    value, ends = agreement(found, measured.reference, measured.lengths, 0)
    table = [{"profile": profile, "loss": 0.0, "burst": 1.0, "f1": value, "ci": ends, "lost": 0.0, "lost_ci": [0, 0]}]
    table[0] |= {"bytes": rate_figures(clean, measured.lengths)["bytes_per_frame"]}
    for loss, burst in losses:
        lossy = [outcomes for split, outcomes in of_profile.items() if (split.loss, split.burst) == (loss, burst)]
        lost, lost_ci = given_up(
            found, [[one.found for one in run] for run in lossy], measured.reference, measured.lengths
        )
        sizes = [rate_figures(run, measured.lengths)["bytes_per_frame"] for run in lossy]
        row = {"profile": profile, "loss": loss, "burst": burst, "f1": round(value - lost, 4)}
        table.append({**row, "lost": lost, "lost_ci": lost_ci, "bytes": round(sum(sizes) / len(sizes), 1)})
    return table


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.slice_loss",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="CLIP")
    parser.add_argument("--segments", metavar="START:COUNT,...", help="the parts of it to take")
    parser.add_argument("--profiles", metavar="LIST", help="default: the default profile")
    parser.add_argument("--losses", default=LOSSES, metavar="LIST", help="(%(default)s)")
    parser.add_argument("--parity", type=int, default=0, metavar="N", help="units of parity per frame (%(default)s)")
    parser.add_argument("--seeds", type=int, default=8, metavar="N", help="runs of each (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many run at once (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args()
    card = Zoo().get()
    profiles = parse_profiles(chosen.profiles or card.default_profile)
    losses = [
        (float(share), float(burst or 1)) for share, _, burst in (t.partition("/") for t in chosen.losses.split(","))
    ]
    splits = []
    for profile in profiles:
        point = points(Zoo(), model=card.name, profile=profile)[0]
        for loss, burst, seed in [(0.0, 1.0, 0), *((*loss, seed) for loss in losses for seed in range(chosen.seeds))]:
            name = f"{profile} {loss}/{burst} {seed}"
            splits.append(
                Redundant(name, profile, "split", point, loss=loss, burst=burst, seed=seed, parity=chosen.parity)
            )
    material = survey(chosen.data, segments=parse_segments(chosen.segments) if chosen.segments else ())
    vision = Vision(card, splits[0].point.cut, provider="cpu", score=DETECTION_SCORE)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(splits) * len(material.spans))
        measured = measure(splits, material, vision, jobs=chosen.jobs, advance=lambda: progress.advance(task))
    for error in measured.failed.values():
        raise error
    table = [row for profile in profiles for row in rows(profile, losses, measured)]
    if chosen.json:
        print(json.dumps({"set": material.path.name, "frames": material.frames, "seeds": chosen.seeds, "rows": table}))
        return
    shown = Table("profile", "loss", "burst", "bytes", "F1", "given up", "5 - 95 %", title=str(material))
    for row in table:
        low, high = row["lost_ci"]
        figures = f"{row['loss']:.0%}", f"{row['burst']:g}", f"{row['bytes']:.0f}", f"{row['f1']:.3f}"
        shown.add_row(row["profile"], *figures, f"{row['lost']:.4f}", f"{low:.3f} - {high:.3f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
