"""Runs modules of ``octet.*`` operators: through the kernel passes and the code generator of a target, and in numpy.

Compiling is what such tests spend their time on, so :class:`Batch` compiles many cases as one module while each case
stays a test of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax

from pipeline.passes.kernel_lowering import KERNEL_LOWERING
from pipeline.passes.lowering import IRDump, kernel_phases, run_phases
from pipeline.runtime import threads as thread_pool
from pipeline.runtime.cpu import TILES, missing_features, request_tiles
from pipeline.targets import PRESETS, DeployTarget
from tests import numpy_reference

Array = NDArray[Any]
Body = Callable[[relax.BlockBuilder, Sequence[relax.Var]], relax.Expr]
TensorSpec = tuple[tuple[int, ...], str]

THREAD_COUNTS = (1, 2)


def _parameter(target: DeployTarget) -> Any:
    missing = missing_features(target.cpu_features)
    reason = f"this CPU cannot run {target.name}: it lacks {', '.join(missing)}"
    if not missing and TILES in target.cpu_features and not request_tiles():
        reason = f"this process cannot run {target.name}: Linux keeps the tile registers from it"
        missing = (TILES,)
    return pytest.param(target, id=target.name, marks=[pytest.mark.skip(reason=reason)] if missing else [])


_PARAMETERS = [_parameter(t) for t in PRESETS.values()]

HOST_TARGETS = [p.values[0].name for p in _PARAMETERS if not p.marks]
"""Names of the targets that this machine can run."""

each_target = pytest.mark.parametrize("target", _PARAMETERS)
"""Runs a test for every target; those that this CPU cannot run are skipped."""

each_vector_target = pytest.mark.parametrize("target", [p for p in _PARAMETERS if p.values[0].dot != "amx"])
"""Runs a test for every target whose kernels are made of vectors: what the matrix unit leaves to them is the same."""

each_vector_width = pytest.mark.parametrize(
    "target", list({p.values[0].mcpu: p for p in _PARAMETERS if not p.marks or p.values[0].dot == "sse2"}.values())
)
"""Runs a test for one of the targets with the same vectors: those differ in dot products alone."""


def module_of(specs: Sequence[TensorSpec], body: Body) -> tvm.IRModule:
    """A module whose ``main`` takes tensors of ``specs`` (shape, dtype) and returns what ``body`` emits."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"x{i}", relax.TensorType(shape, dtype)) for i, (shape, dtype) in enumerate(specs)]
    with builder.function("main", params):
        with builder.dataflow():
            output = builder.emit_output(body(builder, params))
        builder.emit_func_output(output)
    return builder.get()


def lower_kernels(module: tvm.IRModule, target: DeployTarget) -> tvm.IRModule:
    """``module`` after all passes that follow the integer lowering."""
    return run_phases(module, kernel_phases(target), IRDump(None))


class Compiled:
    """A module compiled for one target and loaded into this process."""

    def __init__(self, module: tvm.IRModule, target: DeployTarget) -> None:
        tvm_target = target.tvm_target()
        with tvm_target:
            executable = tvm.compile(lower_kernels(module, target), target=tvm_target, tir_pipeline=KERNEL_LOWERING)
        thread_pool.reserve(max(THREAD_COUNTS))
        self._main = relax.VirtualMachine(executable, tvm.cpu())["main"]

    def __call__(self, *inputs: Array, threads: int = 1) -> list[Array]:
        """The results of ``main``, run with ``threads`` threads."""
        tensors = [tvm.runtime.tensor(x) for x in inputs]
        result = thread_pool.run(threads, lambda: self._main(*tensors))
        return [result.numpy()] if isinstance(result, tvm.runtime.Tensor) else [r.numpy() for r in result]


def assert_same_bits(actual: Array, expected: Array, what: str) -> None:
    """Fail with the number, the place and the values of what differs."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), what
    width = f"u{actual.dtype.itemsize}"
    left, right = np.ascontiguousarray(actual).view(width), np.ascontiguousarray(expected).view(width)
    wrong = np.argwhere(left != right)
    if len(wrong):
        first = tuple(wrong[0].tolist())
        pytest.fail(
            f"{what}: {len(wrong)} of {actual.size} elements differ, first at {first}: "
            f"{actual[first]!r}, expected {expected[first]!r}"
        )


@dataclass(frozen=True)
class Case:
    """One computation and what it is fed with.

    Attributes:
        name: the test's id.
        specs: shape and dtype of each input.
        body: emits the operators.
        fills: named sets of inputs.
    """

    name: str
    specs: tuple[TensorSpec, ...]
    body: Body
    fills: dict[str, list[Array]]

    def module(self) -> tvm.IRModule:
        """The case alone."""
        return module_of(self.specs, self.body)


Runs = dict[tuple[str, int], Array]
"""The result of a case by (name of the fill, number of threads)."""


class Batch:
    """Cases that are compiled ``size`` at a time. All of them have the same names of fills and one result each."""

    def __init__(self, names: Sequence[str], case_of: Callable[[str], Case], size: int = 16) -> None:
        assert len(set(names)) == len(names), "a name comes twice"
        self.names = list(names)
        self._case = cache(case_of)
        self._size = size
        self._runs = cache(self._run_chunk)
        self._expected = cache(self._reference)

    def check(self, name: str, target: DeployTarget) -> None:
        """Assert that the compiled case has the bits of the reference for every fill and number of threads."""
        runs = self._runs(self.names.index(name) // self._size, target)[name]
        if isinstance(runs, Exception):
            raise runs
        for (fill, threads), actual in runs.items():
            assert_same_bits(actual, self._expected(name)[fill], f"{name} on {target.name}, {fill}, {threads} threads")

    def _reference(self, name: str) -> dict[str, Array]:
        case = self._case(name)
        module = case.module()
        return {fill: numpy_reference.run(module, *inputs) for fill, inputs in case.fills.items()}

    def _run_chunk(self, chunk: int, target: DeployTarget) -> dict[str, Runs | Exception]:
        cases = [self._case(name) for name in self.names[chunk * self._size : (chunk + 1) * self._size]]
        try:
            return dict(_run_together(cases, target))
        except Exception:  # noqa: BLE001 - one bad case must not hide in the failure of the others
            return {case.name: _run_alone(case, target) for case in cases}


def _run_alone(case: Case, target: DeployTarget) -> Runs | Exception:
    try:
        return _run_together([case], target)[case.name]
    except Exception as error:  # noqa: BLE001 - raised again by the test of this case
        return error


def _run_together(cases: Sequence[Case], target: DeployTarget) -> dict[str, Runs]:
    specs = [spec for case in cases for spec in case.specs]

    def body(builder: relax.BlockBuilder, params: Sequence[relax.Var]) -> relax.Expr:
        remaining = iter(params)
        return relax.Tuple([case.body(builder, [next(remaining) for _ in case.specs]) for case in cases])

    compiled = Compiled(module_of(specs, body), target)
    runs: dict[str, Runs] = {case.name: {} for case in cases}
    for fill in cases[0].fills:
        inputs = [x for case in cases for x in case.fills[fill]]
        for threads in THREAD_COUNTS:
            for case, result in zip(cases, compiled(*inputs, threads=threads), strict=True):
                runs[case.name][fill, threads] = result
    return runs
