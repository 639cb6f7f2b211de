"""Where to cut a model of which the card does not say it: at the smallest single tensor of its first half."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from models.card import PartitionCard
from splitrtc_errors import CutError

if TYPE_CHECKING:
    from models.card import ModelCard

__all__ = ["DEFAULT_CUT", "default_cut", "with_cut"]

DEFAULT_CUT = "smallest"
"""The name of a partition that was found so."""

MAX_SHARE = 0.5
"""Of the model's multiply-accumulate operations that the head may have: the device is the weaker side."""


def with_cut(card: ModelCard) -> ModelCard:
    """Return the card with a partition; where it has none, one is found in the model's file, which has to be here.

    The partition is the same wherever the file is. Raises what `default_cut` raises.
    """
    if card.partitions:
        return card
    cut = PartitionCard(DEFAULT_CUT, (default_cut(card),), calibration=None, default=True)
    return replace(card, partitions=(cut,))


def default_cut(card: ModelCard) -> str:
    """Return the name of the smallest tensor that cuts the model alone, with half of its operations or less before it.

    The first one of those that are equally small. Raises CutError when no tensor cuts it alone, ModelFileError for a
    file that is missing or no good.
    """
    from models.fixed import fixed_model
    from models.graph.datapath import DataPath
    from models.graph.enumeration import single_tensor_cuts
    from models.graph.macs import macs_of

    model = fixed_model(card)
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.proto.graph.initializer}
    for name, kind in model.types.items():
        if kind.is_fixed and kind.shape is not None:
            shapes[name] = tuple(size for size in kind.shape if isinstance(size, int))
    counts = macs_of(model.proto, shapes)
    before = list(accumulate(counts[place] or 0 for place in graph.order))
    ends = {spec.name for spec in (*card.inputs, *card.outputs)}
    found = []
    for tensor in single_tensor_cuts(DataPath.of(graph)):
        name = graph.tensor_names[tensor]
        if name not in ends:
            with contextlib.suppress(CutError):  # one that cannot cross
                is_late = before[graph.producer[tensor]] > MAX_SHARE * before[-1]
                found.append((is_late, model.type_of(name).spec().nbytes, name))
    if not found:
        raise CutError(f"no tensor cuts model {card.name} alone: name the tensors of a partition in its card")
    # Beyond the half, the first is best: it has the least before it.
    return min(found, key=lambda cut: (cut[0], 0 if cut[0] else cut[1]))[2]
