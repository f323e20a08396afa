"""Lets a profiler time the kernels that a sequence calls for each image, which the virtual machine does not see.

The library has a function :data:`pipeline.runtime.model.STEP_CLOCK`, which takes the address of an array, or 0. As long
as there is an array, the sequence writes the time into it before each call and after the last. Without one, that costs
a load and a branch a call. It is code of LLVM because TVM has no names for a variable of the library's own.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir import Expr, StringImm
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as builder

from pipeline.runtime.model import STEP_CLOCK

_STAMP, _SWITCH = "octet_stamp_step", "octet_switch_steps"
_CLOCK_MONOTONIC = 1
_CODE = f"""
@octet_stamps = weak_odr hidden global ptr null

declare i32 @clock_gettime(i32, ptr)

define linkonce_odr hidden void @{_STAMP}(i64 %slot) alwaysinline {{
  %stamps = load ptr, ptr @octet_stamps
  %off = icmp eq ptr %stamps, null
  br i1 %off, label %done, label %write
write:
  %place = getelementptr [2 x i64], ptr %stamps, i64 %slot
  %status = call i32 @clock_gettime(i32 {_CLOCK_MONOTONIC}, ptr %place)
  br label %done
done:
  ret void
}}

define linkonce_odr hidden void @{_SWITCH}(i64 %address) alwaysinline {{
  %stamps = inttoptr i64 %address to ptr
  store ptr %stamps, ptr @octet_stamps
  ret void
}}
"""


def step_clock() -> Any:
    """A frame of the function being built, within which there is :func:`stamp`."""
    return builder.attr(tirx.const(0, "int32"), "pragma_import_llvm", StringImm(_CODE))


def stamp(slot: Expr) -> None:
    """Write the time, seconds and nanoseconds, into ``slot`` of the array if there is one."""
    builder.evaluate(tirx.call_extern("void", _STAMP, tirx.Cast("int64", slot)))


def step_clock_switch() -> dict[str, tirx.PrimFunc]:
    """The function :data:`STEP_CLOCK`, by its name."""
    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        builder.func_name(STEP_CLOCK)
        address = builder.arg("address", tirx.Var("address", "int64"))
        with step_clock():
            builder.evaluate(tirx.call_extern("void", _SWITCH, address))
    return {STEP_CLOCK: ib.get().with_attrs({"global_symbol": STEP_CLOCK, "tirx.is_scheduled": True})}
