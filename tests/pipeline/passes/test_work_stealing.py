"""Threads that are done take parts of a parallel loop from those that are not."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as builder

from pipeline.passes.kernel_lowering import KERNEL_LOWERING
from pipeline.passes.work_stealing import MAX_PARTS, steal_work
from pipeline.runtime import threads
from pipeline.targets import resolve

PARTS, PATIENCE = 8, 1_000_000


def _count_visits(parts: int) -> tirx.PrimFunc:
    """How often each part runs."""
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            visits = builder.arg("visits", T.Buffer((parts,), "int32"))
            with builder.parallel(0, parts) as part:
                builder.buffer_store(visits, visits[part] + 1, [part])
        return ib.get()


def _first_waits_for_others() -> tirx.PrimFunc:
    """``done`` = 1 for every part; the first one waits for all others and then counts them."""
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            done = builder.arg("done", T.Buffer((PARTS,), "int32"))
            with builder.parallel(0, PARTS) as part:
                others = sum((done[i] for i in range(2, PARTS)), done[1])
                patience = tirx.Select(part == 0, tirx.const(PATIENCE, "int32"), 0)
                with builder.serial(0, patience), builder.If(others < PARTS - 1), builder.Then():
                    builder.evaluate(T.call_extern("sched_yield", dtype="int32"))
                builder.buffer_store(done, tirx.Select(part == 0, others, 1), [part])
        return ib.get()


def _run(function: tirx.PrimFunc, size: int, thread_count: int) -> np.ndarray:
    library = tvm.tirx.build(function, target=resolve("llvm").tvm_target(), pipeline=KERNEL_LOWERING)
    result = tvm.runtime.tensor(np.zeros(size, np.int32))
    threads.run(thread_count, lambda: library["main"](result))
    values: np.ndarray = result.numpy()
    return values


@pytest.mark.parametrize("parts", [1, 2, 3, 64, MAX_PARTS, MAX_PARTS + 1])
@pytest.mark.parametrize("thread_count", [1, 2, 3])
def test_every_part_runs_once(parts: int, thread_count: int) -> None:
    """A part that no thread takes leaves garbage; sums in memory that two take at a time are wrong."""
    np.testing.assert_array_equal(_run(_count_visits(parts), parts, thread_count), np.ones(parts, np.int32))


def test_parts_behind_a_slow_one_go_to_the_other_thread() -> None:
    """Equal numbers for all would have every thread wait for the slowest core."""
    assert _run(_first_waits_for_others(), PARTS, 2)[0] == PARTS - 1


def test_loops_of_too_many_parts_stay_as_they_are() -> None:
    """Their marks would not fit on the stack."""
    function = _count_visits(MAX_PARTS + 1)
    assert steal_work(function).same_as(function)
