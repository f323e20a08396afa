"""Operators that choose among the elements of a tensor, and so act on codes as they act on the values these stand for.

Besides plain movement (reshape, transpose, slice, concat, ...) that is the largest and smallest of some elements, since
codes are in the order of their values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import dtype_of, op_name, static_shape
from pipeline.passes.integer.windows import as_image, as_shape_of, window_of

ONE_TENSOR = frozenset(
    {
        "relax.reshape",
        "relax.flatten",
        "relax.nn.batch_flatten",
        "relax.squeeze",
        "relax.expand_dims",
        "relax.permute_dims",
        "relax.strided_slice",
        "relax.broadcast_to",
        "relax.tile",
        "relax.repeat",
        "relax.flip",
        "relax.take",
        "relax.split",
        "relax.max",
        "relax.min",
    }
)
"""Operators whose first operand is the tensor that is moved."""

MANY_TENSORS = frozenset({"relax.concat", "relax.stack"})
"""Operators whose first operand is a tuple of tensors."""

PAD = "relax.nn.pad"
MAX_POOLS = frozenset({"relax.nn.max_pool1d", "relax.nn.max_pool2d"})
RESIZE = "relax.image.resize2d"


def is_movement(call: Any) -> bool:
    """Whether ``call`` is one of the operators above; a padding only where it pads with a constant."""
    name = op_name(call)
    if name == PAD:
        return str(call.attrs.pad_mode) == "constant"
    if name == RESIZE:
        return (
            str(call.attrs.method) == "nearest_neighbor"
            and str(call.attrs.coordinate_transformation_mode) != "tf_crop_and_resize"
        )
    if name in MAX_POOLS:
        return window_of(call, call.attrs.pool_size) is not None
    return name in ONE_TENSOR or name in MANY_TENSORS


def moved_tensors(call: relax.Call) -> list[relax.Expr]:
    """The tensors whose elements a movement takes."""
    return list(call.args[0].fields) if op_name(call) in MANY_TENSORS else [call.args[0]]


Emit = Callable[[relax.Expr, str], relax.Expr]
"""Binds an expression to a variable of that name, such as :meth:`pipeline.ir.graph.Rewriter.emit`."""


def move(
    emit: Emit, call: relax.Call, tensors: Sequence[relax.Expr], fill: Callable[[float], int], name: str
) -> relax.Expr:
    """The movement ``call`` of the 8-bit ``tensors`` instead; ``fill`` encodes the number that a padding holds."""
    if op_name(call) in MAX_POOLS:
        return _max_pool(emit, call, tensors[0], name)
    if op_name(call) == "relax.max" and _is_global(call) and dtype_of(tensors[0]) == "uint8":
        return _global_max_pool(emit, call, tensors[0], name)
    if op_name(call) == PAD:
        widths = [int(w) for w in call.attrs.pad_width]
        return emit(relax.op.nn.pad(tensors[0], widths, "constant", float(fill(float(call.attrs.pad_value)))), name)
    first = relax.Tuple(list(tensors)) if op_name(call) in MANY_TENSORS else tensors[0]
    return emit(relax.Call(call.op, [first, *call.args[1:]], call.attrs, call.ty_args), name)


def _max_pool(emit: Emit, call: relax.Call, x: relax.Expr, name: str) -> relax.Expr:
    window = window_of(call, call.attrs.pool_size)
    assert window is not None
    image = emit(as_image(x), f"{name}_image")
    pooled = operators.max_pool2d(
        image, kernel=window.kernel, strides=window.strides, padding=window.padding, dilation=window.dilation
    )
    return emit(as_shape_of(emit(pooled, name), call), name)


def _is_global(call: relax.Call) -> bool:
    """Whether a reduction runs over the two last axes of four."""
    shape = static_shape(call.args[0])
    axes = [] if call.attrs.axis is None else [int(a) % 4 for a in call.attrs.axis]
    return shape is not None and len(shape) == 4 and sorted(axes) == [2, 3]


def _global_max_pool(emit: Emit, call: relax.Call, x: relax.Expr, name: str) -> relax.Expr:
    _, _, h, w = static_shape(x) or (0, 0, 0, 0)
    pooled = operators.max_pool2d(x, kernel=(h, w), strides=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1))
    return emit(as_shape_of(emit(pooled, name), call), name)
