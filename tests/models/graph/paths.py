"""Data paths at random, for the tests of what is computed on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from models.graph.datapath import DataPath

if TYPE_CHECKING:
    from onnx import ModelProto


def with_weights(model: ModelProto) -> ModelProto:
    """Give values to what a model written as text states and no node makes: shapes like ``float[8,3,3,3] w``."""
    import numpy as np
    from onnx import numpy_helper

    made = {name for node in model.graph.node for name in node.output}
    random = np.random.default_rng(0)
    for value in [value for value in model.graph.value_info if value.name not in made]:
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
        weights = random.normal(0, 0.3, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, value.name))
        model.graph.value_info.remove(value)
    return model


def make_path(
    reads: list[set[int]], repeatable: list[bool] | None = None, outputs: tuple[int, ...] = (), inputs: int = 1
) -> DataPath:
    """Node k reads these tensors and makes tensor ``inputs + k``; what nobody reads is an output."""
    count = len(reads)
    readers: dict[int, list[int]] = {t: [] for t in range(inputs + count)}
    for place, read in enumerate(reads):
        for t in sorted(read):
            readers[t].append(place)
    for t, places in readers.items():
        if t >= inputs and (not places or t in outputs):
            places.append(count)
    return DataPath(
        nodes=tuple(range(count)),
        reads=tuple(tuple(sorted(read)) for read in reads),
        constants=((),) * count,
        makes=tuple((inputs + place,) for place in range(count)),
        repeatable=tuple(repeatable or [False] * count),
        maker={inputs + place: place for place in range(count)},
        readers={t: places for t, places in readers.items() if places},
        inputs=tuple(t for t in range(inputs) if readers[t]),
    )


@st.composite
def paths(draw: st.DrawFn, most: int, repeatables: bool = False, fed: bool = False) -> DataPath:
    """A random graph of 1 to ``most`` nodes; without ``fed``, a node may read nothing."""
    inputs = draw(st.integers(1, 2))
    count = draw(st.integers(1, most))
    reads, repeatable = [], []
    for place in range(count):
        near = max(0, inputs + place - draw(st.sampled_from([2, 4, 20])))  # long chains and wide graphs
        tensors = st.integers(near, inputs + place - 1)
        repeated = repeatables and draw(st.booleans())
        reads.append(draw(st.sets(tensors, min_size=1 if fed or repeated else 0, max_size=3)))
        repeatable.append(repeated)
    outputs = draw(st.sets(st.integers(inputs, inputs + count - 1), max_size=2))
    return make_path(reads, repeatable, tuple(outputs), inputs)
