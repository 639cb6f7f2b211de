"""Running a model and its parts for comparison: sessions, inputs to run on, differences of results."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from models.graph.file import has_external
from models.graph.model import Model
from models.graph.parts import Part
from models.graph.types import TensorType, tensor_type
from models.runtime import open_session
from splitrtc_errors import BadArgument, MissingDependency, ModelError

__all__ = ["Runner", "Values", "difference", "find_inputs"]

Values = Mapping[str, Any]
"""What goes in or comes out, by name: an array, or a list of such (a sequence), or None (an empty optional)."""

SIZES = (1, 2, 3, 4, 8, 16, 32, 64, 128, 224, 256, 320, 512, 640, 1024)
"""What free dimensions are tried with, until the whole model runs."""


class Runner:
    """A model or a part of one, loaded for exact comparison: one thread, and no optimisations unless asked for."""

    def __init__(self, part: Part, optimise: bool = False, provider: str = "cpu") -> None:
        """ModelFileError when the runtime cannot load it: it does not have an operator, for instance."""
        if has_external(part.proto):
            with tempfile.TemporaryDirectory() as folder:
                path, *_ = part.write(Path(folder, "part.onnx"))
                self._session = open_session(path, provider, optimise=optimise, quiet=True)
        else:
            self._session = open_session(part.to_bytes(), provider, optimise=optimise, quiet=True)
        self.inputs = [value.name for value in self._session.get_inputs()]  # no initialisers
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, values: Values) -> dict[str, Any]:
        """Run once, on at least its inputs; ModelError when that fails."""
        try:
            # An optional that is empty is not fed.
            feed = {name: _fed(values[name]) for name in self.inputs if values[name] is not None}
            return dict(zip(self.outputs, self._session.run(self.outputs, feed), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions have no other common base
            raise ModelError(f"the run failed: {' '.join(str(error).split())[:500]}") from error


def _fed(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.generic) else value


def whole(model: Model, also: Sequence[str] = ()) -> Part:
    """The whole model as a part, with more of its tensors as outputs."""
    proto = model.proto
    if also:
        proto = ModelProto()
        proto.CopyFrom(model.proto)
        known = {value.name for value in proto.graph.output}
        proto.graph.output.extend(ValueInfoProto(name=name) for name in also if name not in known)
    return Part(proto, model.folder, frozenset(range(len(model.graph.node_names))))


def find_inputs(model: Model, shapes: Mapping[str, Sequence[int]] | None = None, seed: int = 0) -> dict[str, Any]:
    """Return random inputs on which the whole model runs, the same each time.

    Types and fixed sizes are respected; a symbol has one size everywhere. Of free dimensions the first of a tensor is
    taken for a batch, the others are tried with growing sizes; ``shapes`` overrides them. Floats are from 0 to 1,
    integers from 0 to 255 where the model bears that, else 0 and 1, else 1; one that the model compares with a constant
    is that.

    Raises BadArgument for a name in ``shapes`` that is no input, or a shape that does not fit; ModelError when no
    inputs were found that the model runs on.
    """
    types = [tensor_type(value) for value in model.inputs]
    types = [_override(kind, shapes.get(kind.name) if shapes else None) for kind in types]
    if unknown := set(shapes or ()) - {kind.name for kind in types}:
        raise BadArgument(f"the model has no input {', '.join(sorted(unknown))}")
    runner = Runner(whole(model))
    failure: ModelError | None = None
    tried: list[Values] = []
    for values in _candidates(types, _compared(model), seed):
        try:
            outputs = runner.run(values)
        except ModelError as error:
            failure = failure or error
            continue
        if all(_filled(output) for output in outputs.values()):
            return dict(values)
        tried.append(values)
    if tried:  # it runs, and finds nothing: on empty outputs at least
        return dict(tried[0])
    assert failure is not None
    raise ModelError(f"no inputs were found on which the whole model runs: {failure}") from failure


def observed(model: Model, names: Sequence[str]) -> dict[str, ValueInfoProto]:
    """Element types and ranks of tensors as one run shows them, for those that nothing else tells; sizes stay free."""
    try:
        values = Runner(whole(model, names)).run(find_inputs(model) if model.example is None else model.example)
    except (ModelError, MissingDependency):
        return {}
    found = {}
    for name in names:
        if isinstance(array := values[name], np.ndarray):
            number = helper.np_dtype_to_tensor_dtype(array.dtype)
            found[name] = helper.make_tensor_value_info(name, number, [None] * array.ndim)
    return found


def _override(kind: TensorType, shape: Sequence[int] | None) -> TensorType:
    if shape is None:
        return kind
    stated = kind.shape
    fits = stated is None or (
        len(stated) == len(shape) and all(not isinstance(a, int) or a == b for a, b in zip(stated, shape, strict=True))
    )
    if not fits or min(shape, default=1) < 0:
        raise BadArgument(f"input {kind.name} has the shape {stated}, and {tuple(shape)} does not fit it")
    return TensorType(kind.name, kind.kind, kind.dtype, tuple(shape))


def _candidates(types: Sequence[TensorType], compared: Mapping[str, Sequence[int]], seed: int) -> Iterator[Values]:
    """Inputs to try. ``compared`` are the numbers that the model compares an integer input with."""
    for highest in (256, 2, None):
        for choice in (0, None) if compared else (None,):
            for batch, others in _free_sizes(types):
                random = np.random.default_rng(seed)
                symbols: dict[str, int] = {}
                values = {}
                for kind, size in zip(types, others, strict=True):
                    values[kind.name] = _value(kind, _sizes(kind, symbols, batch, size), random, highest)
                    if choice is not None and kind.name in compared:
                        values[kind.name] = np.full_like(values[kind.name], compared[kind.name][choice])
                yield values
        if not any(np.issubdtype(_dtype(kind), np.integer) for kind in types):
            return


def _free_sizes(types: Sequence[TensorType]) -> Iterator[tuple[int, Sequence[int]]]:
    """Sizes for free dimensions: of the first, and of the others by input."""
    free = [i for i, kind in enumerate(types) if not kind.is_fixed]
    yield 1, [1] * len(types)
    if not free:
        return
    for size in SIZES:
        yield 1, [size] * len(types)
    for one in free if len(free) > 1 else ():
        for size in SIZES:
            yield 1, [size if i == one else 1 for i in range(len(types))]
    for size in SIZES:
        yield size, [size] * len(types)


def _sizes(kind: TensorType, symbols: dict[str, int], batch: int, size: int) -> tuple[int, ...]:
    shape = kind.shape or ()
    found = []
    for place, stated in enumerate(shape):
        chosen = batch if place == 0 and len(shape) > 1 else size
        if isinstance(stated, str):
            chosen = symbols.setdefault(stated, chosen)
        found.append(stated if isinstance(stated, int) else chosen)
    return tuple(found)


def _compared(model: Model) -> dict[str, list[int]]:
    """For inputs that the model compares with constant integers: these. Which branch is taken depends on them."""
    constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    for node in model.proto.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                constants[node.output[0]] = attribute.t
    inputs = {value.name for value in model.inputs}
    found: dict[str, list[int]] = {}
    for node in model.proto.graph.node:
        if node.op_type == "Equal":
            for one, other in (node.input, reversed(node.input)):
                tensor = constants.get(other)
                if one in inputs and tensor is not None and tensor.data_type in (TensorProto.INT32, TensorProto.INT64):
                    found.setdefault(one, []).extend(numpy_helper.to_array(tensor).reshape(-1).tolist())
    return {name: values for name, values in found.items() if values}


def _value(kind: TensorType, shape: tuple[int, ...], random: np.random.Generator, highest: int | None) -> Any:
    array = _array(kind, shape, random, highest)
    return [array] if kind.kind == "sequence" else array


def _array(kind: TensorType, shape: tuple[int, ...], random: np.random.Generator, highest: int | None) -> Any:
    dtype = _dtype(kind)
    if dtype == np.dtype(object):
        return np.full(shape, "text", dtype)
    if dtype == np.dtype(bool):
        return random.integers(0, 2, shape).astype(bool)
    if np.issubdtype(dtype, np.integer):
        if highest is None:
            return np.ones(shape, dtype)
        return random.integers(0, min(highest, int(np.iinfo(dtype).max) + 1), shape).astype(dtype)
    if np.issubdtype(dtype, np.complexfloating):
        return (random.random(shape) + 1j * random.random(shape)).astype(dtype)
    return np.asarray(random.random(shape), dtype)


def _dtype(kind: TensorType) -> np.dtype[Any]:
    if kind.dtype == "string":
        return np.dtype(object)
    try:
        return np.dtype(kind.dtype or "float32")
    except TypeError:
        raise ModelError(f"input {kind.name}: no values of type {kind.dtype} can be made; give some") from None


def _filled(value: Any) -> bool:
    return value is not None and (len(value) > 0 if isinstance(value, (list, dict)) else np.size(value) > 0)


def difference(expected: Any, found: Any) -> float:
    """The largest difference of two results: 0.0 only when they are the same bit for bit (any NaN is like another).

    Infinite when they are not comparable: another type, shape or length, or texts that differ.
    """
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)) and len(expected) == len(found):
        return max((difference(*pair) for pair in zip(expected, found, strict=True)), default=0.0)
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return max((difference(expected[key], found[key]) for key in expected), default=0.0)
    if expected is None or found is None:
        return 0.0 if expected is found else float("inf")
    left, right = np.asarray(expected), np.asarray(found)
    if left.shape != right.shape or left.dtype != right.dtype:
        return float("inf")
    if left.dtype != object and left.tobytes() == right.tobytes():
        return 0.0
    if left.dtype.kind not in "fc":
        if left.dtype.kind in "iu":
            return float(np.max(np.abs(left.astype(np.float64) - right.astype(np.float64))))
        return 0.0 if np.array_equal(left, right) else float("inf")
    if not np.array_equal(np.isnan(left), np.isnan(right)):
        return float("inf")
    same = (left == right) & (np.signbit(left.real) == np.signbit(right.real)) | np.isnan(left)
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(left.astype(np.complex128) - right.astype(np.complex128))
    largest = float(np.nanmax(np.where(same, 0.0, apart)))
    return largest or float(np.finfo(np.float64).tiny)  # 0.0 and -0.0 are not the same bits
