"""The parts of a parallel loop go to the thread that is free.

TVM gives every thread an equal number of neighbouring parts. All others wait for one whose core is slower, or serves
another program, too. Here a thread does the parts that TVM gave it, then those behind them that nobody has begun::

    parallel i:                      parallel i:
        body(i)          becomes         if not begun[i]:
                                             for k: part = (i + k) % parts
                                                 if not begun[part]:
                                                     begun[part] = 1
                                                     body(part)

The marks are ordinary memory. Threads that come to a part within the same nanoseconds both compute it and write the
same bytes twice: a part depends on the kernel's inputs alone, not on what it or another part writes. Atomic operations
would cost every part more than that, because they wait for all writes before them.
"""

from __future__ import annotations

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr

from .stack_buffers import ON_STACK

MAX_PARTS = 4096
"""With more, equal numbers are fair enough; the marks lie on the stack."""

_FREE, _BEGUN = tirx.const(0, "int8"), tirx.const(1, "int8")


def steal_work(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """``function`` with its parallel loops as above; those of more parts, or of an unknown number, stay as they are."""
    changed: tirx.PrimFunc = tvm_ffi.structural_map(function, (tirx.For, _stealing), order="post")
    return changed


def _stealing(loop: tirx.For) -> tirx.Stmt:
    bounds = loop.min, loop.extent
    if loop.kind != tirx.ForKind.PARALLEL or not all(isinstance(bound, tirx.IntImm) for bound in bounds):
        return loop
    start, parts = map(int, bounds)
    if start != 0 or not 1 < parts <= MAX_PARTS:
        return loop
    part = loop.loop_var
    index, first, ahead = (tirx.Var(name, str(part.ty.dtype)) for name in ("index", "first", "ahead"))
    begun = tirx.decl_buffer((parts,), "int8", "begun")

    def serial(var: tirx.Var, body: tirx.Stmt) -> tirx.For:
        return tirx.For(var, 0, parts, tirx.ForKind.SERIAL, body)

    def unless_begun(position: Expr, body: tirx.Stmt) -> tirx.Stmt:
        return tirx.IfThenElse(begun[position] == _FREE, body, None)

    next_part = tirx.Select(first + ahead < parts, first + ahead, first + ahead - parts)
    take = tirx.SeqStmt([tirx.BufferStore(begun, _BEGUN, [part]), loop.body])
    take_following = serial(ahead, tirx.SeqStmt([tirx.Bind(part, next_part), unless_begun(part, take)]))
    shared = tirx.For(first, 0, parts, tirx.ForKind.PARALLEL, unless_begun(first, take_following))
    clear = serial(index, tirx.BufferStore(begun, _FREE, [index]))
    return tirx.SeqStmt([tirx.AllocBuffer(begun, ON_STACK), clear, shared])
