"""A profile on the bundled model's features: CPU time of one thread, and what it costs to cut frames into slices.

Each frame is encoded twice: into units of at most 1 160 bytes, as the link has them, and into one unit however large.
``--data`` names a video file, all frames of which follow each other, or a folder, whose pictures stand alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.progress import Progress

from benchmarks.common import Figure, Option, run_benchmark
from models import PartitionStore, Preprocessor, Zoo, load_submodel, make_decoder, make_encoder, parse_profile
from pipeline.clip import CLIP
from pipeline.evaluation.material import survey
from pipeline.offers import points
from rtc import unit_payload_limit, units_of_frame

FIGURES = (
    Figure("bytes of a frame, whole units", "bytes_per_frame", "B"),
    Figure("units of a frame", "units_per_frame"),
    Figure("bytes of a frame in one unit", "whole_bytes_per_frame", "B"),
    Figure("bytes added by slices", "added_percent", "%"),
    Figure("encode, CPU time of the thread", "encode_ms", "ms"),
    Figure("decode, CPU time of the thread", "decode_ms", "ms"),
)
WHOLE = 10**6
"""Bytes that no frame exceeds."""


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    point = points(Zoo(), profile=options.profile)[0]
    partition = PartitionStore().get(point.card, point.cut.tensors)
    head, preprocessor = load_submodel(partition.head_path, "cpu"), Preprocessor(point.card)
    profile = parse_profile(point.profile)
    material = survey(Path(options.data), frames=options.frames)
    sizes: list[int] = []
    units: list[int] = []
    wholes: list[int] = []
    encode: list[float] = []
    decode: list[float] = []
    task = progress.add_task("codec", total=material.frames)
    for images in material.read():
        encoder = make_encoder(profile, partition.crossing, point.calibration, unit_payload_limit())
        other = make_encoder(profile, partition.crossing, point.calibration, WHOLE)
        decoder = make_decoder(profile, partition.crossing, point.calibration)
        for frame_id, image in enumerate(images, 1):
            features = head.run([preprocessor.prepare(image)])
            times = [time.thread_time()]
            frame = encoder.encode(frame_id, features)
            times.append(time.thread_time())
            decoder.decode(frame_id, frame.slices, frame.intra, frame.reference)
            times.append(time.thread_time())
            encode.append(times[1] - times[0])
            decode.append(times[2] - times[1])
            whole = other.encode(frame_id, features)
            for coded, one in ((encoder, frame), (other, whole)):
                coded.acknowledged(frame_id, [True] * len(one.slices))
            made = units_of_frame(1, frame_id, 0, frame.slices, frame.intra, frame.reference)
            units.append(len(made))
            sizes.append(sum(map(len, made)))
            header = len(made[0]) - len(frame.slices[0])
            wholes.append(sum(map(len, whole.slices)) + header * len(whole.slices))
            progress.advance(task)
    return {
        "profile": options.profile,
        "data": material.path.name,
        "frames": material.frames,
        "bytes_per_frame": round(statistics.fmean(sizes), 1),
        "units_per_frame": round(statistics.fmean(units), 2),
        "whole_bytes_per_frame": round(statistics.fmean(wholes), 1),
        "added_percent": round(100 * (sum(sizes) / sum(wholes) - 1), 2),
        "encode_ms": round(statistics.median(encode) * 1e3, 3),
        "decode_ms": round(statistics.median(decode) * 1e3, 3),
    }


if __name__ == "__main__":
    run_benchmark(
        __file__,
        __doc__ or "",
        FIGURES,
        measure,
        Option("--data", str(CLIP), "video file or folder of pictures"),
        Option("--frames", 300, "frames, or pictures, at most"),
        Option("--profile", "klt:step=1", "profile to measure"),
    )
