"""The process that schedules and compiles candidates, and compares their results.

Requests, told apart by ``do``:

``schedule``: ``problem``, ``target``, ``configuration``. Answers with the ``program`` that this makes.
``compile``: the last scheduled candidate into ``library``, its arguments into ``arguments`` (.npz).
``compare``: whether the candidate scheduled last has the same results as ``configuration``, the other fields as above.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import tvm

from pipeline import targets
from pipeline.runtime.cpu import request_tiles
from pipeline.tuning.data import Array, Fill
from pipeline.tuning.kernel import ENTRY, Kernel
from pipeline.tuning.task import configuration_from_json, problem_from_json
from pipeline.tuning.worker import Message, serve


class _Builder:
    def __init__(self) -> None:
        self._kernel: Kernel | None = None
        self._arguments: list[Array] = []
        self._channels = 0

    def answer(self, request: Message) -> Message:
        if request["do"] == "schedule":
            self._kernel = _kernel(request)
            self._arguments = self._kernel.arguments(Fill.TYPICAL)
            return {"program": self._kernel.program(self._arguments)}
        if self._kernel is None:
            raise RuntimeError("nothing has been scheduled")
        if request["do"] == "compile":
            self._kernel.compile(Path(request["library"]))
            np.savez(request["arguments"], *self._arguments)
            return {}
        channels = problem_from_json(request["problem"]).oc
        return {"same": same_bits([_kernel(request), self._kernel], channels)}


def _kernel(request: Message) -> Kernel:
    configuration = configuration_from_json(request["configuration"])
    return Kernel(problem_from_json(request["problem"]), targets.resolve(request["target"]), configuration)


def same_bits(kernels: list[Kernel], channels: int) -> bool:
    """Whether all ``kernels`` give the same results on random data and on extreme codes, but for padded channels."""
    request_tiles()
    with tempfile.TemporaryDirectory(prefix="octet-") as folder:
        functions = []
        for i, kernel in enumerate(kernels):
            path = Path(folder) / f"{i}.so"
            kernel.compile(path)
            functions.append(tvm.runtime.load_module(str(path))[ENTRY])
    for fill in (Fill.RANDOM, Fill.EXTREME):
        results = []
        for kernel, function in zip(kernels, functions, strict=True):
            tensors = [tvm.runtime.tensor(array) for array in kernel.arguments(fill)]
            function(*tensors)
            result = np.ascontiguousarray(tensors[-1].numpy()[..., :channels])
            results.append(result.view(f"u{result.dtype.itemsize}"))
        if any(not np.array_equal(result, results[0]) for result in results):
            return False
    return True


if __name__ == "__main__":
    serve(_Builder().answer)
