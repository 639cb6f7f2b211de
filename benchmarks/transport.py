"""What the transport makes of a link, and its counterpart on plain aiortc with a naive sender, in virtual time.

Both transports and the senders are the real ones, the link is the emulator's model, and the event loop's clock jumps
from event to event: so computing takes no time, and the figures are those of the protocol on any machine, however
busy. What a session of two processes makes of it is measured by `benchmarks.link`.

Frames are 9 units of 1 079 bytes, 30 per second; each case is run with some seeds, and the lowest and the highest value
are given.

* ``in_time``: share of all units that are there within the link's delay + 25 ms of their frame's hand-over.
* ``whole``: share of the frames of which all are.
* ``step``: the rate falls from 8 to 1 Mbit/s. ``fresh_again_s``: when the last frame was sent that took longer than the
  link's delay, its own time on the wire and 20 ms; ``highest_age_ms``, of what could be shown, and ``fps`` are those of
  the 4 s from then on.
* ``narrow``: 1 Mbit/s for 2.6 Mbit/s of frames: ``queue_ms``, as p50 and p95, and the greatest least of a third of a
  second, which is the standing queue; ``kbps`` got through, alone and beside a plain flow that sends all it can.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from aiortc.rtcsctptransport import RTCSctpTransport
from rich.progress import Progress

from benchmarks.common import Figure, Option, run_benchmark
from benchmarks.virtual import FPS, UNITS, WIRE, Seen, played
from rtc.link_settings import parse_link
from rtc.sctp import SctpTransport

KINDS = {"ours": SctpTransport, "plain": RTCSctpTransport}
LOSSY = {
    "loss 1 %": "rtt=40,rate=5M,loss=1%",
    "loss 3 %": "rtt=40,rate=5M,loss=3%",
    "loss 5 %": "rtt=40,rate=5M,loss=5%",
    "loss 5 % in bursts of 5": "rtt=40,rate=5M,loss=5%,burst=5",
    "jitter 20 ms": "rtt=40,rate=5M,jitter=20",
    "jitter 40 ms": "rtt=40,rate=5M,jitter=40",
    "reordering 2 %": "rtt=40,rate=8M,reorder=2%",
}
QUEUES = ("15ms", "50ms", "100ms", "300ms")
RTTS = (5, 40, 100)
SLACK = 0.025
FALLS = 4.0

FIGURES = tuple(
    figure
    for case in LOSSY
    for figure in (
        Figure(f"{case}: units in time", f"ours.{case}.in_time"),
        Figure("- plain", f"plain.{case}.in_time"),
    )
)


def span(values: list[float]) -> list[float]:
    """The lowest and the highest."""
    return [round(min(values), 4), round(max(values), 4)]


def lossy(link: str, seconds: float, seeds: int, kind: type[RTCSctpTransport]) -> dict[str, Any]:
    """A link that loses or delays."""
    runs = [played(f"{link},seed={seed}", seconds, kind) for seed in range(1, seeds + 1)]
    settings = parse_link(link)
    limit = settings.delay + settings.jitter + SLACK
    return {
        "in_time": span([run.in_time(limit) for run in runs]),
        "whole": span([sum(took <= limit for took in run.came().values()) / len(run.offered) for run in runs]),
    }


def step(rtt: int, kind: type[RTCSctpTransport]) -> dict[str, Any]:
    """The rate falls."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace")
        trace.write_text(f"{FALLS} rate=1M\n", encoding="utf-8")
        run = played(f"rtt={rtt},rate=8M,trace={trace}", 2 * FALLS, kind)
    fell = run.offered[0] + FALLS
    limit = rtt / 2e3 + WIRE / 1e6 + 0.02
    end = run.offered[-1] - 0.1  # the very last ones wait for newer ones that never come
    late = [
        run.offered[number] for number, took in run.came(0.85).items() if took > limit and run.offered[number] < end
    ]
    low = sorted((run.offered[number] + took, run.offered[number]) for number, took in run.came(1 / UNITS).items())
    low = [(at, offered) for at, offered in low if at >= fell]
    ages = [at - offered for (_, offered), (at, _) in pairwise(low)]
    return {
        "fresh_again_s": round(max(late, default=fell) - fell, 3),
        "highest_age_ms": round(max(ages) * 1e3 + rtt / 2),
        "fps": round(len(low) / (run.offered[-1] - fell), 1),
    }


def narrow(queue: str, seconds: float, kind: type[RTCSctpTransport]) -> dict[str, Any]:
    """A bottleneck, alone and shared."""
    link = f"rtt=40,rate=1M,queue={queue}"
    alone, shared = played(link, seconds, kind), played(link, 2 * seconds, kind, rival=True)
    return {
        "queue_ms": queues(alone),
        "kbps_alone": round(alone.bytes * 8 / seconds / 1e3),
        "kbps_shared": round(shared.bytes * 8 / seconds / 2e3),
        "kbps_rival": round(shared.rival * 8 / seconds / 2e3),
    }


def queues(run: Seen) -> dict[str, float]:
    """How long packets would have waited, once the first two seconds are over."""
    waits = run.queue[2 * FPS * 4 :]
    standing = [min(waits[at : at + 40]) for at in range(0, len(waits) - 40, 40)]
    figures = {"p50": np.percentile(waits, 50), "p95": np.percentile(waits, 95), "standing": max(standing)}
    return {name: round(float(value) * 1e3, 1) for name, value in figures.items()}


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    work: list[tuple[str, str, Callable[[type[RTCSctpTransport]], Any]]] = [
        *((case, "", partial(lossy, link, options.seconds, options.seeds)) for case, link in LOSSY.items()),
        *(("step", f"rtt {rtt}", partial(step, rtt)) for rtt in RTTS),
        *(("narrow", f"queue {queue}", partial(narrow, queue, options.seconds)) for queue in QUEUES),
    ]
    result: dict[str, Any] = {kind: {} for kind in KINDS}
    for case, part, run in progress.track(work, description="transport"):
        for name, kind in KINDS.items():
            if part:
                result[name].setdefault(case, {})[part] = run(kind)
            else:
                result[name][case] = run(kind)
    return {"units": UNITS, "seconds": options.seconds, "seeds": options.seeds, **result}


def main() -> None:
    """Run it from the command line."""
    run_benchmark(
        __file__,
        __doc__ or "",
        FIGURES,
        measure,
        Option("--seconds", 20.0, "virtual seconds of a run"),
        Option("--seeds", 3, "runs of each lossy link"),
    )


if __name__ == "__main__":
    main()
