"""Time of pre- and post-processing of every model of the zoo, on one core; no model file is needed.

Prepared is a frame of 640x480. Read are made-up outputs of the model's shapes that are crowded: so many boxes score
above the threshold that as many as are allowed (512) enter the suppression, which photographs seldom come near. Each
is the median of ``--runs`` calls after a first one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from benchmarks.common import Figure, Option, run_benchmark
from models import Detector, ModelCard, Preprocessor, Zoo

FIGURES = tuple(
    Figure(f"{name}, {what}", f"{name}.{what}", "ms") for name in Zoo().names() for what in ("prepare_ms", "decode_ms")
)


def crowded(card: ModelCard) -> list[NDArray[Any]]:
    """Outputs of a model, in which some percent of the scores are high."""
    random = np.random.default_rng(0)
    outputs: list[NDArray[Any]] = []
    for spec in card.outputs:
        values = random.random(spec.shape)
        if not spec.dtype.startswith("float"):
            values = values * len(card.labels)
        elif spec.shape[-1] == len(card.labels):
            values **= 40
        elif spec.shape[-1] == len(card.labels) + 5:
            values[..., 4:] **= 15
        elif spec.shape[1] == len(card.labels) + 5:
            values[:, 5:] **= 15
        outputs.append(values.astype(spec.dtype))
    return outputs


def median_ms(call: Callable[[], object], runs: int) -> float:
    """Median time of a call."""
    times = []
    call()
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return round(statistics.median(times) * 1e3, 3)


def measure(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run the benchmark."""
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    result = {}
    for name in progress.track(Zoo().names(), description="task layer"):
        card = Zoo().get(name)
        preprocessor, detector, outputs = Preprocessor(card), Detector(card), crowded(card)
        result[name] = {
            "prepare_ms": median_ms(partial(preprocessor.prepare, frame), options.runs),
            "decode_ms": median_ms(partial(detector.decode, outputs), options.runs),
        }
    return result


if __name__ == "__main__":
    run_benchmark(__file__, __doc__ or "", FIGURES, measure, Option("--runs", 200, "calls to take the median of"))
