"""Bytes against accuracy on three sets: the plots and the tables of docs/evaluation.md, and the ladder on the card.

Each set is one run of ``splitrtc eval rate`` with its defaults: all profiles on the model's card, and all pictures. Any
clip and any folder of labelled images will do; leave out what you have not. With ``--write`` the plots go into docs/,
and what was measured becomes the ladder on the card of the bundled model, for which all three sets are needed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import ROOT
from models import Zoo
from models.card import ModelCard
from models.ladder import CONTENTS, Measurement, Rung

PLOTS = {"static": "rate-bottle.png", "moving": "rate-bikes.png", "intra": "rate-images.png"}
MOVING_F1 = "0.945"
"""Agreement at which the fewest bytes are compared where everything moves; elsewhere it is the command's default."""

Report = Mapping[str, Any]


def evaluate(content: str, arguments: Sequence[str], out: Path) -> Report:
    """Run ``splitrtc eval rate`` on one set; returns its report."""
    command = [sys.executable, "-m", "splitrtc", "eval", "rate", "--out", str(out / content)]
    subprocess.run([*command, *arguments], check=True)
    report: Report = json.loads((out / content / "rate.json").read_text(encoding="utf-8"))
    return report


def ladder_of(reports: Mapping[str, Report]) -> list[Rung]:
    """What the reports say of each profile, by content."""
    found: dict[str, list[Measurement]] = {}
    for content, report in reports.items():
        for row in report["contenders"]:
            if row["kind"] == "split":
                found.setdefault(row["name"], []).append(_measurement(content, report, row))
    return [Rung(profile, tuple(measured)) for profile, measured in found.items()]


def _measurement(content: str, report: Report, row: Mapping[str, Any]) -> Measurement:
    labelled = "map_drop" in row
    return Measurement(
        content=content,
        set=f"{report['set']}, {report['frames']} frames",
        bytes=row["bytes_per_frame"],
        encode_ms=row["encode_ms"],
        decode_ms=row["decode_ms"],
        f1=row["agreement"] if labelled else row["f1"],
        f1_ci=tuple(row["agreement_ci"] if labelled else row["ci"]),
        map_drop=row["map_drop"] if labelled else None,
        map_drop_ci=tuple(row["ci"]) if labelled else None,
    )


def with_ladder(card: str, partition: str, ladder: Sequence[Rung]) -> str:
    """The text of a card with this ladder at one of its partitions; the rest stays as it is written."""
    start = card.rindex("{", 0, card.index(f'"name": "{partition}"'))
    cut, end = json.JSONDecoder().raw_decode(card, start)
    cut.pop("ladder", None)
    rungs = []
    for rung in ladder:
        lines = ",\n".join(f"        {json.dumps(one.to_json())}" for one in rung.measured)
        rungs.append(f'      {{"profile": {json.dumps(rung.profile)}, "measured": [\n{lines}\n      ]}}')
    text = json.dumps(cut)[:-1] + ', "ladder": [\n' + ",\n".join(rungs) + "\n    ]}"
    return card[:start] + text + card[end:]


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rates", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--static", metavar="CLIP", help="a clip from a camera that stands still")
    parser.add_argument("--segments", metavar="START:COUNT,...", help="the parts of it to take")
    parser.add_argument("--moving", metavar="CLIP", help="a clip from a camera that moves")
    parser.add_argument("--images", metavar="DIR", help="single images,")
    parser.add_argument("--annotations", metavar="FILE", help="and their labels, in COCO's format")
    parser.add_argument("--jobs", metavar="N", help="how many contenders run at once (default: as many as cores)")
    parser.add_argument("--out", type=Path, default=Path("out/rates"), help="folder for the results (%(default)s)")
    parser.add_argument("--write", action="store_true", help="renew docs/images/ and the card's ladder")
    chosen = parser.parse_args()
    sets = {
        "static": chosen.static and ["--data", chosen.static, *_given("--segments", chosen.segments)],
        "moving": chosen.moving and ["--data", chosen.moving, "--at", MOVING_F1],
        "intra": chosen.images and ["--data", chosen.images, *_given("--annotations", chosen.annotations)],
    }
    if not any(sets.values()):
        parser.error("no set: name --static, --moving or --images")
    if chosen.write and not (all(sets.values()) and chosen.annotations):
        parser.error("--write needs all three sets")
    out: Path = chosen.out.resolve()
    jobs = _given("--jobs", chosen.jobs)
    reports = {content: evaluate(content, [*sets[content], *jobs], out) for content in CONTENTS if sets[content]}
    if chosen.write:
        for content in reports:
            shutil.copy(out / content / "rate.png", ROOT / "docs" / "images" / PLOTS[content])
        _write_ladder(Zoo().get(), ladder_of(reports))


def _given(flag: str, value: str | None) -> list[str]:
    return [] if value is None else [flag, value]


def _write_ladder(card: ModelCard, ladder: Sequence[Rung]) -> None:
    assert card.directory is not None
    path = card.directory / "card.json"
    path.write_text(with_ladder(path.read_text(encoding="utf-8"), card.partition().name, ladder), encoding="utf-8")
    print(f"wrote docs/images/ and the ladder of {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
