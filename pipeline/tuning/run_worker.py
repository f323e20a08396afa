"""The process that times candidates. It loads TVM's runtime without the compiler.

Request: ``kernels`` (pairs of a library and its arguments), ``threads``, ``rounds`` and ``seconds``. The kernels run in
turns, for ``seconds`` each in each of the ``rounds``; the answer holds the median of every turn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm_ffi

from pipeline.runtime import threads as thread_pool
from pipeline.runtime import tvm_runtime
from pipeline.runtime.cpu import request_tiles
from pipeline.tuning.worker import Message, serve

ENTRY = "octet_kernel"
WEIGHT = 1
"""Position of the packed weights among the arguments."""

COLD_BYTES = 6 * 2**20
"""A call finds its weights as a network does: so many bytes of other weights have passed since their last use, which is
more than an L2 cache holds."""

MAX_COPIES = 256
MIN_CALLS = 5
ALIGNMENT = 64
"""In bytes: what the code may assume, as TVM's own allocator has it."""


@dataclass
class _Kernel:
    function: Any
    arguments: list[list[Any]]
    """One list for each copy of the weights."""
    calls: int = 0

    def __call__(self) -> None:
        self.function(*self.arguments[self.calls % len(self.arguments)])
        self.calls += 1


def _tensor(array: Any) -> Any:
    buffer = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    view = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return tvm_ffi.from_dlpack(view)


def _load(library: str, arguments: str) -> _Kernel:
    function = tvm_ffi.load_module(library)[ENTRY]
    with np.load(arguments, allow_pickle=False) as file:
        arrays = [file[name] for name in file.files]
    copies = min(MAX_COPIES, 1 + -(-COLD_BYTES // arrays[WEIGHT].nbytes))
    tensors = [_tensor(array) for array in arrays]
    weights = [_tensor(arrays[WEIGHT]) for _ in range(copies)]
    return _Kernel(function, [[*tensors[:WEIGHT], weight, *tensors[WEIGHT + 1 :]] for weight in weights])


def _turn(kernel: _Kernel, seconds: float) -> float:
    """Median time of the calls of one turn."""
    times: list[int] = []
    kernel()
    end = time.perf_counter() + seconds
    while len(times) < MIN_CALLS or time.perf_counter() < end:
        before = time.perf_counter_ns()
        kernel()
        times.append(time.perf_counter_ns() - before)
    return float(np.median(times)) / 1e9


def _answer(request: Message) -> Message:
    kernels = [_load(library, arguments) for library, arguments in request["kernels"]]

    def measure() -> list[list[float]]:
        rounds = [[_turn(kernel, request["seconds"]) for kernel in kernels] for _ in range(request["rounds"])]
        return [list(times) for times in zip(*rounds, strict=True)]

    return {"seconds": thread_pool.run(thread_pool.reserve(request["threads"]), measure)}


if __name__ == "__main__":
    tvm_runtime.start()
    request_tiles()  # for AMX; refused where there is none
    serve(_answer)
