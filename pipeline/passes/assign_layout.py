"""Choose the layout of every activation, and change it only where two operators disagree.

Convolutions, pools, fully connected layers and what is element-wise between them run on stored activations: channels
last, padded (see ``schedules.compute.layout``). Operators of the model's own layout read and write it.

1. A stored operator takes its inputs stored: a plain one goes through ``octet.pack`` first, a quantise at the model's
   input is done on the way.
2. An element-wise operator and a concatenation of channels are stored where one of their inputs is.
3. A reshape between (N, C, 1, 1) and (N, C) keeps the layout.
4. Every other reader gets the plain tensor through ``octet.unpack``; a dequantise is done on the way.
5. The input of a convolution with at most four channels is packed to four, not sixteen.

Each tensor is packed and unpacked at most once.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, Rewriter, numpy_of, op_name
from pipeline.ir.operators import Output, make, shape_of
from pipeline.passes.fuse_epilogues import output_of, stages_of
from schedules.compute.conv2d import padded_channels
from schedules.compute.layout import stored_array, stored_shape

STEM_CHANNELS = 4
"""Channels of a stored image: one dot product wide."""

CHANNEL_AXIS = 1


def assign_layout(module: tvm.IRModule) -> tvm.IRModule:
    """The module with stored activations between its first and last operators."""
    return _LayoutRewriter(Graph(module)).assign()


class _LayoutRewriter(Rewriter):
    """``_plain_shape`` holds, for each stored variable, the shape it has in the model."""

    changes_shapes = True

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._plain_shape: dict[relax.Var, tuple[int, ...]] = {}
        self._plain: dict[relax.Var, relax.Expr] = {}
        self._stored: dict[tuple[relax.Var, int], relax.Expr] = {}

    def assign(self) -> tvm.IRModule:
        """Rewrite all bindings."""
        return self.run(self._visit)

    def finish(self, output: relax.Expr) -> tvm.IRModule:
        """The module, its outputs in the model's layout."""
        return super().finish(self._plain_operand(output))

    def _visit(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        name = op_name(value)
        if name == operators.CONV2D:
            return self._conv2d(var, value)
        if name == operators.DENSE:
            return self._dense(var, value)
        if name in (operators.MAX_POOL2D, operators.AVG_POOL2D):
            return self._pool2d(var, value)
        if name == operators.ELEMENTWISE:
            return self._elementwise(var, value)
        if name == operators.DEQUANTIZE and value.args[0] in self._plain_shape:
            return self._dequantize(var, value)
        if name == "relax.concat" and self._concatenates_channels(value):
            return self._concat(var, value)
        if name in ("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten"):
            kept = self._reshape(var, value)
            if kept is not None:
                return kept
        return self._with_plain_operands(value)

    # Moving one tensor between the layouts.

    def _is_stored(self, expr: relax.Expr) -> bool:
        return isinstance(expr, relax.Var) and expr in self._plain_shape

    def _logical_shape(self, expr: relax.Expr) -> tuple[int, ...]:
        return self._plain_shape[expr] if self._is_stored(expr) else shape_of(expr)

    def _plain_operand(self, expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._plain_operand(f) for f in expr.fields])
        if not self._is_stored(expr):
            return expr
        if expr not in self._plain:
            output = Output(dtype=str(expr.ty.dtype))
            shape = self._plain_shape[expr]
            self._plain[expr] = self.emit(make(operators.UNPACK, [expr], shape, output, {}), f"{expr.name}_plain")
        return self._plain[expr]

    def _stored_operand(self, expr: relax.Expr, channels: int | None = None) -> relax.Expr:
        if self._is_stored(expr):
            return expr
        shape = shape_of(expr)
        channels = channels or padded_channels(shape[1] if len(shape) == 4 else shape[-1])
        key = (expr, channels)
        if key not in self._stored:
            self._stored[key] = self._pack(expr, shape, channels)
        return self._stored[key]

    def _pack(self, expr: relax.Expr, shape: tuple[int, ...], channels: int) -> relax.Expr:
        array = numpy_of(expr)
        if array is not None:
            return relax.const(stored_array(array, channels))
        target = stored_shape(shape, channels)
        name = f"{expr.name}_stored"
        if len(shape) != 4 and shape[-1] == channels:
            return self.emit(relax.op.reshape(expr, target), name)
        source, attrs = expr, {}
        quantize = self.definition(expr)
        if op_name(quantize) == operators.QUANTIZE:
            source = quantize.args[0]
            attrs = {"scale": quantize.attrs["scale"], "zero_point": quantize.attrs["y_zero_point"]}
        return self.emit(make(operators.PACK, [source], target, Output(dtype=str(expr.ty.dtype)), attrs), name)

    def _bind_stored(self, var: relax.Var, call: relax.Call, plain_shape: tuple[int, ...]) -> relax.Expr:
        stored = self.emit(call, var.name)
        self._plain_shape[stored] = plain_shape
        return stored

    def _with_plain_operands(self, value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.TupleGetItem) or not isinstance(value, relax.Call):
            return value
        args = [self._plain_operand(a) for a in value.args]
        if all(a is b for a, b in zip(args, value.args, strict=True)):
            return value
        return relax.Call(value.op, args, value.attrs, value.ty_args)

    # Operators on stored activations.

    def _remade(self, call: relax.Call, args: list[relax.Expr], shape: tuple[int, ...], channels: int) -> relax.Call:
        return make(op_name(call), args, stored_shape(shape, channels), output_of(call), dict(call.attrs.items()))

    def _with_epilogue(self, call: relax.Call, x: relax.Expr) -> list[relax.Expr]:
        """The arguments of a convolution or fully connected layer, its activations stored."""
        stages = [stage for stage in stages_of(call) if stage.operand != "none"]
        own = call.args[: len(call.args) - len(stages)]
        args = [x, *own[1:4]]
        if len(own) > 4:
            args += [self._stored_operand(own[4]), own[5]]
        for stage, operand in zip(stages, call.args[len(own) :], strict=True):
            args.append(operand if stage.operand == "table" else self._stored_operand(operand))
        return args

    def _conv2d(self, var: relax.Var, call: relax.Call) -> relax.Expr:
        channels = self._logical_shape(call.args[0])[1]
        wide = str(call.args[1].ty.dtype) == "int16"  # a depthwise kernel, which reads whole vectors of channels
        stem = channels <= STEM_CHANNELS and int(call.attrs["groups"]) == 1 and not wide
        x = self._stored_operand(call.args[0], STEM_CHANNELS if stem else None)
        shape = shape_of(var)
        return self._bind_stored(
            var, self._remade(call, self._with_epilogue(call, x), shape, padded_channels(shape[1])), shape
        )

    def _dense(self, var: relax.Var, call: relax.Call) -> relax.Expr:
        shape = shape_of(var)
        if len(shape) == 4:  # stored as an image by everybody else, as rows here
            rows = math.prod(shape[:3])
            args = [self._rows(a, rows) if len(self._logical_shape(a)) == 4 else a for a in call.args]
            flat = self._dense_rows(var, relax.Call(call.op, args, call.attrs), (rows, shape[3]))
            return self.emit(relax.op.reshape(self._plain_operand(flat), shape), var.name)
        return self._dense_rows(var, call, shape)

    def _rows(self, expr: relax.Expr, rows: int) -> relax.Expr:
        """A tensor of rank 4 as a matrix in the model's layout."""
        array = numpy_of(expr)
        if array is not None:
            return relax.const(array.reshape(rows, -1))
        return self.emit(relax.op.reshape(self._plain_operand(expr), (rows, -1)), f"{expr.name}_rows")

    def _dense_rows(self, var: relax.Var, call: relax.Call, shape: tuple[int, ...]) -> relax.Expr:
        args = self._with_epilogue(call, self._stored_operand(call.args[0]))
        return self._bind_stored(var, self._remade(call, args, shape, padded_channels(shape[-1])), shape)

    def _pool2d(self, var: relax.Var, call: relax.Call) -> relax.Expr:
        x = self._stored_operand(call.args[0])
        shape = shape_of(var)
        return self._bind_stored(var, self._remade(call, [x, *call.args[1:]], shape, shape_of(x)[3]), shape)

    def _elementwise(self, var: relax.Var, call: relax.Call) -> relax.Expr:
        shape = shape_of(var)
        tables = [s.operand == "table" for s in stages_of(call) if s.operand != "none"]
        activations = [call.args[0], *(a for a, table in zip(call.args[1:], tables, strict=True) if not table)]
        aligned = all(self._fits_stored(a, shape) for a in activations)
        if not aligned or not any(self._is_stored(a) for a in activations):
            return self._with_plain_operands(call)
        args = [self._stored_operand(call.args[0])]
        for arg, table in zip(call.args[1:], tables, strict=True):
            args.append(arg if table else self._stored_operand(arg))
        channels = shape[1] if len(shape) == 4 else shape[-1]
        return self._bind_stored(var, self._remade(call, args, shape, padded_channels(channels)), shape)

    def _fits_stored(self, operand: relax.Expr, shape: tuple[int, ...]) -> bool:
        """Whether ``operand`` broadcasts to ``shape`` in the stored layout as it does in the model's."""
        own = self._logical_shape(operand)
        if len(shape) != 4 or len(own) != 4:
            return own == shape
        return own[1] == shape[1]

    def _dequantize(self, var: relax.Var, call: relax.Call) -> relax.Expr:
        attrs = {"scale": call.attrs["scale"], "zero_point": call.attrs["x_zero_point"]}
        return make(operators.UNPACK, [call.args[0]], shape_of(var), Output(dtype="float32"), attrs)

    def _concatenates_channels(self, call: relax.Call) -> bool:
        fields = call.args[0].fields if isinstance(call.args[0], relax.Tuple) else []
        shapes = [self._logical_shape(f) for f in fields]
        return (
            bool(shapes)
            and len(shapes[0]) == 4
            and int(call.attrs.axis) % 4 == CHANNEL_AXIS
            and all(str(f.ty.dtype) == "uint8" for f in fields)
            and any(self._is_stored(f) for f in fields)
        )

    def _concat(self, var: relax.Var, call: relax.Call) -> relax.Expr:
        fields = call.args[0].fields
        channels = [self._logical_shape(f)[1] for f in fields]
        shape = (*shape_of(fields[0])[:1], sum(channels), *self._logical_shape(fields[0])[2:])
        target = stored_shape(shape, padded_channels(shape[1]))
        inputs = [self._stored_operand(f) for f in fields]
        return self._bind_stored(
            var, make(operators.CONCAT_CHANNELS, inputs, target, Output(), {"channels": channels}), shape
        )

    def _reshape(self, var: relax.Var, call: relax.Call) -> relax.Expr | None:
        x = call.args[0]
        if not self._is_stored(x):
            return None
        before, after = self._plain_shape[x], shape_of(var)
        if (before == (*after, 1, 1) and len(after) == 2) or (after == (*before, 1, 1) and len(before) == 2):
            target = stored_shape(after, shape_of(x)[3])
            return self._bind_stored(var, relax.op.reshape(x, target), after)
        return None
