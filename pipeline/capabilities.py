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
CHANNELS, EXPANDED, EDGE, BLOCKS = 32, 192, 38, 3
PROBE_MACS = BLOCKS * EDGE * EDGE * EXPANDED * (2 * CHANNELS + 9)
"""Three inverted bottlenecks, of which most heads on small devices are made: 61 million MACs."""
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def capabilities(provider: str = "auto") -> EndpointCapabilities:
    """This machine; ``provider`` is what models are asked to run on. Takes up to a second the first time.

    MissingDependency without a runtime.
    """
    runtime = f"ONNX Runtime {runtime_version()}"
    found = available_providers()
    return EndpointCapabilities(
        frameworks=("ONNX",),
        profiles=profile_ids(),
        flops=probe(),
        memory=_memory(),
        runtime=runtime,
        providers=tuple(name for name in reversed(found) if provider in ("auto", name)),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )


def probe() -> float:
    """Floating-point operations per second (two for each MAC) of one thread; from the cache, if it was asked before."""
    return remembered(f"probe {PROBE_MACS}", _measure)["flops"]


def _measure() -> dict[str, float]:
    from models import load_submodel

    submodel = load_submodel(_probe_model(), provider="cpu")
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


def _probe_model() -> bytes:
    """Inverted bottlenecks one after the other, as MobileNetV2 has them."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    nodes, weights, last = [], [], "x"

    def convolution(name: str, source: str, shape: tuple[int, ...], group: int = 1) -> str:
        values = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"{name} weights"))
        pads = [shape[2] // 2] * 4
        nodes.append(helper.make_node("Conv", [source, f"{name} weights"], [name], group=group, pads=pads))
        return name

    def activation(source: str) -> str:
        nodes.append(helper.make_node("Clip", [source, "low", "high"], [f"{source} clipped"]))
        return f"{source} clipped"

    for block in range(BLOCKS):
        wide = activation(convolution(f"expand {block}", last, (EXPANDED, CHANNELS, 1, 1)))
        deep = activation(convolution(f"depthwise {block}", wide, (EXPANDED, 1, 3, 3), EXPANDED))
        last = convolution(f"project {block}", deep, (CHANNELS, EXPANDED, 1, 1))
    weights += [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("low", 0), ("high", 6))]
    shape = (1, CHANNELS, EDGE, EDGE)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", last)]
    graph = helper.make_graph(nodes, "probe", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _memory() -> int | None:
    """Bytes that are to be had, where the system says so."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        found.append(int(_MEMORY_LIMIT.read_text()))  # "max" where there is none
    return min(found, default=None)
