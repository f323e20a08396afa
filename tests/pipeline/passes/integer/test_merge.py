"""Element-wise operators on codes merge with what is in front of them without changing a bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.passes.integer.merge import merge_elementwise
from tests import numpy_reference

STEPS = {
    "clamp": operators.Output(zero_point=100, qmin=90, qmax=140),
    "rescale": operators.Output(zero_point=20),
    "rescale_and_clamp": operators.Output(zero_point=3, qmin=1, qmax=7),
    "clamp_to_one_code": operators.Output(zero_point=100, qmin=100, qmax=100),
}


def _step(x: relax.Expr, kind: str) -> relax.Expr:
    if kind == "table":
        return operators.lookup(x, relax.const(np.arange(256, dtype=np.uint8)[::-1] // 2))
    multiplier = 1.0 if kind.startswith("clamp") else 0.37
    return operators.requantize(x, multiplier=multiplier, x_zero_point=100, output=STEPS[kind])


def _chain(*kinds: str, keep_first: bool = False) -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType((256,), "uint8"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            results = [x]
            for kind in kinds:
                results.append(builder.emit(_step(results[-1], kind)))
            out = builder.emit_output(relax.Tuple([results[1], results[-1]]) if keep_first else results[-1])
        builder.emit_func_output(out)
    return builder.get()


def _count(module: tvm.IRModule) -> int:
    return sum(isinstance(b.value, relax.Call) for block in module["main"].body.blocks for b in block.bindings)


@pytest.mark.parametrize("kinds", list(itertools.product([*STEPS, "table"], repeat=2)), ids="-".join)
def test_two_in_a_row_become_one_with_the_same_bits(kinds: tuple[str, str]) -> None:
    """Guards every pair, on all 256 codes."""
    module = _chain(*kinds)
    merged = merge_elementwise(module)
    assert _count(merged) == 1
    every_code = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(numpy_reference.run(merged, every_code), numpy_reference.run(module, every_code))


def test_a_result_that_something_else_reads_stays() -> None:
    """Guards against changing a tensor behind its other reader's back."""
    module = _chain("rescale", "clamp", keep_first=True)
    merged = merge_elementwise(module)
    assert _count(merged) == 2
    every_code = np.arange(256, dtype=np.uint8)
    for mine, theirs in zip(
        numpy_reference.run(merged, every_code), numpy_reference.run(module, every_code), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_clamp_behind_a_sum_narrows_its_range() -> None:
    """Guards a relu between two QuantizeLinear of the same scale, behind a residual addition."""
    x = relax.Var("x", relax.TensorType((256,), "uint8"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            output = operators.Output(zero_point=100)
            total = operators.add(x, x, a_ratio=0.7, b_ratio=0.4, a_zero_point=9, b_zero_point=9, output=output)
            out = builder.emit_output(_step(builder.emit(total), "clamp"))
        builder.emit_func_output(out)
    module = builder.get()
    merged = merge_elementwise(module)
    assert _count(merged) == 1
    every_code = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(numpy_reference.run(merged, every_code), numpy_reference.run(module, every_code))
