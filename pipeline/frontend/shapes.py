"""Give every tensor a static shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import ModelProto, TensorShapeProto, ValueInfoProto

from pipeline.errors import ModelError
from pipeline.frontend.graph import Graph
from pipeline.frontend.limits import Limits
from pipeline.frontend.reader import check_shape


def freeze_inputs(
    model: ModelProto, batch: int | None, shapes: Mapping[str, Sequence[int]] | None, limits: Limits
) -> None:
    """Replace the symbolic dimensions of the inputs, in place.

    ``shapes`` gives whole shapes by input name; ``batch`` is the first dimension of every other input that leaves it
    open (1 where ``batch`` is None). A symbol means the same size wherever it appears. Inferred types inside the graph
    are dropped, as they may have been written down for other sizes. Raises :class:`ModelError` where something is
    still open, or contradicts the file.
    """
    shapes = dict(shapes or {})
    if batch is not None and batch < 1:
        raise ModelError(f"batch {batch} makes no sense: give 1 or more.")
    constants = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    unknown = sorted(set(shapes) - {i.name for i in inputs})
    if unknown:
        names = ", ".join(repr(i.name) for i in inputs)
        raise ModelError(f"--shape names {unknown[0]!r}, which is no input of the model; its inputs are {names}.")
    _check_batch([i for i in inputs if i.name not in shapes], batch)
    symbols: dict[str, int] = {}
    for value in inputs:
        _freeze(value, 1 if batch is None else batch, shapes.get(value.name), symbols)
    for value in inputs:
        _check_frozen(value, symbols)
        check_shape(f"input {value.name!r}", tuple(d.dim_value for d in _shape(value).dim), limits)
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if _size(dim) is None:
                size = symbols.get(dim.dim_param)
                dim.Clear()
                if size is not None:
                    dim.dim_value = size


def open_unknown_sizes(model: ModelProto) -> None:
    """Leave sizes written as 0 or -1 open as ONNX has it, in place: onnxruntime takes a 0 at its word."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in _shape(value).dim:
            if dim.HasField("dim_value") and _size(dim) is None:
                dim.Clear()


def require_static(graph: Graph, limits: Limits) -> None:
    """Raise :class:`ModelError` where a tensor has no static shape or is over the caps, or an output is empty.

    Also settles output shapes.
    """
    for node in graph.nodes:
        for name in node.outputs:
            if not name:
                continue
            shape = graph.shape(name)
            if shape is None:
                raise ModelError(
                    f"the shape of {name!r}, written by node {node.name!r} ({node.op_type}), depends on the data "
                    "or is not known at compile time. Every size must be fixed: give input sizes with "
                    "--shape name=1,3,224,224, or export the model without that node."
                )
            check_shape(f"tensor {name!r} of node {node.name!r} ({node.op_type})", shape, limits)
    for value in graph.outputs:
        kind = graph.type_of(value.name)
        sizes = graph.shape(value.name) or ()
        if 0 in sizes:
            raise ModelError(
                f"output {value.name!r} has no elements: its shape is {list(sizes)}. "
                "Check the sizes given for the inputs (--shape, --batch), or take it off the model's outputs."
            )
        value.type.tensor_type.elem_type = kind.dtype
        shape_proto = TensorShapeProto()
        for size in sizes:
            shape_proto.dim.add(dim_value=size)
        value.type.tensor_type.shape.CopyFrom(shape_proto)


def _freeze(value: ValueInfoProto, batch: int, wanted: Sequence[int] | None, symbols: dict[str, int]) -> None:
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"input {value.name!r} is no tensor (a sequence, map or optional), which is not supported.")
    proto = value.type.tensor_type.shape
    if not value.type.tensor_type.HasField("shape"):
        if wanted is None:
            raise ModelError(
                f"input {value.name!r} has no shape at all: give one with --shape {value.name}=1,3,224,224."
            )
        for _ in wanted:
            proto.dim.add()
    dims = list(proto.dim)
    if wanted is not None and len(wanted) != len(dims):
        raise ModelError(f"--shape {value.name} has {len(wanted)} sizes, but the input has {len(dims)} dimensions.")
    for index, dim in enumerate(dims):
        size = wanted[index] if wanted is not None else (batch if index == 0 and _size(dim) is None else None)
        if size is None:
            continue
        if size < 1:
            raise ModelError(f"--shape {value.name}: size {size} makes no sense, give 1 or more.")
        fixed = _size(dim)
        if fixed is not None and fixed != size:
            raise ModelError(
                f"dimension {index} of input {value.name!r} is fixed to {fixed} in the file, not {size}: "
                "export the model with an open dimension there."
            )
        symbol = dim.dim_param
        if symbol and symbols.setdefault(symbol, size) != size:
            raise ModelError(
                f"dimension {index} of input {value.name!r} is {symbol!r}: {symbols[symbol]} elsewhere, {size} here."
            )
        dim.Clear()
        dim.dim_value = size


def _check_batch(inputs: Sequence[ValueInfoProto], batch: int | None) -> None:
    """A batch that no input leaves open is a mistake: the caller would get another batch than asked for."""
    firsts = [(i.name, i.type.tensor_type.shape.dim[0]) for i in inputs if i.type.tensor_type.shape.dim]
    if batch is None or not firsts or any(_size(dim) in (None, batch) for _, dim in firsts):
        return
    name, dim = firsts[0]
    raise ModelError(
        f"dimension 0 of input {name!r} is fixed to {dim.dim_value} in the file, not {batch}: "
        "export the model with an open batch dimension."
    )


def _check_frozen(value: ValueInfoProto, symbols: Mapping[str, int]) -> None:
    sizes: list[str] = []
    for dim in _shape(value).dim:
        size = _size(dim)
        if size is None and dim.dim_param in symbols:
            size = symbols[dim.dim_param]
            dim.Clear()
            dim.dim_value = size
        sizes.append("?" if size is None else str(size))
    if "?" in sizes:
        raise ModelError(
            f"input {value.name!r} has open dimensions: ({', '.join(sizes)}). "
            f"Give all its sizes with --shape {value.name}={','.join(sizes)} and a number for each question mark."
        )


def _shape(value: ValueInfoProto) -> TensorShapeProto:
    return value.type.tensor_type.shape


def _size(dim: TensorShapeProto.Dimension) -> int | None:
    """The fixed size; some exporters write 0 or -1 for an open one."""
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
