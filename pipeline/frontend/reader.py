"""Read an ONNX file without trusting it: sizes, external data, structure, then ``onnx.checker``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.frontend.functions import check_functions, inline_functions
from pipeline.frontend.limits import Limits
from pipeline.frontend.microsoft import check_microsoft_operators

_TENSOR_ATTRIBUTES = (onnx.AttributeProto.TENSOR, onnx.AttributeProto.TENSORS)
_GRAPH_ATTRIBUTES = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)

# TensorProto keeps these types in int32_data, one element an entry, where a value may not fit the type.
_INT32_STORED: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-(2**15), 2**15 - 1),
    TensorProto.UINT16: (0, 2**16 - 1),
    TensorProto.BOOL: (0, 1),
}


def read_model(path: str | os.PathLike[str], limits: Limits) -> ModelProto:
    """The checked model of a file, external data inside, local functions inlined.

    Raises :class:`ModelError` for a file that is missing, too large, damaged, hostile or not valid ONNX.
    """
    file = Path(path)
    model = _parse(file, _read_bytes(file, limits), limits)
    _load_external_data(model, file, limits)
    for tensor in _tensors(model):
        check_tensor(tensor, limits)
    _check_order(model.graph)
    check_functions(model, limits)
    _check_model(model, file)
    check_microsoft_operators(model)
    return inline_functions(model)


def check_tensor(tensor: TensorProto, limits: Limits) -> None:
    """Refuse a tensor whose dims, data length or stored values make no sense. Raises :class:`ModelError`."""
    where = f"tensor {tensor.name!r}"
    check_shape(where, tuple(tensor.dims), limits)
    if tensor.data_type == TensorProto.STRING:
        raise ModelError(f"{where} holds strings, which no compiled operator takes. Remove it from the model.")
    bounds = _INT32_STORED.get(tensor.data_type)
    if bounds and tensor.int32_data and (min(tensor.int32_data) < bounds[0] or max(tensor.int32_data) > bounds[1]):
        kind = TensorProto.DataType.Name(tensor.data_type)
        raise ModelError(
            f"{where} holds values outside {bounds[0]}..{bounds[1]}, the range of its type {kind}; export it again."
        )
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ModelError(
            f"{where} has data that does not fill its shape {list(tensor.dims)}: {error}. The file is damaged."
        ) from error


def check_shape(where: str, shape: tuple[int, ...], limits: Limits) -> None:
    """Refuse negative and absurdly large shapes. Raises :class:`ModelError`."""
    if len(shape) > limits.max_rank:
        raise ModelError(f"{where} has {len(shape)} dimensions; at most {limits.max_rank} are supported.")
    if any(size < 0 for size in shape):
        raise ModelError(f"{where} has a negative dimension in its shape {list(shape)}.")
    elements = 1
    for size in shape:
        elements *= size
    if elements > limits.max_tensor_elements or max(shape, default=0) > limits.max_tensor_elements:
        raise ModelError(
            f"{where} of shape {list(shape)} is over the cap of {limits.max_tensor_elements} elements a tensor. "
            "If that is meant, raise Limits.max_tensor_elements."
        )


def _read_bytes(file: Path, limits: Limits) -> bytes:
    if file.is_dir():
        raise ModelError(f"{file} is a folder; give the .onnx file inside it.")
    if not file.is_file():
        raise ModelError(f"{file} does not exist or is no regular file; check the path.")
    try:
        size = file.stat().st_size
        if size == 0:
            raise ModelError(f"{file} is empty; download or export it again.")
        if size > limits.max_file_bytes:
            raise ModelError(
                f"{file} has {size} bytes, over the cap of {limits.max_file_bytes} (Limits.max_file_bytes)."
            )
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error


def _parse(file: Path, data: bytes, limits: Limits) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf has one exception for each of its implementations
        raise ModelError(f"{file} is no ONNX file or is cut short ({error}); download or export it again.") from error
    # Protobuf reads much that is no ONNX without complaint, and skips what it does not know.
    if not model.ir_version or not model.opset_import or not model.HasField("graph") or not model.graph.output:
        raise ModelError(f"{file} is no ONNX file or is cut short: it has no graph, no outputs or no opset.")
    if not _is_text(model):
        raise ModelError(f"{file} has names that are no UTF-8 text: it is damaged; download or export it again.")
    count = sum(1 for _ in _nodes(model))
    if count > limits.max_nodes:
        raise ModelError(f"{file} has {count} nodes, over the cap of {limits.max_nodes} (Limits.max_nodes).")
    if model.graph.sparse_initializer:
        raise ModelError(f"{file} has sparse initializers, which are not supported; store the weights dense.")
    return model


def _is_text(message: Any) -> bool:
    """Whether all strings are UTF-8: ONNX is proto2, which does not look, and hands out bytes where they are not."""
    for field, value in message.ListFields():
        parts = value if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else (value,)
        if field.message_type is not None and not all(_is_text(part) for part in parts):
            return False
        if field.type == field.TYPE_STRING and any(isinstance(part, bytes) for part in parts):
            return False
    return True


def _nodes(message: ModelProto | GraphProto) -> Iterator[NodeProto]:
    """All nodes, those of functions and subgraphs included. Protobuf itself refuses nesting over 100 levels."""
    if isinstance(message, ModelProto):
        yield from _nodes(message.graph)
        owners = [node for function in message.functions for node in function.node]
    else:
        owners = list(message.node)
    for node in owners:
        yield node
        for attribute in node.attribute:
            if attribute.type in _GRAPH_ATTRIBUTES:
                for graph in (attribute.g, *attribute.graphs):
                    yield from _nodes(graph)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type in _GRAPH_ATTRIBUTES:
                for inner in (attribute.g, *attribute.graphs):
                    yield from _graphs(inner)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in _graphs(model.graph):
        yield from graph.initializer
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.type in _TENSOR_ATTRIBUTES:
                yield from (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors


def _load_external_data(model: ModelProto, file: Path, limits: Limits) -> None:
    """Read external data into the model. Every location is checked before anything is opened."""
    pending = [t for t in _tensors(model) if t.data_location == TensorProto.EXTERNAL]
    folder = file.parent.resolve()
    budget = limits.max_file_bytes - file.stat().st_size
    for tensor in pending:
        check_shape(f"tensor {tensor.name!r}", tuple(tensor.dims), limits)
        source, offset, length = _external_span(tensor, folder)
        budget -= length
        if budget < 0:
            raise ModelError(
                f"{file} and its external data exceed {limits.max_file_bytes} bytes (Limits.max_file_bytes)."
            )
        with source.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
        if len(data) != length:
            raise ModelError(f"tensor {tensor.name!r}: external data file {source} is cut short.")
        tensor.raw_data = data
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _external_span(tensor: TensorProto, folder: Path) -> tuple[Path, int, int]:
    """(file, offset, length) of a tensor's external data, proven to lie inside the model's folder."""
    where = f"tensor {tensor.name!r}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    inside = PurePosixPath(location.replace("\\", "/"))
    if (
        not location
        or "\0" in location
        or inside.is_absolute()
        or PureWindowsPath(location).drive
        or ".." in inside.parts
    ):
        raise ModelError(
            f"{where} wants its data from {location!r}: it must be a relative path inside the model's folder."
        )
    try:
        source = (folder / inside).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{where}: external data file {location!r} is not beside the model.") from error
    if not source.is_relative_to(folder) or not source.is_file():
        raise ModelError(f"{where}: external data {location!r} leads out of the model's folder; copy the file into it.")
    try:
        bits = _bits(tensor.data_type)
        offset = int(entries.get("offset", "0"))
        length = (int(np.prod(tensor.dims, dtype=object)) * bits + 7) // 8
        stated = int(entries.get("length", str(length)))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{where}: external data has a bad type, offset or length ({error}).") from error
    if offset < 0 or stated != length or offset + length > source.stat().st_size:
        raise ModelError(
            f"{where}: {location!r} has no bytes {offset} to {offset + length}, or the stated length is another one."
        )
    return source, offset, length


def _bits(data_type: int) -> int:
    if data_type == TensorProto.STRING:
        raise TypeError("strings cannot be external")
    kind = TensorProto.DataType.Name(data_type)  # raises ValueError on an unknown number
    for bits in (2, 4):
        if kind in (f"INT{bits}", f"UINT{bits}", f"FLOAT{bits}E2M1"):
            return bits
    return helper.tensor_dtype_to_np_dtype(data_type).itemsize * 8


def _check_order(graph: GraphProto) -> None:
    """Each tensor is written once, before it is read, and is one output at most. Raises :class:`ModelError`."""
    known = {i.name for i in graph.input} | {t.name for t in graph.initializer} | {""}
    writer: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and (name in writer or name in known):
                raise ModelError(f"tensor {name!r} is written twice, again by {_label(node)}.")
            writer[name] = index
    for index, node in enumerate(graph.node):
        for name in node.input:
            if name in known:
                continue
            if name not in writer:
                raise ModelError(f"{_label(node)} reads tensor {name!r}, which nothing writes.")
            if writer[name] >= index:
                if _has_cycle(graph, writer):
                    raise ModelError(
                        f"the graph is cyclic: {_label(node)} reads {name!r}, which depends on its output."
                    )
                raise ModelError(
                    f"the nodes are not in topological order: {_label(node)} reads {name!r} before it is written."
                )
    outputs: set[str] = set()
    for output in graph.output:
        if output.name not in known and output.name not in writer:
            raise ModelError(f"graph output {output.name!r} is written by no node.")
        if output.name in outputs:
            raise ModelError(
                f"two graph outputs have the name {output.name!r}: results are told apart by their names. List it once."
            )
        outputs.add(output.name)


def _has_cycle(graph: GraphProto, writer: dict[str, int]) -> bool:
    """Kahn's algorithm, so that no depth of the graph can exhaust the stack."""
    readers: dict[int, list[int]] = {}
    waiting = [0] * len(graph.node)
    for index, node in enumerate(graph.node):
        for name in node.input:
            if name in writer and name:
                readers.setdefault(writer[name], []).append(index)
                waiting[index] += 1
    ready = [index for index, count in enumerate(waiting) if count == 0]
    done = 0
    while ready:
        done += 1
        for reader in readers.get(ready.pop(), ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                ready.append(reader)
    return done < len(graph.node)


def _check_model(model: ModelProto, file: Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError(f"{file} is not valid ONNX: {' '.join(str(error).split())}") from error


def _label(node: NodeProto) -> str:
    return f"node {node.name!r} ({node.op_type})"
