"""Verification: that the parts of a model compute what the whole does.

Without graph optimisations the same kernels run on the same values, so any difference is a wrong cut: parts and whole
must agree bit for bit. With them, fusions that a cut prevents sum in another order; what results is equal within a
tolerance, and the fused nodes are named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.graph.cuts import Cut, after
from models.graph.fusion import fused_across
from models.graph.model import Model
from models.graph.parts import split
from models.graph.running import Runner, Values, difference, find_inputs, whole
from splitrtc_errors import CutError, ModelError

__all__ = ["RELATIVE_TOLERANCE", "OutputDifference", "Sweep", "Verification", "sweep", "verify"]

RELATIVE_TOLERANCE = 1e-3
"""With optimisations on: the largest difference that is taken for rounding, relative to the output's largest value."""


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """An output, its largest absolute difference, and that relative to the largest value (at least 1) of the output."""

    name: str
    largest: float
    relative: float

    @property
    def exact(self) -> bool:
        """Whether it is the same bit for bit."""
        return self.largest == 0.0


@dataclass(frozen=True, slots=True)
class Verification:
    """What a comparison of the parts with the whole model found.

    ``fused`` says, with optimisations on, what the runtime fuses in the whole model across the cut.
    """

    outputs: tuple[OutputDifference, ...]
    optimised: bool
    fused: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether all outputs are the same bit for bit."""
        return all(output.exact for output in self.outputs)

    @property
    def ok(self) -> bool:
        """Whether the parts are right: exact, or with optimisations on within the tolerance."""
        return self.exact or (self.optimised and all(o.relative <= RELATIVE_TOLERANCE for o in self.outputs))

    def to_json(self) -> dict[str, Any]:
        """The same as plain values; an infinite difference (another shape, a text) is None."""
        outputs = [
            {key: None if value == float("inf") else value for key, value in asdict(output).items()}
            for output in self.outputs
        ]
        return {
            "ok": self.ok,
            "exact": self.exact,
            "optimised": self.optimised,
            "outputs": outputs,
            "fused": list(self.fused),
        }


def verify(
    model: Model, cuts: Sequence[Cut], inputs: Values | None = None, optimise: bool = False, provider: str = "cpu"
) -> Verification:
    """Run the parts of a model one after the other, and the whole model, on the same inputs, and compare.

    ``inputs`` are real ones, by name; None makes some (`find_inputs`). Raises CutError when it cannot be cut there,
    ModelError when the runtime cannot run the whole or a part.
    """
    inputs = model.example = find_inputs(model) if inputs is None else inputs
    expected = Runner(whole(model), optimise, provider).run(inputs)
    values = dict(inputs)
    for part in split(model, cuts):
        values = Runner(part, optimise, provider).run(values)
    fused = tuple(line for cut in cuts for line in fused_across(model, cut)) if optimise else ()
    return Verification(_differences(expected, values), optimise, fused)


def _differences(expected: Values, found: Values) -> tuple[OutputDifference, ...]:
    return tuple(
        OutputDifference(name, largest, largest / _scale(value))
        for name, value in expected.items()
        for largest in [difference(value, found[name])]
    )


def _scale(value: Any) -> float:
    array = np.asarray(value) if not isinstance(value, (list, dict)) else np.zeros(0)
    if array.dtype.kind not in "fiu" or not array.size:
        return 1.0
    finite = array[np.isfinite(array)]
    return max(1.0, float(np.max(np.abs(finite.astype(np.float64)), initial=0.0)))


@dataclass(frozen=True, slots=True)
class Sweep:
    """What cutting a model after each of its nodes found.

    Attributes:
        nodes: how many nodes the model has.
        cuts: at how many of them it can be cut, and the runtime runs both parts.
        distinct: how many different sets of crossing tensors these are.
        verified: how many of ``cuts`` are the same as the whole bit for bit.
        exceptions: the nodes where it cannot be cut or run, and why.
        different: the nodes where the parts do not compute what the whole does, and how far they are apart.
        inputs: shapes of the inputs that it ran on, of those that are tensors.
    """

    nodes: int
    cuts: int
    distinct: int
    verified: int
    exceptions: tuple[tuple[str, str], ...]
    different: tuple[tuple[str, str], ...]
    inputs: Mapping[str, tuple[int, ...]]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "nodes": self.nodes,
            "cuts": self.cuts,
            "distinct": self.distinct,
            "verified": self.verified,
            "exceptions": [{"node": node, "reason": reason} for node, reason in self.exceptions],
            "different": [{"node": node, "reason": reason} for node, reason in self.different],
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
        }


def sweep(
    model: Model,
    inputs: Values | None = None,
    nodes: Sequence[str] | None = None,
    workers: int = 1,
    progress: Callable[[int], object] = lambda _: None,
) -> Sweep:
    """Cut a model after each node (or each of ``nodes``), and check every cut bit for bit.

    For each set of crossing tensors the real head runs, then the real tail on what it gave, and that has to be what the
    whole model gives. ``progress`` is told how many nodes are done more.

    Raises ModelError when the whole model does not run, or gives something else each time.
    """
    graph = model.graph
    inputs = model.example = find_inputs(model) if inputs is None else inputs
    by_crossing: dict[tuple[str, ...], tuple[Cut, list[str]]] = {}
    for node in graph.node_names if nodes is None else nodes:
        cut = after(graph, node)
        by_crossing.setdefault(cut.crossing, (cut, []))[1].append(node)
    runner = Runner(whole(model))
    expected, again = runner.run(inputs), runner.run(inputs)
    for name, value in expected.items():
        if difference(value, again[name]) > 0:
            raise ModelError(f"two runs of the whole model on the same inputs differ in {name}")

    def check(cut: Cut) -> str | float:
        try:
            values = inputs
            for part in split(model, [cut]):
                values = Runner(part).run(values)
            return max((difference(value, values[name]) for name, value in expected.items()), default=0.0)
        except (CutError, ModelError) as error:
            return str(error)

    results: dict[str, str | float] = {}
    distinct = 0
    with ThreadPoolExecutor(workers) as pool:
        groups = list(by_crossing.values())
        for (_, names), result in zip(groups, pool.map(check, [cut for cut, _ in groups]), strict=True):
            results |= dict.fromkeys(names, result)
            distinct += not isinstance(result, str)
            progress(len(names))
    different = {node: result for node, result in results.items() if isinstance(result, float) and result > 0}
    exceptions = {node: result for node, result in results.items() if isinstance(result, str)}
    return Sweep(
        nodes=len(graph.node_names),
        cuts=len(results) - len(exceptions),
        distinct=distinct,
        verified=len(results) - len(exceptions) - len(different),
        exceptions=tuple(exceptions.items()),
        different=tuple((node, f"the largest difference is {apart:g}") for node, apart in different.items()),
        inputs={name: value.shape for name, value in inputs.items() if isinstance(value, np.ndarray)},
    )
