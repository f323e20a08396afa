"""Replace every integer operator by a call of a scheduled TensorIR function, with its constants packed.

1. The problem of each operator (shapes, attributes, stages) becomes one function; equal problems share it.
2. Weights, biases and multipliers are packed as the kernel reads them.
3. Tensors that a kernel sees under another shape are reshaped, which costs nothing at run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, Rewriter, numpy_of, op_name
from pipeline.ir.operators import shape_of
from pipeline.passes.fuse_epilogues import output_of, stages_of
from pipeline.passes.kernel_table import MACS
from pipeline.targets import DeployTarget
from schedules import convolution, simple
from schedules.compute import conv2d as conv
from schedules.compute.elementwise import Dequantize, Elementwise, Quantize, Reencode
from schedules.compute.layout import ConcatChannels, Pack, Unpack
from schedules.compute.matrix import Matmul, Softmax
from schedules.compute.pooling import Pool2d
from schedules.compute.stages import operand_count
from schedules.intrinsics.x86 import DOT_PRODUCTS, DotProduct
from schedules.template import Configuration

Configure = Callable[[conv.Conv2d, DotProduct], Configuration]
"""Chooses template and knobs of a convolution."""


def emit_kernels(
    module: tvm.IRModule, target: DeployTarget, configure: Configure = convolution.default_configuration
) -> tvm.IRModule:
    """The module with kernels for ``target`` in place of ``octet.*`` operators."""
    return _Emitter(Graph(module), target, configure).emit_all()


def _constant(expr: relax.Expr) -> np.ndarray:
    array = numpy_of(expr)
    if array is None:
        raise TypeError(f"{expr} must be a constant, as the integer lowering makes weights and biases")
    return array


def _pair(values: Any) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _quad(values: Any) -> tuple[int, int, int, int]:
    return int(values[0]), int(values[1]), int(values[2]), int(values[3])


class _Emitter(Rewriter):
    def __init__(self, graph: Graph, target: DeployTarget, configure: Configure) -> None:
        super().__init__(graph)
        self._configure = configure
        self._dot = DOT_PRODUCTS[target.dot]
        self._functions: dict[object, relax.GlobalVar] = {}
        self._emit_by_name: dict[str, Callable[[relax.Var, relax.Call], relax.Expr]] = {
            operators.CONV2D: self._conv2d,
            operators.DENSE: self._dense,
            operators.MAX_POOL2D: self._pool2d,
            operators.AVG_POOL2D: self._pool2d,
            operators.ELEMENTWISE: self._elementwise,
            operators.SOFTMAX: self._softmax,
            operators.MATMUL: self._matmul,
            operators.QUANTIZE: self._quantize,
            operators.DEQUANTIZE: self._dequantize,
            operators.REENCODE: self._reencode,
            operators.PACK: self._pack,
            operators.UNPACK: self._unpack,
            operators.CONCAT_CHANNELS: self._concat_channels,
        }

    def emit_all(self) -> tvm.IRModule:
        """Rewrite all bindings and add the functions."""
        return self.run(self._visit)

    def finish(self, output: relax.Expr) -> tvm.IRModule:
        """The module with the kernels besides ``main``."""
        module = super().finish(output)
        module.update(self.builder.get())
        return module

    def _visit(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        emit = self._emit_by_name.get(op_name(value))
        return emit(var, value) if emit else value

    # Calls of kernels.

    def _function(self, problem: Any, build: Callable[[], tvm.tirx.PrimFunc]) -> relax.GlobalVar:
        if problem not in self._functions:
            func = build().without_attr("global_symbol").with_attr("tirx.is_scheduled", True)
            func = func.with_attr(MACS, getattr(problem, "macs", 0))
            self._functions[problem] = self.builder.add_func(func, problem.name)
        return self._functions[problem]

    def _reshaped(self, expr: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
        if shape_of(expr) == shape:
            return expr
        array = numpy_of(expr)
        if array is not None:
            return relax.const(array.reshape(shape))
        return self.emit(relax.op.reshape(expr, shape), f"{getattr(expr, 'name', 'operand')}_view")

    def _call(self, problem: Any, args: list[relax.Expr], shape: tuple[int, ...], call: relax.Call) -> relax.Expr:
        """Call a memory-bound kernel whose result has ``shape``, and give it the shape of ``call``."""
        function = self._function(problem, lambda: simple.scheduled(problem))
        result = relax.call_tir(function, args, relax.TensorType(shape, str(call.attrs["out_dtype"])))
        if shape == shape_of(call):
            return result
        return relax.op.reshape(self.emit(result, "flat"), shape_of(call))

    def _flat(self, problem: Any, call: relax.Call) -> relax.Expr:
        size = (math.prod(shape_of(call)),)
        return self._call(problem, [self._reshaped(call.args[0], size)], size, call)

    # One operator each.

    def _conv2d(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        a, weight = call.attrs, _constant(call.args[1])
        n, h, w, x_channels = shape_of(call.args[0])
        problem = conv.Conv2d(
            n=n,
            h=h,
            w=w,
            ic=weight.shape[1] * int(a["groups"]),
            oc=weight.shape[0],
            x_channels=x_channels,
            kernel=_pair(weight.shape[2:]),
            strides=_pair(a["strides"]),
            padding=_quad(a["padding"]),
            dilation=_pair(a["dilation"]),
            groups=int(a["groups"]),
            x_zero_point=int(a["x_zero_point"]),
            weight_dtype=str(weight.dtype),
            window_sum=self._has_window_sum(call),
            output=output_of(call),
            stages=stages_of(call),
        )
        return self._convolution(problem, weight, call)

    def _dense(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        weight = _constant(call.args[1])
        _, _, rows, x_channels = shape_of(call.args[0])
        problem = conv.Conv2d(
            n=1,
            h=1,
            w=rows,
            ic=weight.shape[1],
            oc=weight.shape[0],
            x_channels=x_channels,
            kernel=(1, 1),
            strides=(1, 1),
            padding=(0, 0, 0, 0),
            dilation=(1, 1),
            groups=1,
            x_zero_point=int(call.attrs["x_zero_point"]),
            weight_dtype=str(weight.dtype),
            window_sum=self._has_window_sum(call),
            output=output_of(call),
            stages=stages_of(call),
        )
        return self._convolution(problem, weight[:, :, None, None], call)

    def _has_window_sum(self, call: relax.Call) -> bool:
        return len(call.args) - operand_count(stages_of(call)) > 4

    def _convolution(self, problem: conv.Conv2d, weight: np.ndarray, call: relax.Call) -> relax.Expr:
        vectors = [_constant(call.args[2]), _constant(call.args[3])]
        rest = list(call.args[4:])
        problem = replace(problem, below_one=bool(np.all(np.abs(vectors[1]) < 1)))
        if problem.window_sum:
            vectors.append(_constant(rest[1]))
        choice = self._configure(problem, self._dot)
        arrays = convolution.constants(problem, self._dot, choice, [weight, *vectors])
        packed = [relax.const(array) for array in arrays]
        if problem.window_sum:
            rest = [rest[0], packed.pop(), *rest[2:]]
        args = [call.args[0], *packed, *rest]
        function = self._function(problem, lambda: convolution.build(problem, self._dot, choice))
        return relax.call_tir(function, args, relax.TensorType(shape_of(call), problem.result_dtype))

    def _pool2d(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        a, average = call.attrs, op_name(call) == operators.AVG_POOL2D
        n, h, w, channels = shape_of(call.args[0])
        problem = Pool2d(
            kind="average" if average else "max",
            n=n,
            h=h,
            w=w,
            channels=channels,
            kernel=_pair(a["kernel"]),
            strides=_pair(a["strides"]),
            padding=_quad(a["padding"]),
            dilation=(1, 1) if average else _pair(a["dilation"]),
            x_zero_point=int(a["x_zero_point"]) if average else 0,
            output=output_of(call),
        )
        return self._call(problem, list(call.args), shape_of(call), call)

    def _elementwise(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        stages, shape = stages_of(call), shape_of(call)
        tables = [False, *(s.operand == "table" for s in stages if s.operand != "none")]
        shapes = tuple(shape_of(a) for a, table in zip(call.args, tables, strict=True) if not table)
        problem = Elementwise(shapes, shape, stages)
        if problem.broadcasts:
            return self._call(problem, list(call.args), shape, call)
        size = (math.prod(shape),)
        args = [a if t else self._reshaped(a, size) for a, t in zip(call.args, tables, strict=True)]
        return self._call(problem, args, size, call)

    def _softmax(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        shape = shape_of(call)
        axis = int(call.attrs["axis"]) % len(shape)
        view = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
        problem = Softmax(*view, float(call.attrs["inverse_scale"]), output_of(call))
        return self._call(problem, [self._reshaped(call.args[0], view), call.args[1]], view, call)

    def _matmul(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        a, b, multiplier = call.args
        lead = shape_of(call)[:-2]
        batches = math.prod(lead)
        views = []
        for operand in (a, b):
            own = shape_of(operand)
            if math.prod(own[:-2]) not in (1, batches):
                operand = self.emit(relax.op.broadcast_to(operand, (*lead, *own[-2:])), "repeated")
                own = shape_of(operand)
            views.append(self._reshaped(operand, (math.prod(own[:-2]), *own[-2:])))
        (batch_a, m, k), (batch_b, _, n) = shape_of(views[0]), shape_of(views[1])
        zeros = int(call.attrs["a_zero_point"]), int(call.attrs["b_zero_point"])
        problem = Matmul(batch_a, batch_b, m, k, n, *zeros, output_of(call))
        return self._call(problem, [*views, multiplier], (batches, m, n), call)

    def _quantize(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        a = call.attrs
        return self._flat(Quantize(shape_of(call), float(a["scale"]), int(a["y_zero_point"])), call)

    def _dequantize(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        a = call.attrs
        return self._flat(Dequantize(shape_of(call), float(a["scale"]), int(a["x_zero_point"])), call)

    def _reencode(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        return self._flat(Reencode(shape_of(call), str(call.attrs["out_dtype"])), call)

    def _pack(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        problem = Pack(shape_of(call.args[0]), shape_of(call)[3], str(call.attrs["out_dtype"]), *_scale(call))
        return self._call(problem, list(call.args), shape_of(call), call)

    def _unpack(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        stored = call.args[0]
        problem = Unpack(shape_of(call), shape_of(stored)[3], str(stored.ty.dtype), *_scale(call))
        return self._call(problem, [stored], shape_of(call), call)

    def _concat_channels(self, _var: relax.Var, call: relax.Call) -> relax.Expr:
        n, h, w, out_channels = shape_of(call)
        stored = tuple(shape_of(x)[3] for x in call.args)
        problem = ConcatChannels(n, h, w, tuple(int(c) for c in call.attrs["channels"]), stored, out_channels)
        views = [self._reshaped(x, (n * h, w, c)) for x, c in zip(call.args, stored, strict=True)]
        return self._call(problem, views, (n * h, w, out_channels), call)


def _scale(call: relax.Call) -> tuple[float | None, int]:
    if "scale" not in call.attrs:
        return None, 0
    return float(call.attrs["scale"]), int(call.attrs["zero_point"])
