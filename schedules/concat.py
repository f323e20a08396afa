"""Concatenation of stored activations along the channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm.ir import Expr
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as builder

from .compute.layout import ConcatChannels
from .rows import fill, ramp


def _reader(x: Any, row: Expr, column: Expr) -> Callable[[Expr, int], Expr]:
    return lambda at, size: x[row, column, ramp(at, size)]


def concat_channels(problem: ConcatChannels) -> tvm.tirx.PrimFunc:
    """The scheduled kernel, rows in parallel. Arguments: the inputs (rows, width, channels), result."""
    rows, width = problem.n * problem.h, problem.w
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            inputs = [builder.arg(f"x{i}", T.Buffer((rows, width, c), "uint8")) for i, c in enumerate(problem.stored)]
            result = builder.arg("result", T.Buffer((rows, width, problem.out_channels), "uint8"))
            builder.func_attr({"tirx.noalias": True})
            with builder.parallel(0, rows) as row, builder.serial(0, width) as column:
                first = 0
                for x, channels in zip(inputs, problem.channels, strict=True):
                    fill(result, (row, column), first, channels, _reader(x, row, column))
                    first += channels
        return ib.get()
