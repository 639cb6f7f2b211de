"""A node while the batch is followed through it: what is known of its tensors, and ways to change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

__all__ = ["Op", "Refused"]


class Refused(Exception):
    """The batch cannot be followed through a node; the message says why."""


@dataclass(slots=True)
class Op:
    """A node that is about to be changed, and what is known of its tensors.

    ``shapes`` are those for one sample; ``axes`` say where batched tensors have the batch, ``outers`` in how many
    pieces (1 when not listed); ``constant`` gives the value of a tensor that is not batched, ``keep`` makes one of a
    value. ``before`` are nodes to put before it, ``outer`` is that of its outputs.
    """

    node: NodeProto
    opset: int
    shapes: dict[str, tuple[int, ...]]
    axes: dict[str, int]
    outers: dict[str, int]
    constant: Callable[[str], NDArray[Any]]
    keep: Callable[[NDArray[Any]], str]
    before: list[NodeProto] = field(default_factory=list)
    outer: int = field(init=False)

    def __post_init__(self) -> None:
        found = {self.outers.get(name, 1) for name in self.node.input if name in self.axes}
        if len(found) > 1:
            raise Refused("its inputs have the batch in different places of a dimension")
        self.outer = found.pop() if found else 1

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    def input(self, place: int) -> str:
        """The name of an input, "" when it is not given."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def rank(self, place: int = 0) -> int:
        """The number of dimensions of an input."""
        return len(self.shapes[self.input(place)])

    def only(self, *places: int) -> int:
        """Check that no other inputs are batched than those at ``places``, and that these agree; returns the axis."""
        found = {self.axes[self.input(place)] for place in places if self.input(place) in self.axes}
        sizes = {
            self.shapes[self.input(place)][self.axes[self.input(place)]]
            for place in places
            if self.input(place) in self.axes
        }
        allowed = {self.input(place) for place in places}
        if any(name in self.axes and name not in allowed for name in self.node.input):
            raise Refused("an input that has to be the same for all samples depends on the sample")
        if len(found) != 1 or len(sizes) != 1:
            raise Refused("its inputs have the batch in different dimensions")
        return found.pop()

    def integers(self, place: int, name: str) -> list[int] | None:
        """Integers that newer opsets take as an input and older ones as an attribute; None when not given."""
        if self.input(place):
            return [int(value) for value in np.asarray(self.constant(self.input(place))).reshape(-1)]
        found = self.attribute(name)
        return None if found is None else [int(value) for value in found]

    def sizes(self, name: str, axis: int, sizes: Sequence[int], divide: int = 1) -> str:
        """A tensor of sizes, of which that at ``axis`` is read from ``name`` when the model runs, and divided."""
        place, place_in_name = axis % len(sizes), self.axes[name]
        once = self.keep(np.array([divide]))  # its name is new, and so are those made of it
        shape, size, count, made = (f"{once}/{what}" for what in ("shape", "size", "count", "sizes"))
        bounds = [self.keep(np.array([bound])) for bound in (place_in_name, place_in_name + 1)]
        before, behind = (self.keep(np.array(part, np.int64)) for part in (sizes[:place], sizes[place + 1 :]))
        self.before += [
            helper.make_node("Shape", [name], [shape]),
            helper.make_node("Slice", [shape, *bounds], [size]),
            helper.make_node("Div", [size, once], [count]),
            helper.make_node("Concat", [before, count, behind], [made], axis=0),
        ]
        return made

    def repeat(self, place: int, axis: int, like: str) -> None:
        """Give every sample its own copy of an input that is the same for all, so that it has the batch at ``axis``."""
        name = self.input(place)
        size = self.shapes[like][self.axes[like]]
        if self.shapes[name][axis] != size or self.outer != 1:
            raise Refused(f"{name} does not fit in the batch's dimension")
        times = self.sizes(like, axis, [1] * len(self.shapes[name]), divide=size)
        self.before.append(helper.make_node("Tile", [name, times], [f"{times}/each"]))
        self.node.input[place] = each = f"{times}/each"
        self.shapes[each], self.axes[each] = self.shapes[name], axis
