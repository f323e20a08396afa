"""The parts of a parallel loop go to the thread that is free.

TVM gives every thread an equal number of neighbouring parts. All others wait for one whose core is slower, or serves
another program, too. Here a thread does the parts that TVM gave it, then those behind them that nobody has begun::

    parallel i:                      parallel i:
        body(i)          becomes         if not begun[i]:
                                             for k: part = (i + k) % parts
                                                 if not begun[part] and not exchange(begun[part], 1):
                                                     body(part)

The exchange is atomic: a part runs once, whoever comes to it at the same time.
"""

from __future__ import annotations

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr, StringImm
from tvm.script import tirx as T

from .stack_buffers import ON_STACK

MAX_PARTS = 4096
"""With more, equal numbers are fair enough; the marks lie on the stack."""

_FREE = tirx.const(0, "int8")
_BEGIN = "octet_begin_part"
_EXCHANGE = f"""
define linkonce_odr i8 @{_BEGIN}(ptr %mark) alwaysinline nounwind {{
  %before = atomicrmw xchg ptr %mark, i8 1 monotonic
  ret i8 %before
}}
"""
"""As code of LLVM, whose atomic operations TVM has no names for. Nothing is ordered by it: all threads start after what
came before the loop, and are waited for behind it."""


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
    begin = tirx.call_extern("int8", _BEGIN, T.address_of(begun[part])) == _FREE
    take = unless_begun(part, tirx.IfThenElse(begin, loop.body, None))
    take_following = serial(ahead, tirx.SeqStmt([tirx.Bind(part, next_part), take]))
    shared = tirx.For(first, 0, parts, tirx.ForKind.PARALLEL, unless_begun(first, take_following))
    shared = tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", StringImm(_EXCHANGE), shared)
    clear = serial(index, tirx.BufferStore(begun, _FREE, [index]))
    return tirx.SeqStmt([tirx.AllocBuffer(begun, ON_STACK), clear, shared])
