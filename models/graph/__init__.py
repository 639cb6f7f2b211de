"""The split engine: cut any ONNX model anywhere, and know that the parts compute what the whole does.

::

    model = Model.load(Path("model.onnx"))
    head, tail = split(model, [after(model.graph, "Conv_12")])

Names are loaded when they are first used: onnx is a heavy library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.graph.batching import batched
    from models.graph.candidates import Candidate, Catalogue, on_pareto_front
    from models.graph.coding import coded_sizes
    from models.graph.costs import Costs, costs_of
    from models.graph.cuts import Cut, after, at, before, exactly, of_nodes, up_to
    from models.graph.index import Graph
    from models.graph.model import Model
    from models.graph.parts import Part, split
    from models.graph.planning import Plan, best_plan
    from models.graph.prediction import Deployment, Latency
    from models.graph.running import find_inputs
    from models.graph.timing import NodeTimes, time_nodes, time_parts
    from models.graph.types import TensorType
    from models.graph.verification import Sweep, Verification, sweep, verify

_MODULES = {
    "models.graph.candidates": ("Candidate", "Catalogue", "on_pareto_front"),
    "models.graph.coding": ("coded_sizes",),
    "models.graph.costs": ("Costs", "costs_of"),
    "models.graph.planning": ("Plan", "best_plan"),
    "models.graph.prediction": ("Deployment", "Latency"),
    "models.graph.timing": ("NodeTimes", "time_nodes", "time_parts"),
    "models.graph.cuts": ("Cut", "after", "at", "before", "exactly", "of_nodes", "up_to"),
    "models.graph.index": ("Graph",),
    "models.graph.model": ("Model",),
    "models.graph.parts": ("Part", "split"),
    "models.graph.batching": ("batched",),
    "models.graph.running": ("find_inputs",),
    "models.graph.types": ("TensorType",),
    "models.graph.verification": ("Sweep", "Verification", "sweep", "verify"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Candidate",
    "Catalogue",
    "Costs",
    "Cut",
    "Deployment",
    "Graph",
    "Latency",
    "Model",
    "NodeTimes",
    "Part",
    "Plan",
    "Sweep",
    "TensorType",
    "Verification",
    "after",
    "at",
    "batched",
    "before",
    "best_plan",
    "coded_sizes",
    "costs_of",
    "exactly",
    "find_inputs",
    "of_nodes",
    "on_pareto_front",
    "split",
    "sweep",
    "time_nodes",
    "time_parts",
    "up_to",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
