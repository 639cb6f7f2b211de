"""The index of a graph: nodes and tensors by number, what each node reads and makes, and what depends on what.

Everything about cuts is computed on it. It is built once per model in linear time and knows nothing of weights.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.graph.fixed_shapes import FixedShapes, Shapes, Value
from splitrtc_errors import CutError, ModelFileError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["Graph", "bodies", "name_list", "used_names"]

MOVE_NOTHING = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Operators that only say how their first input is read: the runtime computes nothing for them."""

_CHANCE = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
_KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
_GRAPH, _GRAPHS = 5, 10  # AttributeProto.GRAPH and GRAPHS


@dataclass(frozen=True, slots=True)
class Graph:
    """The main graph of a model. Nodes are numbered in a topological order, tensors from the inputs to the outputs.

    A body of If, Loop or Scan belongs to its node: what it captures is read by that node.

    Attributes:
        node_names: the nodes' names, each different: ``Conv#12`` for node 12 where it has none, or one that is taken.
        op_types: their operators.
        order: the place of each node in the file, which need not be topological.
        tensor_names: the tensors' names: inputs, initialisers, then what the nodes make.
        uses: the tensors that each node reads, each once.
        makes: the tensors that each node makes.
        producer: the node that makes a tensor, -1 for inputs and initialisers.
        inputs: the model's inputs that have to be given: an initialiser that is listed as an input is none.
        outputs: the model's outputs; one may be an input, or come twice.
        initializers: dense and sparse ones.
        varying: whether a tensor may differ from run to run: it depends on an input's values, on a dimension whose
            size is not fixed, on chance, or on an operator of which nothing is known.
        free: whether a node's outputs are all constant: either part may compute them (constants, what follows from
            them, and shapes whose sizes are fixed).
        repeatable: whether a node that is not free costs nothing, so that either part may compute it where its varying
            inputs are anyway: what depends on the shapes of tensors but not on their values, and what only gives a
            tensor another shape.
        shapes: the values of the nodes in ``free`` that read the fixed shape of a varying tensor, by node: a part
            without that tensor has them as constants. A tuple is one-dimensional, an integer a scalar; int64.
    """

    node_names: tuple[str, ...]
    op_types: tuple[str, ...]
    order: tuple[int, ...]
    tensor_names: tuple[str, ...]
    uses: tuple[tuple[int, ...], ...]
    makes: tuple[tuple[int, ...], ...]
    producer: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    initializers: tuple[int, ...]
    varying: tuple[bool, ...]
    free: tuple[bool, ...]
    repeatable: tuple[bool, ...]
    shapes: Mapping[int, Value]
    _tensor_ids: Mapping[str, int] = field(repr=False, compare=False)
    _node_ids: Mapping[str, int] = field(repr=False, compare=False)

    @classmethod
    def of(cls, model: ModelProto, shapes: Shapes | None = None) -> Graph:
        """Index a model's main graph, of which nothing is changed.

        ``shapes`` are those that are known of its tensors; without them no shape counts as fixed.

        Raises ModelFileError when it is no graph: a cycle, a name that is made twice, one that is read and not made.
        """
        return _Builder(model, shapes or {}).graph()

    def has_tensor(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._tensor_ids

    def node_id(self, name: str) -> int:
        """Return the number of the node of this name; CutError names the near ones when there is none."""
        return _find(self._node_ids, name, "node")

    def tensor_id(self, name: str) -> int:
        """Return the number of the tensor of this name; CutError names the near ones when there is none."""
        return _find(self._tensor_ids, name, "tensor")


def _find(ids: Mapping[str, int], name: str, what: str) -> int:
    if (found := ids.get(name)) is not None:
        return found
    near = difflib.get_close_matches(name, ids, n=3, cutoff=0.5)
    raise CutError(f"the model has no {what} {name[:100]!r}" + (f"; near it are {name_list(near)}" if near else ""))


def name_list(names: Sequence[str]) -> str:
    """At most five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class _Builder:
    """Reads a graph once; the protobuf objects are slow to read and are not kept."""

    def __init__(self, model: ModelProto, shapes: Shapes) -> None:
        self._shapes = shapes
        self._ids: dict[str, int] = {}
        graph = model.graph
        constants = [tensor.name for tensor in graph.initializer]
        constants += (tensor.values.name for tensor in graph.sparse_initializer)
        known = set(constants)
        self._inputs = [self._new(value.name, "an input") for value in graph.input if value.name not in known]
        self._initializers = [self._new(name, "an initialiser") for name in constants]
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._chance = _random_functions(model)
        self._functions = {(function.domain, function.name) for function in model.functions}
        self._nodes = list(graph.node)
        self._read = [used_names(node) for node in self._nodes]
        self._order = self._sorted()
        self._outputs = [value.name for value in graph.output]

    def _new(self, name: str, what: str) -> int:
        if not name:
            raise ModelFileError(f"the model is damaged: {what} has no name")
        number = len(self._ids)
        if self._ids.setdefault(name, number) != number:
            raise ModelFileError(f"the model is damaged: {what} is called {name!r}, and something else already is")
        return number

    def _sorted(self) -> Sequence[int]:
        """The nodes' places in the file, in an order in which each reads only what was made before."""
        maker: dict[str, int] = {}
        in_order = True
        seen = set(self._ids)
        for i, node in enumerate(self._nodes):
            in_order = in_order and seen.issuperset(self._read[i])
            for name in node.output:
                maker[name] = i
                seen.add(name)
        if in_order:
            return range(len(self._nodes))
        waits_for = [0] * len(self._nodes)
        readers: list[list[int]] = [[] for _ in self._nodes]
        for i, names in enumerate(self._read):
            for name in names:
                if name in maker:
                    waits_for[i] += 1
                    readers[maker[name]].append(i)
                elif name not in self._ids:
                    raise ModelFileError(
                        f"the model is damaged: node {self._shown(i)} reads {name!r}, which nothing makes"
                    )
        ready = [i for i, count in enumerate(waits_for) if not count]  # a sorted list is a heap
        order = []
        while ready:
            order.append(heapq.heappop(ready))
            for reader in readers[order[-1]]:
                waits_for[reader] -= 1
                if not waits_for[reader]:
                    heapq.heappush(ready, reader)
        if len(order) < len(self._nodes):
            stuck = next(i for i, count in enumerate(waits_for) if count)
            raise ModelFileError(f"the model is damaged: node {self._shown(stuck)} is on a cycle, or behind one")
        return order

    def _shown(self, i: int) -> str:
        return self._nodes[i].name or f"{self._nodes[i].op_type}#{i}"

    def graph(self) -> Graph:
        nodes = [self._nodes[i] for i in self._order]
        producer = [-1] * len(self._ids)
        varying = [True] * len(self._inputs) + [False] * len(self._initializers)
        data = list(varying)  # whether it depends on values, not only on shapes
        uses, makes, free, repeatable = [], [], [], []
        known: dict[int, Value] = {}
        names = _unique_names(nodes)
        fixed = FixedShapes(self._shapes, self._weights, {name: node for node in nodes for name in node.output})
        ids = self._ids
        for i, node in enumerate(nodes):
            used = tuple(ids[name] for name in self._read[self._order[i]])
            made = tuple(self._new(name, f"an output of node {names[i]}") for name in node.output if name)
            op = node.op_type
            chance = self._is_random(node)
            varies = chance or any(varying[t] for t in used)
            main = node.domain in ("", "ai.onnx")
            only_shape = main and op in ("Shape", "Size")
            if varies and not chance and (value := fixed.value(node)) is not None:
                known[i] = value
                varies = False
            reads_data = varies and not only_shape and (chance or any(data[t] for t in used))
            uses.append(used)
            makes.append(made)
            producer += [i] * len(made)
            varying += [varies] * len(made)
            data += [reads_data] * len(made)
            free.append(not varies)
            repeatable.append(varies and (not reads_data or (op in MOVE_NOTHING and main)))
        for name in self._outputs:
            if name not in ids:
                raise ModelFileError(f"the model is damaged: nothing makes its output {name!r}")
        return Graph(
            node_names=tuple(names),
            op_types=tuple(node.op_type for node in nodes),
            order=tuple(self._order),
            tensor_names=tuple(ids),
            uses=tuple(uses),
            makes=tuple(makes),
            producer=tuple(producer),
            inputs=tuple(self._inputs),
            outputs=tuple(ids[name] for name in self._outputs),
            initializers=tuple(self._initializers),
            varying=tuple(varying),
            free=tuple(free),
            repeatable=tuple(repeatable),
            shapes=known,
            _tensor_ids=ids,
            _node_ids={name: i for i, name in enumerate(names)},
        )

    def _is_random(self, node: NodeProto) -> bool:
        """Whether two runs of a node on the same inputs may differ, or nothing is known about that."""
        if node.domain in _KNOWN_DOMAINS:
            return _takes_chances(node, self._chance)
        return (node.domain, node.op_type) not in self._functions or (node.domain, node.op_type) in self._chance


def _unique_names(nodes: Sequence[NodeProto]) -> list[str]:
    names = [node.name for node in nodes]
    taken = set(names)
    seen: set[str] = set()
    for i, node in enumerate(nodes):
        name = names[i]
        if not name or name in seen:
            name = f"{name or node.op_type}#{i}"
            while name in taken:
                name += "'"
            taken.add(name)
            names[i] = name
        seen.add(name)
    return names


def used_names(node: NodeProto) -> Sequence[str]:
    """Names of the tensors that a node reads, each once, also those that its bodies capture."""
    names = dict.fromkeys(name for name in node.input if name)
    for body in bodies(node):
        inner = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        inner.update(tensor.values.name for tensor in body.sparse_initializer)
        inner.update(name for inner_node in body.node for name in inner_node.output)
        for read in (*map(used_names, body.node), [value.name for value in body.output]):
            names.update(dict.fromkeys(name for name in read if name not in inner))
    return tuple(names)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs inside a node."""
    for attribute in node.attribute:
        if attribute.type == _GRAPH:
            yield attribute.g
        elif attribute.type == _GRAPHS:
            yield from attribute.graphs


def _takes_chances(node: NodeProto, functions: set[tuple[str, str]]) -> bool:
    """Whether a node, or one inside it, draws random numbers."""
    if node.op_type in _CHANCE or (node.domain, node.op_type) in functions:
        return True
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        return True
    return any(_takes_chances(inner, functions) for body in bodies(node) for inner in body.node)


def _random_functions(model: ModelProto) -> set[tuple[str, str]]:
    """The local functions that draw random numbers, themselves or by calling another."""
    found: set[tuple[str, str]] = set()
    while True:
        before = len(found)
        for function in model.functions:
            if any(_takes_chances(node, found) for node in function.node):
                found.add((function.domain, function.name))
        if len(found) == before:
            return found
