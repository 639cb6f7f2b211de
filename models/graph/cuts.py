"""Cuts: which nodes come first, and which tensors cross to the rest. Pure, on a graph's index.

A cut named by a node or by tensors means *their ancestors*; "everything up to here" in topological order is another
form. The crossing set is worked out from that: complete, and without what the tail has for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from models.graph.index import Graph, name_list
from splitrtc_errors import CutError

__all__ = ["Cut", "after", "at", "before", "nodes_between", "of_nodes", "up_to"]


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut of a graph.

    Attributes:
        head: the nodes that the head runs: what the crossing tensors are computed from. Not always all that the cut
            was named by: constants go where they are used, and what nobody needs goes nowhere.
        crossing: the names of the tensors that cross, in the order of their UTF-8 bytes. None when the rest depends on
            nothing: the whole model is constant.
        carries_input: whether a model input is among them: the picture itself would be sent.
    """

    head: frozenset[int]
    crossing: tuple[str, ...]
    carries_input: bool

    @property
    def is_remote(self) -> bool:
        """Whether the head computes nothing: everything runs in the tail."""
        return not self.head


def after(graph: Graph, node: str) -> Cut:
    """Cut after a node (the TR's split point flag "after"): the head is the node with its ancestors."""
    return of_nodes(graph, [graph.node_id(node)])


def before(graph: Graph, node: str) -> Cut:
    """Cut before a node (the TR's split point flag "before"): the head is the node's ancestors."""
    return _at(graph, graph.uses[graph.node_id(node)])


def at(graph: Graph, tensors: Iterable[str]) -> Cut:
    """Cut at tensors: the head is all their ancestors. CutError when there is no tensor of such a name, or none."""
    wanted = [graph.tensor_id(name) for name in tensors]
    if not wanted:
        raise CutError("a cut needs at least one tensor")
    return _at(graph, wanted)


def up_to(graph: Graph, node: str) -> Cut:
    """Cut after everything that is not behind a node in topological order, the node itself included."""
    return of_nodes(graph, range(graph.node_id(node) + 1))


def of_nodes(graph: Graph, nodes: Iterable[int]) -> Cut:
    """Cut after some nodes and all their ancestors. No node: the head is empty; all: the tail is."""
    inside = _closure(graph, nodes)
    candidates: set[int] = set()
    seen: set[int] = set()
    waiting = [tensor for tensor in graph.outputs if graph.varying[tensor]]
    while waiting:
        tensor = waiting.pop()
        node = graph.producer[tensor]
        if node < 0 or node in inside:
            candidates.add(tensor)
        elif node not in seen:
            seen.add(node)
            waiting += (used for used in graph.uses[node] if graph.varying[used])
    crossing = _needed(graph, candidates)
    names = sorted((graph.tensor_names[tensor] for tensor in crossing), key=str.encode)
    return Cut(
        head=frozenset(nodes_between(graph, graph.inputs, crossing)),
        crossing=tuple(names),
        carries_input=not crossing.isdisjoint(graph.inputs),
    )


def exactly(graph: Graph, tensors: Sequence[str]) -> Cut:
    """Cut at tensors that are the whole crossing set, each of them needed.

    Raises CutError, which names what else would cross, or what need not.
    """
    cut = at(graph, tensors)
    wanted = sorted(set(tensors), key=str.encode)
    if constant := [name for name in wanted if not graph.varying[graph.tensor_id(name)]]:
        raise CutError(f"{name_list(constant)} is constant: it does not depend on the model's inputs")
    if others := [name for name in cut.crossing if name not in set(wanted)]:
        inputs = {graph.tensor_names[tensor] for tensor in graph.inputs}
        shown = [f"{name} (a model input: the picture itself)" if name in inputs else name for name in others]
        raise CutError(
            f"{', '.join(wanted)}: this does not cut the model in two, as these cross too: {name_list(shown)}"
        )
    if idle := [name for name in wanted if name not in set(cut.crossing)]:
        raise CutError(f"{name_list(idle)} need not be sent: the rest does not use it, or has it for nothing")
    return cut


def nodes_between(graph: Graph, available: Iterable[int], wanted: Iterable[int]) -> set[int]:
    """The nodes that compute the ``wanted`` tensors from the ``available`` ones, constants included.

    A node in ``graph.shapes`` stands for its value, unless what it reads is there anyway. CutError when something else
    would be needed, by its name.
    """
    there = set(available)
    nodes: set[int] = set()
    values: set[int] = set()
    waiting = [tensor for tensor in wanted if tensor not in there]
    while waiting:
        tensor = waiting.pop()
        node = graph.producer[tensor]
        if node < 0:
            if graph.varying[tensor]:
                raise CutError(f"{graph.tensor_names[tensor]} does not come before this part, and is needed in it")
        elif node in graph.shapes:
            values.add(node)
        elif node not in nodes:
            nodes.add(node)
            waiting += (used for used in graph.uses[node] if used not in there)
    return nodes | values


def constant_nodes(graph: Graph, available: Iterable[int], nodes: Iterable[int]) -> set[int]:
    """Those nodes of a part that become their value of ``graph.shapes``, as the part does not have what they read."""
    chosen = set(nodes)
    there = set(available) | {tensor for node in chosen for tensor in graph.makes[node]}
    return {
        node
        for node in chosen & graph.shapes.keys()
        if any(graph.varying[used] and used not in there for used in graph.uses[node])
    }


def _at(graph: Graph, tensors: Iterable[int]) -> Cut:
    return of_nodes(graph, (graph.producer[tensor] for tensor in tensors if graph.producer[tensor] >= 0))


def _closure(graph: Graph, nodes: Iterable[int]) -> set[int]:
    """The nodes and their ancestors."""
    inside: set[int] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in inside:
            inside.add(node)
            waiting += (graph.producer[used] for used in graph.uses[node] if graph.producer[used] >= 0)
    return inside


def _needed(graph: Graph, candidates: set[int]) -> set[int]:
    """The tensors of a crossing set without those that follow from the others for nothing."""
    follows: dict[int, bool] = {}
    # What a tensor follows from has a smaller number. Between two that cross there may be others that do not.
    for first in sorted(candidates):
        waiting = [first]
        while waiting:
            tensor = waiting[-1]
            node = graph.producer[tensor]
            if tensor in follows:
                waiting.pop()
                continue
            if node < 0 or not graph.repeatable[node]:
                follows[tensor] = False
                waiting.pop()
                continue
            sources = [used for used in graph.uses[node] if graph.varying[used] and used not in candidates]
            unknown = [used for used in sources if used not in follows]
            if unknown:
                waiting += unknown
            else:
                follows[tensor] = all(follows[used] for used in sources)
                waiting.pop()
    return {tensor for tensor in candidates if not follows[tensor]}
