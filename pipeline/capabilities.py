"""What this machine can do, for either end (TR 26.927 clauses 5.2.3.2 step 1, 6.6.5). What is here blocks."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from models import available_providers, profile_ids
from models.information import EndpointCapabilities
from models.runtime import runtime_version
from pipeline.measured import remembered

if TYPE_CHECKING:
    from models.runtime import Submodel

__all__ = ["capabilities", "probe", "run_ms"]

PROBE_SECONDS = 0.6
"""That the probe runs at most, on a machine on which one run of it takes less than half of that."""
PROBE_RUNS = 15
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def capabilities(provider: str = "auto", threads: int = 1) -> EndpointCapabilities:
    """This machine; ``provider`` and ``threads`` are what models are asked to run on. Up to a second the first time.

    MissingDependency without a runtime.
    """
    runtime = f"ONNX Runtime {runtime_version()}"
    found = available_providers()
    return EndpointCapabilities(
        frameworks=("ONNX",),
        profiles=profile_ids(),
        flops=probe(),
        speedup=probe(threads) / probe() if threads > 1 else None,
        memory=_memory(),
        runtime=runtime,
        providers=tuple(name for name in reversed(found) if provider in ("auto", name)),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )


def probe(threads: int = 1) -> float:
    """Floating-point operations per second (two for each MAC) of so many threads; from the cache, if asked before."""
    return remembered(f"probe {threads}", lambda: _measure(threads))["flops"]


def _measure(threads: int) -> dict[str, float]:
    from models import load_submodel
    from models.probe import PROBE_MACS, probe_model  # loads onnx, which is needed only the first time

    submodel = load_submodel(probe_model(), provider="cpu", threads=threads)
    return {"flops": 2e3 * PROBE_MACS / run_ms(submodel, PROBE_RUNS, PROBE_SECONDS)}


def run_ms(
    submodel: Submodel, runs: int = 5, seconds: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Milliseconds of a run on zeros: the median of so many, of fewer where they would take longer than ``seconds``."""
    taken: list[float] = []
    began = clock()
    while len(taken) <= runs and (len(taken) < 2 or clock() - began < seconds):
        before = clock()
        submodel.warm_up(runs=1)
        taken.append(clock() - before)
        if taken[0] > seconds / 2:  # so slow that the first run's preparations do not count
            break
    return 1e3 * statistics.median(taken[1:] or taken)


def _memory() -> int | None:
    """Bytes that are to be had, where the system says so."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        found.append(int(_MEMORY_LIMIT.read_text()))  # "max" where there is none
    return min(found, default=None)
