"""A candidate as a program: its kernel compiled alone, and all that it is called with."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from pipeline.passes.kernel_lowering import KERNEL_LOWERING
from pipeline.targets import DeployTarget
from pipeline.tuning.data import Array, Fill, activations, model_arrays, operands
from schedules import convolution
from schedules.compute.conv2d import Conv2d, padded_channels
from schedules.intrinsics.x86 import DOT_PRODUCTS
from schedules.template import Configuration

ENTRY = "octet_kernel"
"""The name that a candidate's library exports its kernel by."""

SEED = 7


class Kernel:
    """One configuration of a problem."""

    def __init__(self, problem: Conv2d, target: DeployTarget, configuration: Configuration) -> None:
        self._problem, self._target, self._configuration = problem, target, configuration
        self._dot = DOT_PRODUCTS[target.dot]
        function = convolution.build(problem, self._dot, configuration)
        self._function = function.with_attr("global_symbol", ENTRY).with_attr("tirx.is_scheduled", True)

    def arguments(self, fill: Fill) -> list[Array]:
        """What the kernel is called with, the (zero) result last; the same for every configuration of the problem."""
        random = np.random.default_rng(SEED)
        problem = self._problem
        x = activations(random, problem, fill)
        packed = convolution.constants(
            problem, self._dot, self._configuration, model_arrays(random, problem, fill)
        )  # fmt: skip
        others = operands(random, problem, fill)
        if problem.window_sum:
            others.insert(1, packed.pop())
        result = np.zeros((problem.n, *problem.output_size, padded_channels(problem.oc)), problem.result_dtype)
        return [x, *packed, *others, result]

    def program(self, arguments: list[Array]) -> str:
        """Equal for equal kernels that read equally packed constants, in every process."""
        digest = blake2b(digest_size=8)
        digest.update(str(tvm_ffi.structural_hash(self._function, map_free_vars=True)).encode())
        for array in arguments:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def compile(self, path: Path) -> None:
        """Write the kernel as a library; it appears whole or not at all."""
        target: Any = self._target.tvm_target()
        with target:
            executable = tvm.tirx.build(tvm.IRModule({ENTRY: self._function}), target=target, pipeline=KERNEL_LOWERING)
        partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.so")
        try:
            executable.export_library(str(partial))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
