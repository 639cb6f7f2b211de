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
    from models.graph.cuts import Cut, after, at, before, exactly, of_nodes, up_to
    from models.graph.index import Graph
    from models.graph.model import Model
    from models.graph.parts import Part, split
    from models.graph.running import find_inputs
    from models.graph.types import TensorType
    from models.graph.verification import Sweep, Verification, sweep, verify

_MODULES = {
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
    "Cut",
    "Graph",
    "Model",
    "Part",
    "Sweep",
    "TensorType",
    "Verification",
    "after",
    "at",
    "batched",
    "before",
    "exactly",
    "find_inputs",
    "of_nodes",
    "split",
    "sweep",
    "up_to",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
