"""Measured time: of each node, by ONNX Runtime's profiler, and of a model or a part as a whole.

What is measured is what will run: the optimised graph. Its nodes are other ones, so each one's time is given to the
node of the model whose work it does: a convolution with its activation counts for the convolution. The profiler slows
the run down, hence the times of the nodes are scaled to add up to the run without it. Of several runs the shortest
counts: what else the machine does only adds to it.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.graph.file import has_external
from models.graph.parts import Part
from models.graph.running import Values, whole
from models.runtime import open_session
from splitrtc_errors import ModelError

if TYPE_CHECKING:
    from models.graph.costs import Costs
    from models.graph.datapath import DataPath
    from models.graph.index import Graph

__all__ = ["Event", "NodeTimes", "attribute", "read_events", "time_nodes", "time_parts"]

RUNS = 10
WARM_UPS = 3
MAX_STEPS_BACK = 8
"""Nodes that the runtime fuses into one, at most."""

_KERNEL = "_kernel_time"
_ADDED = re.compile(r"Reorder(Input|Output)(_token_\d+)?")
"""Nodes that the runtime puts in, which bring a tensor into the convolutions' layout and back."""


@dataclass(frozen=True, slots=True)
class Event:
    """A node of the graph that the runtime made, in the order of execution: name, operator, milliseconds."""

    name: str
    op_type: str
    ms: float


@dataclass(frozen=True, slots=True)
class NodeTimes:
    """Milliseconds of each node of a data path, by place, and of a run of the whole model, which they add up to."""

    nodes: tuple[float, ...]
    whole: float


def time_parts(
    parts: Sequence[Part],
    values: Values,
    runs: int = RUNS,
    threads: int = 1,
    provider: str = "cpu",
    progress: Callable[[int], object] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Return the milliseconds of a run of each part, the shortest of several; ModelError when one does not run.

    They run in turns, so that all meet the same machine. ``values`` are the inputs of all of them, by name, as the
    outputs of the parts before; ``progress`` is told how many of the ``runs`` rounds are done more. ``clock`` gives
    seconds; `time.thread_time` is one that other programs do not disturb, right for one thread on the CPU.
    """
    with contextlib.ExitStack() as stack:
        running = [_Running(stack.enter_context(_session(part, threads, provider)), part, values) for part in parts]
        for each in running:
            each.run(WARM_UPS)
        shortest = [math.inf] * len(parts)
        for _ in range(runs):
            shortest = [min(so_far, each.run(1, clock)) for so_far, each in zip(shortest, running, strict=True)]
            progress(1)
        return shortest


def time_nodes(
    costs: Costs,
    values: Values,
    runs: int = RUNS,
    threads: int = 1,
    provider: str = "cpu",
    progress: Callable[[int], object] = lambda _: None,
) -> NodeTimes:
    """Measure what each node takes in a run of the whole model; ModelError when it does not run.

    ``progress`` is told how many of the ``2 * runs`` runs are done more.
    """
    part = whole(costs.model)
    (total,) = time_parts([part], values, runs, threads, provider, progress)
    with tempfile.TemporaryDirectory() as folder, _session(part, threads, provider, Path(folder, "profile")) as session:
        running = _Running(session, part, values)
        running.run(WARM_UPS)
        for _ in range(runs):
            running.run(1)
            progress(1)
        events = read_events(json.loads(Path(session.end_profiling()).read_bytes()))
    nodes = attribute(costs.model.graph, costs.path, events)
    scale = total / (sum(nodes) or 1.0)
    return NodeTimes(tuple(ms * scale for ms in nodes), total)


@contextlib.contextmanager
def _session(part: Part, threads: int, provider: str, profile: Path | None = None) -> Iterator[Any]:
    """A session for a part: loaded from a file where its weights lie in others."""
    if not has_external(part.proto):
        yield open_session(part.to_bytes(), provider, threads, profile=profile)
        return
    with tempfile.TemporaryDirectory() as folder:
        part.write(Path(folder, "part.onnx"))
        yield open_session(Path(folder, "part.onnx"), provider, threads, profile=profile)


class _Running:
    """A session with what it runs on."""

    def __init__(self, session: Any, part: Part, values: Values) -> None:
        self._session = session
        self._names = [value.name for value in part.proto.graph.output]
        wanted = [value.name for value in part.proto.graph.input]
        self._feed = {name: values[name] for name in wanted if values.get(name) is not None}

    def run(self, times: int, clock: Callable[[], float] = time.perf_counter) -> float:
        """Run so often; returns the milliseconds of the last run."""
        took = 0.0
        try:
            for _ in range(times):
                begin = clock()
                self._session.run(self._names, self._feed)
                took = (clock() - begin) * 1e3
        except Exception as error:  # ONNX Runtime's exceptions have no other common base
            raise ModelError(f"the run failed: {' '.join(str(error).split())[:500]}") from error
        return took


def read_events(trace: Iterable[Any]) -> list[Event]:
    """Read what the profiler wrote: the nodes of the main graph in their order, each with its shortest time."""
    took: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    for event in trace:
        name = event["name"]
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            took.setdefault(name.removesuffix(_KERNEL), []).append(event["dur"] / 1e3)
            operators[name.removesuffix(_KERNEL)] = event["args"]["op_name"]
    return [Event(name, operators[name], min(times)) for name, times in took.items()]


def attribute(graph: Graph, path: DataPath, events: Sequence[Event]) -> list[float]:
    """Return the milliseconds of each node of the data path, by place; what belongs to none is left out."""
    finder = _Finder(graph, path, events)
    times = [0.0] * len(path.nodes)
    last = 0
    waiting = 0.0
    for event in events:
        added = _ADDED.fullmatch(event.name)
        if added and added[1] == "Input":
            waiting += event.ms  # for the node that comes next
            continue
        place = None if added else finder.place(event)
        last = last if place is None else place
        if times:
            times[last] += event.ms + waiting
        waiting = 0.0
    return times


class _Finder:
    """Which node of the model an event stands for."""

    def __init__(self, graph: Graph, path: DataPath, events: Sequence[Event]) -> None:
        self._graph, self._path = graph, path
        self._places = {graph.node_names[node]: place for place, node in enumerate(path.nodes)}
        self._makers = {graph.tensor_names[t]: place for t, place in path.maker.items()}
        self._named = {event.name for event in events}

    def place(self, event: Event) -> int | None:
        name = event.name
        if name in self._places:
            return self._back(self._places[name], event.op_type)
        if name.endswith("_nchwc"):  # a convolution in the runtime's own layout, named by what it makes
            name = name.removesuffix("_nchwc")
            if name in self._makers:
                return self._back(self._makers[name], event.op_type)
            if name in self._places:
                return self._places[name]
        while cut := max(name.rfind("/"), name.rfind("_")):  # fusions name themselves behind one of their nodes
            if cut < 0:
                return None
            name = name[:cut]
            if name in self._places:
                return self._back(self._places[name], event.op_type)
            if name in self._makers:
                return self._back(self._makers[name], event.op_type)
        return None

    def _back(self, place: int, op_type: str) -> int:
        """From the end of a fused chain to the node that gave it its operator, if there is one."""
        graph, path = self._graph, self._path
        at = [place]
        for _ in range(MAX_STEPS_BACK):
            for here in at:
                if graph.op_types[path.nodes[here]] == op_type:
                    return here
            at = [
                path.maker[t]
                for here in at
                for t in path.reads[here]
                if t in path.maker and graph.node_names[path.nodes[path.maker[t]]] not in self._named
            ]
        return place
