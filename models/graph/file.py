"""ONNX files: read one, with its weights left in other files where they are there; write a part of one.

Weights in other files ("external data") are never read into memory, so that a model of any size is cut in little of
it. They are not trusted either: a file may only name what lies in its own folder.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from models.files import draft, replace_file
from models.graph.index import bodies
from splitrtc_errors import ModelFileError, UserError

__all__ = ["all_tensors", "has_external", "read_model", "to_bytes", "write_model"]

MAX_FILE_BYTES = 2**31 - 1
"""Of the file itself: what protobuf can hold."""

ALIGNMENT = 4096
"""Of each tensor in a file of weights, so that a runtime can map it into memory."""

_COPY_BYTES = 2**20


def read_model(source: Path | bytes) -> ModelProto:
    """Read an ONNX model from its file or its bytes; weights in other files stay there, and are checked to be there.

    Raises ModelFileError when it cannot be read or is no model, or such a file is missing, too short, or not in the
    model's own folder.
    """
    shown = source if isinstance(source, Path) else "the model"
    try:
        if isinstance(source, Path):
            if source.stat().st_size > MAX_FILE_BYTES:
                raise ModelFileError(f"{source} is larger than 2 GB: no ONNX file is, with its weights in other files")
            data = source.read_bytes()
        else:
            data = source
    except OSError as error:
        raise ModelFileError(f"cannot read {source!s}: {error.strerror or error}") from error
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's errors differ between its implementations
        raise ModelFileError(f"{shown} is not an ONNX model, or only a piece of one: {error}") from error
    if not model.HasField("graph") or not model.opset_import:
        raise ModelFileError(f"{shown} is not an ONNX model: it has no graph, or does not say of which opset")
    folder = source.parent if isinstance(source, Path) else None
    for tensor in all_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            _external(tensor, folder)
    return model


def write_model(model: ModelProto, path: Path, weights_from: Path | None = None) -> list[Path]:
    """Write a model in one step; returns the files, the model's first.

    Weights that lie in other files, in the folder ``weights_from``, are copied to one file beside it, ``NAME.data``,
    which ``model`` is changed to name. Raises UserError when it cannot be written.
    """
    external = [tensor for tensor in all_tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    written = [path]
    try:
        if external:
            written.append(path.with_name(f"{path.name}.data"))
            with draft(written[1]) as beside:
                _copy_weights(external, weights_from, beside, written[1].name)
        replace_file(path, _serialised(model))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; make room or rights there") from error
    return written


def to_bytes(model: ModelProto) -> bytes:
    """The content of a model's file, the same each time; ModelFileError when its weights are in others."""
    if has_external(model):
        raise ModelFileError("the weights are in other files, so that the model is no single one: write it to a file")
    return _serialised(model)


def _serialised(model: ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def has_external(model: ModelProto) -> bool:
    """Whether weights of a model lie in other files."""
    return any(tensor.data_location == TensorProto.EXTERNAL for tensor in all_tensors(model))


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor whose values a model holds: initialisers and constants, also those in bodies and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == AttributeProto.TENSORS:
            yield from attribute.tensors
    for body in bodies(node):
        yield from _graph_tensors(body)


def _external(tensor: TensorProto, folder: Path | None) -> tuple[Path, int, int]:
    """File, offset and length of a tensor's values; ModelFileError when they are not there."""
    where = f"the weights {tensor.name!r}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelFileError(f"{where} are in another file, {location!r}: read the model from its file, not its bytes")
    path = folder / location
    inside = path.resolve().is_relative_to(folder.resolve())  # links are followed
    if not location or Path(location).is_absolute() or ".." in Path(location).parts or not inside:
        raise ModelFileError(f"{where} are said to be in {location!r}, which is not in the model's own folder")
    if not path.is_file():
        raise ModelFileError(f"{where} should be in {path}, which is not there")
    size = path.stat().st_size
    expected = _nbytes(tensor)
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", size - offset if expected is None else expected))
    except ValueError:
        raise ModelFileError(f"{where}: offset or length in {path} is no number") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelFileError(f"{where} should be bytes {offset} to {offset + length} of {path}, which has {size}")
    if expected is not None and length != expected:
        raise ModelFileError(f"{where} need {expected} bytes, and {length} are set aside in {path}")
    return path, offset, length


def _nbytes(tensor: TensorProto) -> int | None:
    """Bytes that a tensor's values take in a file; None for texts, and for types of less than a byte."""
    size = _ITEM_BYTES.get(tensor.data_type)
    return None if size is None else math.prod(tensor.dims) * size


_ITEM_BYTES: dict[int, int] = {
    **dict.fromkeys((TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8), 1),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 2),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 4),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 8),
    TensorProto.COMPLEX128: 16,
}


def _copy_weights(tensors: list[TensorProto], folder: Path | None, target: Path, name: str) -> None:
    position = 0
    with target.open("wb") as out:
        for tensor in tensors:
            path, offset, length = _external(tensor, folder)
            with path.open("rb") as file:
                _copy_range(file.fileno(), out.fileno(), offset, position, length)
            del tensor.external_data[:]
            for key, value in (("location", name), ("offset", position), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            position += -(-length // ALIGNMENT) * ALIGNMENT
        out.truncate(position)


def _copy_range(source: int, target: int, offset: int, position: int, length: int) -> None:
    """Copy bytes between files; holes stay holes, where the system can tell."""
    at, end = offset, offset + length
    while at < end:
        at = min(_next_data(source, at), end)
        data = os.pread(source, min(_COPY_BYTES, end - at), at)
        if not data:
            break  # a hole up to the end
        os.pwrite(target, data, position + at - offset)
        at += len(data)


_SEEK_DATA: int | None = getattr(os, "SEEK_DATA", None)


def _next_data(file: int, at: int) -> int:
    if _SEEK_DATA is None:
        return at
    try:
        return os.lseek(file, at, _SEEK_DATA)
    except OSError:  # a hole up to the end of the file
        return os.fstat(file).st_size
