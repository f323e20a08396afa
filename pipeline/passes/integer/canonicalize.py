"""Give what the importer wrote the form that the later passes look for.

1. ``call_tir`` of topi's maximum, minimum, pad (constant) and tile -> ``maximum``, ``minimum``, ``nn.pad``, ``tile``,
   where the loops are the same as topi's own, structurally; any other ``call_tir`` stays.
2. An element-wise operator on constants -> its value (a DequantizeLinear of a constant counts as a constant here, but
   is itself left alone: its integers are wanted).
3. QuantizeLinear of a constant -> the integers.
4. ``max``/``min``/``sum`` over a stack of tensors -> ``maximum``, ``minimum`` or ``add``, two at a time.
5. Reshape and transpose of a constant -> the constant. Behind a DequantizeLinear they wait for :mod:`.sink`, which
   carries them out on the integers.
6. The shape of a tensor, as the importer asks for it to count indices from the end -> constants.
7. ``minimum(maximum(x, low), high)``, which is how the importer writes Clip -> ``clip``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, topi

from pipeline.ir.graph import Constant, Graph, Rewriter, dtype_of, numpy_of, op_name, static_shape
from pipeline.passes.integer.arithmetic import ELEMENTWISE, evaluate, tensor_operands
from pipeline.passes.integer.clamp import clamp_of
from pipeline.passes.integer.quantization import ENCODABLE, QUANTIZE, constant_operand, quantize_codes

FOLD_LIMIT = 1 << 26
"""Constants with more elements than this are not folded."""


def _constant(value: np.ndarray[Any, Any]) -> Constant:
    """``value`` with the dtype it has; left to itself, ``relax.const`` makes an int64 or float64 scalar 32 bits."""
    return relax.const(value, str(value.dtype))


def _stored_value(function: tvm.tirx.PrimFunc) -> Any:
    """The expression that the only store of a function writes, or None where there are several."""
    body = function.body
    while True:
        if isinstance(body, tvm.s_tir.stmt.SBlockRealize):
            body = body.block
        elif isinstance(body, tvm.tirx.BufferStore):
            return body.value
        elif hasattr(body, "body"):
            body = body.body
        else:
            return None


def _is_topi(function: tvm.tirx.PrimFunc, topi_function: Callable[..., Any], operands: list[Any], *rest: Any) -> bool:
    """Whether ``function`` computes what ``topi_function`` does on such operands."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"p{i}", a.ty) if isinstance(a.ty, relax.TensorType) else a for i, a in enumerate(operands)]
    tensors = [p for p in params if isinstance(p, relax.Var)]
    with builder.function("main", tensors):
        with builder.dataflow():
            builder.emit_te(topi_function, *params, *rest)
            result = builder.emit_output(tensors[0])
        builder.emit_func_output(result)
    made = [f for v, f in builder.get().functions.items() if v.name_hint != "main"]
    return tvm_ffi.structural_equal(function, made[0])


def _bound(call: relax.Call, function: tvm.tirx.PrimFunc, value: Any) -> relax.Expr | None:
    """``maximum`` or ``minimum`` of the call's operands, of which the second may be a number in the loops."""
    larger = isinstance(value, tvm.tirx.Max)
    operands = list(call.args[1].fields)
    if len(operands) == 1:
        number = value.b if isinstance(value.b, tvm.tirx.FloatImm) else value.a
        if not isinstance(number, tvm.tirx.FloatImm):
            return None
        if not _is_topi(function, topi.maximum if larger else topi.minimum, operands, float(number.value)):
            return None
        operands.append(_constant(np.array(float(number.value), dtype_of(operands[0]))))
    elif not _is_topi(function, topi.maximum if larger else topi.minimum, operands):
        return None
    return (relax.op.maximum if larger else relax.op.minimum)(*operands)


def _pad(call: relax.Call, function: tvm.tirx.PrimFunc, value: Any) -> relax.Expr | None:
    """``nn.pad`` where the loops read ``x[i - before]`` or a number."""
    (x,) = call.args[1].fields
    shape, padded = static_shape(x), static_shape(call)
    load, fill = value.args[1], value.args[2]
    if shape is None or padded is None or not isinstance(fill, (tvm.tirx.FloatImm, tvm.tirx.IntImm)):
        return None
    before = []
    for index in load.indices:
        if isinstance(index, tvm.tirx.Sub) and isinstance(index.b, tvm.tirx.IntImm):
            before.append(int(index.b))
        else:
            before.append(0)
    after = [p - s - b for p, s, b in zip(padded, shape, before, strict=True)]
    if min(after) < 0 or not _is_topi(function, topi.nn.pad, [x], before, after, fill.value):
        return None
    widths = [width for pair in zip(before, after, strict=True) for width in pair]
    return relax.op.nn.pad(x, widths, "constant", float(fill.value))


def _tile(call: relax.Call, function: tvm.tirx.PrimFunc) -> relax.Expr | None:
    """``tile`` where the loops read ``x[i % size]``."""
    (x,) = call.args[1].fields
    shape, tiled = static_shape(x), static_shape(call)
    if not shape or tiled is None or len(shape) != len(tiled) or 0 in shape:
        return None
    repeats = [t // s for t, s in zip(tiled, shape, strict=True)]
    return relax.op.tile(x, repeats) if _is_topi(function, topi.tile, [x], repeats) else None


def _operator_for(module: tvm.IRModule, call: relax.Call) -> relax.Expr | None:
    """The Relax operator that a ``call_tir`` stands for, or None."""
    value = _stored_value(module[call.args[0]])
    if isinstance(value, (tvm.tirx.Max, tvm.tirx.Min)):
        return _bound(call, module[call.args[0]], value)
    if len(call.args[1].fields) != 1 or static_shape(call) is None:
        return None
    if isinstance(value, relax.Call) and op_name(value).endswith("if_then_else") and hasattr(value.args[1], "indices"):
        return _pad(call, module[call.args[0]], value)
    return _tile(call, module[call.args[0]]) if hasattr(value, "indices") else None


_REDUCTIONS = {
    "relax.max": relax.op.maximum,
    "relax.min": relax.op.minimum,
    "relax.sum": relax.op.add,
}


_MOVEMENT = frozenset({"relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.permute_dims"})


_SHAPES = frozenset({"relax.shape_of", "relax.shape_to_tensor", "relax.take"})


def _pairwise(rewriter: Rewriter, call: relax.Call, name: str) -> relax.Expr | None:
    """``max(stack([a, b, ...]), axis=0)`` as binary operators on the tensors from before their broadcast."""
    stack = rewriter.definition(call.args[0])
    axis = [int(a) for a in call.attrs.axis] if call.attrs.axis is not None else []
    if op_name(stack) != "relax.stack" or axis != [0] or call.attrs.keepdims or int(stack.attrs.axis or 0) != 0:
        return None
    sources = []
    for part in stack.args[0].fields:
        definition = rewriter.definition(part)
        sources.append(definition.args[0] if op_name(definition) == "relax.broadcast_to" else part)
    result = sources[0]
    for source in sources[1:]:
        result = rewriter.emit(_REDUCTIONS[op_name(call)](result, source), name)
    return result if static_shape(result) == static_shape(stack.args[0].fields[0]) else None


def _constant_value(rewriter: Rewriter, expr: relax.Expr) -> np.ndarray[Any, Any] | None:
    value = numpy_of(expr)
    if value is not None:
        return value
    constant = constant_operand(rewriter.definition(expr))
    return None if constant is None else constant.values().astype(np.float32)


def _folded(rewriter: Rewriter, call: relax.Call) -> Constant | None:
    """Value of an element-wise operator all of whose operands are constants."""
    shape = static_shape(call)
    if op_name(call) not in ELEMENTWISE or shape is None or int(np.prod(shape)) > FOLD_LIMIT:
        return None
    values = [_constant_value(rewriter, arg) for arg in tensor_operands(call)]
    known = [v for v in values if v is not None]
    return _constant(evaluate(call, known)) if len(known) == len(values) else None


def _moved(call: relax.Call) -> Constant | None:
    """A constant with another shape or another order of axes."""
    value, shape = numpy_of(call.args[0]), static_shape(call)
    if value is None or shape is None:
        return None
    if op_name(call) == "relax.permute_dims":
        order = None if call.attrs.axes is None else [int(a) for a in call.attrs.axes]
        return _constant(np.ascontiguousarray(np.transpose(value, order)))
    return _constant(value.reshape(shape))


def _clip(rewriter: Rewriter, call: relax.Call) -> relax.Expr | None:
    """``clip`` for a minimum with a number of a maximum with a number that is no larger."""
    high = clamp_of(call, rewriter.definition)
    low = None if high is None else clamp_of(rewriter.definition(high.operand), rewriter.definition)
    if high is None or low is None or math.inf in (-low.low, high.high) or low.low > high.high or low.high != math.inf:
        return None
    bounds = [tvm.tirx.const(bound, dtype_of(call)) for bound in (low.low, high.high)]
    return relax.op.clip(low.operand, *bounds)


def _shape_value(rewriter: Rewriter, call: relax.Call) -> relax.Expr | None:
    """A static shape, that shape as int64, or elements taken from a constant."""
    if op_name(call) == "relax.shape_of":
        shape = static_shape(call.args[0])
        return None if shape is None else relax.ShapeExpr(list(shape))
    if op_name(call) == "relax.shape_to_tensor":
        sizes = rewriter.definition(call.args[0])
        static = isinstance(sizes, relax.ShapeExpr) and all(isinstance(v, tvm.tirx.IntImm) for v in sizes.values)
        return _constant(np.array([int(v) for v in sizes.values], np.int64)) if static else None
    values, indices = numpy_of(call.args[0]), numpy_of(call.args[1])
    if values is None or indices is None:
        return None
    taken = np.take(values, indices.astype(np.int64), axis=None if call.attrs.axis is None else int(call.attrs.axis))
    return _constant(np.asarray(taken))


def _quantized(call: relax.Call) -> Constant | None:
    """The integers of a QuantizeLinear whose operands are all constants of 8 bits."""
    values, scale, zero_point = (numpy_of(arg) for arg in call.args)
    dtype = str(call.attrs.out_dtype)
    if values is None or scale is None or zero_point is None or dtype not in ENCODABLE:
        return None
    shape = [1] * values.ndim
    if scale.size > 1:
        shape[int(call.attrs.axis)] = scale.size
    limits = np.iinfo(dtype)
    zero_point = zero_point.astype(np.int64).reshape(shape if zero_point.size > 1 else ())
    codes = quantize_codes(values, scale.reshape(shape), zero_point, int(limits.min), int(limits.max))
    return _constant(codes.reshape(values.shape).astype(dtype))


def canonicalize(module: tvm.IRModule) -> tvm.IRModule:
    """Apply the rewrites above to ``main``."""
    rewriter = Rewriter(Graph(module))

    def visit(var: relax.Var, value: relax.Expr) -> relax.Expr:
        new: relax.Expr | None = None
        if op_name(value) == "relax.call_tir":
            new = _operator_for(module, value)
            value = value if new is None else rewriter.builder.normalize(new)
            new = _folded(rewriter, value)
        elif op_name(value) == QUANTIZE:
            new = _quantized(value)
        elif op_name(value) in _SHAPES:
            new = _shape_value(rewriter, value)
        elif op_name(value) in _MOVEMENT:
            new = _moved(value)
        elif op_name(value) in _REDUCTIONS:
            new = _pairwise(rewriter, value, var.name)
        elif isinstance(value, relax.Call):
            new = _folded(rewriter, value)
        if new is None and op_name(value) == "relax.minimum":
            new = _clip(rewriter, value)
        return value if new is None else new

    return rewriter.run(visit)
