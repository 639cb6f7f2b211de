"""What a session makes of a bad link, and its counterpart on plain aiortc with a naive sender (`benchmarks.plain`).

An edge process and a UE process on this machine play the bundled clip at 30 fps over an emulated link (`rtc.Relay`),
ours and plain in turn, with the same seeds. Loss is that of each direction. Shares are over the frames that the source
produced.

* A frame is *fresh* when its result was made from 85 % of its data or more and is back within the link's RTT + compute
  + 25 ms of capture. Compute is the time of head, tail and codec. Below 5 Mbit/s the time that its own bytes take at
  the link's rate is added.
* ``answered_share``: a result came within the session's budget, 0.5 s.
* ``mean_slice_share``: the share of the data that was there in time, 0 for a frame whose result came later or that was
  dropped. Frames that vanished without any word are left out: it may be the result that was lost.
* ``f1``: of the detections (class equal, IoU 0.5 or more, scores from the model's display threshold on) against those
  of a run over the same link without loss, over answered frames.
* ``overhead_ms``: from capture to result without compute and without the link's RTT, of answered frames.
* ``payload``: the same with frames of 5 000 bytes in five slices and no model; there fresh asks for 75 %.
* ``transport_cpu_ms``: CPU time of each side per frame of 9 000 bytes in nine slices on a link that does nothing, with
  the making and matching of units but without a model.
* ``rate_step``: the rate falls from 8 to 1 Mbit/s and comes back, without loss. ``fresh_again_s`` is the time from the
  fall until the first result from which on nine of ten of a second's results are fresh; ``highest_age_ms`` the greatest
  age, while the rate was low, of the newest result that there was to be shown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from rich.progress import Progress

from benchmarks.common import PROFILE, Edge, Figure, Option, edge_process, run_benchmark, run_json
from benchmarks.payload import Sent, send_frames
from models import Detections
from models.evaluation.matching import matches
from pipeline.summary import MODEL_AND_CODEC

SLACK_MS = 25.0
ENOUGH = 0.85
PAYLOAD_ENOUGH = 0.75
PAYLOAD_SLICES, PAYLOAD_SIZE = 5, 5_000
CPU_SLICES, CPU_SIZE = 9, 9_000
WIRE_COUNTS_BELOW = 5e6
"""Bits per second below which a frame's own time on the wire is added to the limit."""
HIGH, LOW = 8e6, 1e6
"""Rates of the rate step, in bits per second."""
FALLS, RISES = 0.4, 0.7
"""When it falls and comes back, as a share of the run."""
PARTS = ("clip", "payload", "step", "cpu")
KINDS = {"ours": "splitrtc", "plain": "benchmarks.plain"}

FIGURES = tuple(
    figure
    for path, label in (
        ("fresh_share", "fresh"),
        ("answered_share", "answered"),
        ("mean_slice_share", "data there in time"),
        ("f1", "F1 against no loss"),
        ("bytes_per_frame", "bytes per frame"),
        ("overhead_ms.p50", "overhead p50, ms"),
        ("overhead_ms.p95", "overhead p95, ms"),
        ("payload.fresh_share", "5 KB payload: fresh"),
        ("payload.mean_slice_share", "5 KB payload: slices in time"),
        ("transport_cpu_ms.ue", "CPU per 9 KB frame at the UE, ms"),
        ("transport_cpu_ms.edge", "CPU per 9 KB frame at the edge, ms"),
        ("rate_step.fresh_again_s", "8 to 1 Mbit/s: fresh again after, s"),
        ("rate_step.highest_age_ms", "8 to 1 Mbit/s: highest age, ms"),
    )
    for figure in (Figure(label, path), Figure("- plain", f"plain.{path}"))
)

Frame = dict[str, Any]
"""What `FrameResult.to_json` says of one frame."""


class Played(NamedTuple):
    """One run of the clip: its frames, and when its link was set up (seconds of the machine's monotonic clock)."""

    frames: list[Frame]
    link_started: float
    carried: int
    """Bytes that went over the link."""


class Limits(NamedTuple):
    """What fresh means: milliseconds without compute, RTT included, and bits per second, if those count."""

    rtt: float
    rate: float | None

    def overhead(self, frame: Frame) -> float:
        """Milliseconds of an answered frame's way that are neither compute nor the link's RTT."""
        times = frame["timings_ms"]
        return float(times["total"] - sum(times[stage] for stage in MODEL_AND_CODEC) - self.rtt)

    def in_time(self, overhead: float, size: float) -> bool:
        """Whether that was fast enough for a frame of so many bytes."""
        wire = size * 8e3 / self.rate if self.rate is not None and self.rate < WIRE_COUNTS_BELOW else 0.0
        return overhead <= SLACK_MS + wire

    def fresh(self, frame: Frame) -> bool:
        """Whether a frame's result was fresh."""
        return (
            answered(frame)
            and frame["share_received"] >= ENOUGH
            and self.in_time(self.overhead(frame), frame["bytes_sent"])
        )


def answered(frame: Frame) -> bool:
    """Whether there was a result to show."""
    return frame["detections"] is not None


# Playing


def play(kind: str, edge: Edge, link: str, seconds: float) -> Played:
    """The clip over a link, once."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "frames.jsonl")
        command = ("-m", KINDS[kind], "ue", "--edge", edge.url, "--mode", "split", "--profile", PROFILE, "--json")
        summary = run_json(*command, "--log-level", "error", "--seconds", str(seconds), "--sink", lines, "--link", link)
        frames = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    told = summary["link"]
    return Played(frames, told["started"], told["up"]["delivered_bytes"] + told["down"]["delivered_bytes"])


# Figures


def percentiles(values: Iterable[float]) -> dict[str, float | None]:
    """p50 and p95; None without values."""
    known = list(values)
    if not known:
        return {"p50": None, "p95": None}
    return {f"p{rank}": round(float(np.percentile(known, rank)), 2) for rank in (50, 95)}


def mean(values: Iterable[float]) -> float | None:
    """The mean, None without values."""
    known = list(values)
    return round(sum(known) / len(known), 4) if known else None


def clip_figures(runs: Sequence[Played], reference: dict[int, Frame], limits: Limits) -> dict[str, Any]:
    """The figures of some runs of the clip, taken together."""
    frames = [frame for run in runs for frame in run.frames]
    there = [frame for frame in frames if answered(frame)]
    sent = [frame["bytes_sent"] for frame in frames if frame["bytes_sent"]]

    def share_in_time(frame: Frame) -> float:
        in_time = answered(frame) and limits.in_time(limits.overhead(frame), frame["bytes_sent"])
        return float(frame["share_received"]) if in_time else 0.0

    return {
        "frames_produced": len(frames),
        "fresh_share": mean(limits.fresh(frame) for frame in frames),
        "answered_share": mean(map(answered, frames)),
        "mean_slice_share": mean(share_in_time(frame) for frame in frames if frame["status"] != "lost"),
        "f1": f1((frame, reference[frame["index"]]) for frame in there if frame["index"] in reference),
        "bytes_per_frame": round(sum(sent) / max(len(sent), 1), 1),
        "overhead_ms": percentiles(map(limits.overhead, there)),
        "dropped_at": count(frame["dropped_at"] for frame in frames if frame["dropped_at"]),
        "link_bytes_per_frame": round(sum(run.carried for run in runs) / max(len(frames), 1), 1),
        "fresh_share_of_runs": [mean(map(limits.fresh, run.frames)) for run in runs],
    }


def count(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs."""
    known = list(names)
    return {name: known.count(name) for name in sorted(set(known))}


def payload_figures(runs: Sequence[Sent], limits: Limits, size: float) -> dict[str, Any]:
    """The figures of some runs with the test payload, taken together."""
    produced = sum(run.frames for run in runs)
    answers = [answer for run in runs for answer in run.answers.values()]
    overheads = [answer.seconds * 1e3 - limits.rtt for answer in answers]
    in_time = [
        answer.share for answer, overhead in zip(answers, overheads, strict=True) if limits.in_time(overhead, size)
    ]
    return {
        "frames_produced": produced,
        "fresh_share": round(sum(share >= PAYLOAD_ENOUGH for share in in_time) / produced, 4),
        "answered_share": round(len(answers) / produced, 4),
        "mean_slice_share": round(sum(in_time) / produced, 4),
        "overhead_ms": percentiles(overheads),
    }


def cpu_figures(runs: Sequence[Sent]) -> dict[str, float]:
    """Milliseconds of CPU time per frame, of each side: the median of some runs."""
    return {
        side: round(statistics.median(getattr(run, f"{side}_cpu") / run.frames for run in runs) * 1e3, 3)
        for side in ("ue", "edge")
    }


def step_figures(runs: Sequence[Played], seconds: float, rtt: float) -> dict[str, Any]:
    """The figures of the rate step: of several runs the worst."""
    looks = [step_of(run, seconds, Limits(rtt, LOW)) for run in runs]
    again = [look[0] for look in looks]
    return {
        "fresh_again_s": None if None in again else max(again, default=None),  # type: ignore[type-var]
        "highest_age_ms": max(look[1] for look in looks),
        "answered_share_while_low": mean(look[2] for look in looks),
    }


def step_of(run: Played, seconds: float, limits: Limits) -> tuple[float | None, float, float]:
    """Of one run, while the rate is low: seconds until fresh again, the highest age shown (ms), the share answered."""
    falls, rises = run.link_started + FALLS * seconds, run.link_started + RISES * seconds
    results = [(f["captured"] + f["timings_ms"]["total"] / 1e3, f) for f in run.frames if answered(f)]
    results.sort(key=lambda result: result[0])
    low = [(at, frame) for at, frame in results if falls <= at < rises]
    again = None
    for at, frame in low:
        second = [limits.fresh(other) for when, other in low if at <= when < at + 1]
        if limits.fresh(frame) and sum(second) >= 0.9 * len(second):
            again = round(at - falls, 3)
            break
    shown = max((frame["captured"] for at, frame in results if at < falls), default=falls)
    age = 0.0
    for at, captured in [*((at, frame["captured"]) for at, frame in low), (rises, rises)]:
        age = max(age, at - shown)  # just before this one took its place
        shown = max(shown, captured)
    produced = [frame for frame in run.frames if falls <= frame["captured"] < rises]
    return again, round(age * 1e3, 1), mean(map(answered, produced)) or 0.0


# Detections


def f1(pairs: Iterable[tuple[Frame, Frame]]) -> float | None:
    """F1 of detections against those of a reference, over pairs of frames; None when neither ever had any."""
    hits = found = wanted = 0
    for frame, reference in pairs:
        hits += matches(detections(frame["detections"]), detections(reference["detections"]))
        found += len(frame["detections"])
        wanted += len(reference["detections"])
    return round(2 * hits / (found + wanted), 4) if found + wanted else None


def detections(found: Sequence[Frame]) -> Detections:
    """The detections of a frame, from their JSON."""
    return Detections(
        np.array([one["box"] for one in found], np.float32).reshape(-1, 4),
        np.array([one["score"] for one in found], np.float32),
        np.array([one["class"] for one in found], np.int64),
    )


# The benchmark


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"no part {', '.join(sorted(unknown))}: expected {', '.join(PARTS)}")
    limits = Limits(options.rtt, options.rate * 1e6 if options.rate else None)
    whole = f"rtt={options.rtt}" + (f",rate={options.rate}M" if options.rate else "")
    lossy = whole + (f",loss={options.loss}%" if options.loss else "") + (f",{options.link}" if options.link else "")
    if options.burst:
        lossy += f",burst={options.burst}"
    clips: dict[str, list[Played]] = {kind: [] for kind in KINDS}
    payloads: dict[str, list[Sent]] = {kind: [] for kind in KINDS}
    cpu: dict[str, list[Sent]] = {kind: [] for kind in KINDS}
    steps: dict[str, list[Played]] = {kind: [] for kind in KINDS}
    reference: dict[int, Frame] = {}
    with (
        edge_process() as ours,
        edge_process(program=KINDS["plain"]) as plain,
        tempfile.TemporaryDirectory() as folder,
    ):
        edges = {"ours": ours, "plain": plain}
        trace = Path(folder, "step")
        trace.write_text(
            f"{FALLS * options.seconds:.3f} rate={LOW:.0f}\n{RISES * options.seconds:.3f} rate={HIGH:.0f}\n",
            encoding="utf-8",
        )
        if "clip" in parts:
            complete = play("ours", ours, whole, options.seconds).frames
            reference = {frame["index"]: frame for frame in complete if frame["status"] == "ok"}
        for number in progress.track(range(1, options.runs + 1), description="link"):
            for kind, edge in edges.items():
                if "clip" in parts:
                    clips[kind].append(play(kind, edge, f"{lossy},seed={number}", options.seconds))
                if "payload" in parts:
                    link = f"{lossy},seed={number}"
                    sending = send_frames(kind, link, options.seconds, PAYLOAD_SLICES, PAYLOAD_SIZE)
                    payloads[kind].append(asyncio.run(sending))
                if "cpu" in parts:
                    cpu[kind].append(asyncio.run(send_frames(kind, "rtt=0", options.seconds, CPU_SLICES, CPU_SIZE)))
                if "step" in parts:
                    step = f"rtt={options.rtt},rate={HIGH:.0f},trace={trace},seed={number}"
                    steps[kind].append(play(kind, edge, step, options.seconds))
    result: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        result[kind] = clip_figures(clips[kind], reference, limits)
        result[kind]["payload"] = payload_figures(payloads[kind], limits, 5_100) if payloads[kind] else None
        result[kind]["transport_cpu_ms"] = cpu_figures(cpu[kind]) if cpu[kind] else None
        result[kind]["rate_step"] = step_figures(steps[kind], options.seconds, options.rtt) if steps[kind] else None
    return {"link": lossy, "runs": options.runs, **result["ours"], "plain": result["plain"]}


def main() -> None:
    """Run it from the command line."""
    run_benchmark(
        __file__,
        __doc__ or "",
        FIGURES,
        measure,
        Option("--rtt", 40.0, "milliseconds there and back"),
        Option("--loss", 1.0, "percent of the packets lost, each way"),
        Option("--rate", 5.0, "Mbit/s each way, 0: no limit"),
        Option("--burst", 0.0, "mean packets lost in a row, 0: each is lost independently"),
        Option("--link", "", "further settings of the link, as in reorder=2%%,jitter=5"),
        Option("--runs", 2, "runs of each kind, taken together"),
        Option("--seconds", 10.0, "seconds of a run; the clip has ten"),
        Option("--parts", ",".join(PARTS), "what to measure"),
    )


if __name__ == "__main__":
    main()
