"""Measures what the hardware can do at best: dot products on registers, and reads from each level of memory.

The programs are TensorIR of our own, built in this process: there may be no C compiler where libraries are profiled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as builder

from pipeline.runtime import TensorInfo, threads
from pipeline.runtime.cpu import usable_cpus
from pipeline.runtime.model import aligned_empty
from pipeline.targets import DeployTarget
from schedules.compute.arithmetic import int32
from schedules.intrinsics.x86 import DOT_PRODUCTS, DotProduct

Progress = Callable[[float], None]

CHAINS = {"avx512vnni": 12, "avxvnni": 10, "avx2": 8, "sse2": 8}
"""Independent sums: enough to hide the latency (5 cycles of ``vpdpbusd``, two a cycle), and no register too many."""

STEPS, TILE_STEPS = 64, 4
ROUNDS = {"amx": 100_000, "avx512vnni": 10_000, "avxvnni": 10_000, "avx2": 10_000, "sse2": 10_000}
"""A slice takes some milliseconds: rounds of 64 vector steps, or of 4 steps of the matrix unit."""

SECONDS, PATIENCE = 0.3, 1.5
"""How long each speed is measured in slices, and how long at most if other programs disturb."""

BEST, ENOUGH = 75, 10
"""Percentile of the undisturbed slices' speeds, for the clock frequency varies; and how many of them it takes."""

UNDISTURBED = 0.97
"""Share of the time that the threads had a CPU, from which on a slice counts as undisturbed."""

SIZES = tuple(2**power for power in range(14, 29, 2))
"""Bytes that are read again and again: 16 KiB to 256 MiB."""

VECTORS, LANES, SHORTEST_READ = 8, 16, 32 << 20


@dataclass(frozen=True)
class Speed:
    """10^9 a second, and whether other programs had too much of the CPU meanwhile for that to be what it can do."""

    value: float
    disturbed: bool


def peak_gmacs(target: DeployTarget, thread_count: int) -> Speed:
    """Multiply-accumulates of the target's dot product on ``thread_count`` threads."""
    dot = DOT_PRODUCTS[target.dot]
    rounds = ROUNDS[target.dot]
    if dot.matrix_unit:
        arguments = [_random((thread_count, 16, 64), "uint8"), _random((thread_count, 16, 16), "int32")]
        function, macs = _matrix_peak(thread_count, rounds), TILE_STEPS * 16 * 16 * 64
    else:
        chains = CHAINS[target.dot]
        arguments = [
            _random((thread_count, STEPS, dot.depth), dot.x_dtype),
            _random((chains, dot.lanes, dot.depth), dot.weight_dtype),
            _random((thread_count, chains, dot.lanes), "int32"),
        ]
        function, macs = _vector_peak(dot, chains, thread_count, rounds), STEPS * chains * dot.lanes * dot.depth
    run = _built(function, target, thread_count)
    return _speed(lambda: run(*arguments), macs * rounds * thread_count, thread_count)


def bandwidths(target: DeployTarget, thread_count: int, progress: Progress) -> list[tuple[int, Speed]]:
    """(bytes, bytes a second) of reading so many bytes again and again, each thread its own part of them."""
    run = _built(_read(thread_count), target, thread_count)
    result = _random((thread_count, VECTORS, LANES), "int32")
    sizes = [size for size in SIZES if size >= SIZES[0] * thread_count]
    found = []
    for i, size in enumerate(sizes):
        blocks = size // (4 * VECTORS * LANES * thread_count)
        values = _random((thread_count, blocks, VECTORS, LANES), "int32")
        repeats = max(1, SHORTEST_READ // size)
        arguments = (values, repeats, result)
        found.append((values.nbytes, _speed(partial(run, *arguments), values.nbytes * repeats, thread_count)))
        progress((i + 1) / len(sizes))
    return found


def _built(function: tirx.PrimFunc, target: DeployTarget, thread_count: int) -> Callable[..., None]:
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    main = tvm.tirx.build(module, target=target.tvm_target())["main"]
    return lambda *arguments: threads.run(thread_count, lambda: main(*arguments))


def _random(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """All bits at random, at an address that vector loads and stores may assume.

    Not zeros: those take less power, so that the clock goes up, by a quarter with the matrix unit of Sapphire Rapids.
    """
    array = aligned_empty(TensorInfo("", shape, dtype), 64)
    array.view(np.uint8)[...] = np.random.default_rng(0).integers(0, 256, array.view(np.uint8).shape, np.uint8)
    return array


def _speed(run: Callable[[], None], amount: int, thread_count: int) -> Speed:
    """``amount`` by the time of a run, when nothing disturbs: TVM's threads are busy all the time that a run takes."""
    run()
    cpus = min(thread_count, len(usable_cpus()))
    clean: list[float] = []
    others: list[float] = []
    start = time.perf_counter()
    spent = 0.0
    while not spent or (spent < PATIENCE and (spent < SECONDS or len(clean) < ENOUGH)):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        (clean if cpu > UNDISTURBED * wall * cpus else others).append(amount / wall / 1e9)
        spent = time.perf_counter() - start
    disturbed = len(clean) < ENOUGH
    return Speed(float(np.percentile(clean + others if disturbed else clean, BEST)), disturbed)


def _vector_peak(dot: DotProduct, chains: int, thread_count: int, rounds: int) -> tirx.PrimFunc:
    """(threads, STEPS, depth) x (chains, lanes, depth) -> (threads, chains, lanes), all of it ``rounds`` times.

    The activations of a step are the same in each round, but come from memory, or half of a product could be moved
    out of the loop where it takes two instructions.
    """
    x = te.placeholder((thread_count, STEPS, dot.depth), dot.x_dtype, "x")
    weight = te.placeholder((chains, dot.lanes, dot.depth), dot.weight_dtype, "weight")
    again, step, k = te.reduce_axis((0, rounds)), te.reduce_axis((0, STEPS)), te.reduce_axis((0, dot.depth))
    sums = te.compute(
        (thread_count, chains, dot.lanes),
        lambda t, c, lane: te.sum(int32(x[t, step, k]) * int32(weight[c, lane, k]), axis=[again, step, k]),
        "sums",
    )
    return _in_registers([x, weight], sums, dot.intrinsic)


def _matrix_peak(thread_count: int, rounds: int) -> tirx.PrimFunc:
    """(threads, 16, 64) bytes -> (threads, 16, 16): four tiles of sums in turns, each the product of two others."""
    palette = np.zeros(64, np.uint8)
    palette[0] = 1
    palette[16 : 16 + 2 * 8 : 2], palette[48 : 48 + 8] = 64, 16
    row_bytes = tirx.const(64, "int64")

    def intrinsic(name: str, *arguments: Any) -> None:
        builder.evaluate(T.call_llvm_intrin(T.llvm_lookup_intrinsic_id(f"llvm.x86.{name}"), *arguments, dtype="void"))

    def tile(index: int) -> tirx.Expr:
        return tirx.const(index, "int8")

    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            x = builder.arg("x", T.Buffer((thread_count, 16, 64), "uint8"))
            result = builder.arg("result", T.Buffer((thread_count, 16, 16), "int32"))
            with builder.parallel(0, thread_count) as thread:
                config = builder.alloc_buffer((8,), "int64", scope="local", align=64)
                for i, word in enumerate(palette.view(np.int64)):
                    builder.buffer_store(config, tirx.const(int(word), "int64"), [i])
                intrinsic("ldtilecfg", T.address_of(config[0]))
                for sums in range(TILE_STEPS):
                    intrinsic("tilezero", tile(sums))
                for operand in (6, 7):
                    intrinsic("tileloadd64", tile(operand), T.address_of(x[thread, 0, 0]), row_bytes)
                with builder.serial(0, rounds):
                    for sums in range(TILE_STEPS):
                        intrinsic("tdpbusd", tile(sums), tile(6), tile(7))
                intrinsic("tilestored64", tile(0), T.address_of(result[thread, 0, 0]), row_bytes)
                intrinsic("tilerelease")
        return ib.get()


def _read(thread_count: int) -> tirx.PrimFunc:
    """(threads, blocks, VECTORS, LANES) summed over the blocks, ``repeats`` times."""
    blocks, repeats = te.var("blocks", "int64"), te.var("repeats", "int64")
    values = te.placeholder((thread_count, blocks, VECTORS, LANES), "int32", "values")
    again, block = te.reduce_axis((0, repeats)), te.reduce_axis((0, blocks))
    sums = te.compute(
        (thread_count, VECTORS, LANES),
        lambda t, v, lane: te.sum(values[t, block, v, lane], axis=[again, block]),
        "sums",
    )
    return _in_registers([values, repeats], sums, None)


def _in_registers(arguments: list[Any], sums: te.Tensor, intrinsic: str | None) -> tirx.PrimFunc:
    """The function (arguments, result) that computes ``sums`` (thread, chain, lane), which stay in registers meanwhile.

    The reduction axes of ``sums`` are two loops and, where there is one, the depth of ``intrinsic``.
    """
    result = te.compute(sums.shape, lambda t, c, lane: sums[t, c, lane], "result")
    s = Schedule(te.create_prim_func([*arguments, result]))
    accumulate, store = s.get_sblock("sums"), s.get_sblock("result")
    thread, chain, lane = s.get_loops(store)
    s.set_scope(accumulate, 0, "local")
    s.compute_at(accumulate, thread, preserve_unit_loops=True)
    chain_in, lane_in, outer, inner, *depth = s.get_loops(accumulate)[2:]
    s.reorder(outer, inner, chain_in, lane_in, *depth)
    s.parallel(thread)
    if intrinsic is None:
        s.vectorize(lane_in)
    init = s.decompose_reduction(accumulate, outer)
    init_chain, init_lane = s.get_loops(init)[-2:]
    if intrinsic is not None:
        s.tensorize(lane_in, intrinsic)
        s.vectorize(init_lane)
    for loop in (chain_in, init_chain, chain):
        s.unroll(loop)
    s.vectorize(lane)
    return s.mod["main"]
