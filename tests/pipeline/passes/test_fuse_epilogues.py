"""What is fused into a convolution's epilogue, what is not, and that no bit changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.operators import Output
from pipeline.passes.fuse_epilogues import fuse_epilogues
from pipeline.targets import PRESETS
from schedules.compute.stages import Stage
from tests import numpy_reference
from tests.octet_runner import Compiled, assert_same_bits
from tests.pipeline.passes import blocks
from tests.pipeline.passes.blocks import (
    IMAGE,
    LOOKUP,
    REQUANTIZE,
    Builder,
    Params,
    add,
    add_stage,
    average,
    conv,
    dense,
    elementwise,
    image_module,
    lookup,
    multiply,
    multiply_stage,
    operator_names,
    requantize,
    staged,
)


def _table() -> relax.Expr:
    return relax.const(blocks.TABLE)


def test_chain_becomes_the_epilogue_of_a_convolution() -> None:
    """Every stage behind a convolution, in order, each with its own operands."""

    def before(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(conv(p[0]))
        for stage in (lambda v: add(v, p[1]), lookup, lambda v: multiply(v, p[2]), requantize):
            x = b.emit(stage(x))
        return x

    def expected(b: Builder, p: Params) -> relax.Expr:
        stages: list[Stage] = [add_stage(), LOOKUP, multiply_stage(), REQUANTIZE]
        return b.emit(staged(conv(p[0]), stages, [p[1], _table(), p[2]]))

    tvm.ir.assert_structural_equal(fuse_epilogues(image_module(before, 3)), image_module(expected, 3))


@pytest.mark.parametrize("swapped", [False, True], ids=["left", "right"])
@pytest.mark.parametrize(("operator", "stage"), [(add, add_stage), (multiply, multiply_stage)], ids=["add", "multiply"])
def test_residual_on_either_side(
    operator: Callable[..., relax.Call], stage: Callable[[bool], Stage], swapped: bool
) -> None:
    """A convolution on the right of a sum keeps its own coefficient and zero point."""

    def before(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(conv(p[0]))
        return b.emit(operator(p[1], x) if swapped else operator(x, p[1]))

    def expected(b: Builder, p: Params) -> relax.Expr:
        return b.emit(staged(conv(p[0]), [stage(swapped)], [p[1]]))

    tvm.ir.assert_structural_equal(fuse_epilogues(image_module(before, 2)), image_module(expected, 2))


def test_sum_of_two_convolutions_joins_one() -> None:
    """The other one stays an operator, which runs first."""

    def before(b: Builder, p: Params) -> relax.Expr:
        left, right = b.emit(conv(p[0])), b.emit(conv(p[0], kernel=3))
        return b.emit(add(left, right))

    def expected(b: Builder, p: Params) -> relax.Expr:
        right = b.emit(conv(p[0], kernel=3))
        return b.emit(staged(conv(p[0]), [add_stage()], [right]))

    tvm.ir.assert_structural_equal(fuse_epilogues(image_module(before)), image_module(expected))


def test_result_with_two_readers_is_kept() -> None:
    """A block's input that is also its shortcut: fusing would compute the convolution twice, or lose it."""

    def before(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(conv(p[0]))
        return relax.Tuple([b.emit(add(x, b.emit(conv(x, kernel=3)))), x])

    def expected(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(conv(p[0]))
        return relax.Tuple([b.emit(staged(conv(x, kernel=3), [add_stage(swapped=True)], [x])), x])

    tvm.ir.assert_structural_equal(fuse_epilogues(image_module(before)), image_module(expected))


def test_sum_with_itself_is_kept() -> None:
    """Its one producer has one reader that reads it twice."""

    def before(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(conv(p[0]))
        return b.emit(add(x, x))

    module = image_module(before)
    assert operator_names(fuse_epilogues(module)) == ["conv2d", "elementwise"]


def test_broadcast_operand_is_not_fused() -> None:
    """An epilogue reads its operands where it writes; the scale of a squeeze-and-excite block has one pixel."""

    def before(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(conv(p[0]))
        return b.emit(multiply(x, b.emit(average(p[1]))))

    def expected(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(conv(p[0]))
        return b.emit(elementwise(x, [multiply_stage()], [b.emit(average(p[1]))], IMAGE))

    tvm.ir.assert_structural_equal(fuse_epilogues(image_module(before, 2)), image_module(expected, 2))


def test_broadcast_result_is_not_fused() -> None:
    """A convolution of one pixel, repeated by the sum, has no room for the sum's result."""
    module = image_module(
        lambda b, p: b.emit(add(b.emit(conv(b.emit(average(p[0])))), p[1])),
        count=2,
    )
    assert operator_names(fuse_epilogues(module)) == ["avg_pool2d", "conv2d", "elementwise"]


def test_chain_without_a_convolution_is_one_operator() -> None:
    """Also behind a pool, which takes no epilogue."""

    def before(b: Builder, p: Params) -> relax.Expr:
        return b.emit(requantize(b.emit(lookup(b.emit(add(b.emit(blocks.pool(p[0])), p[1]))))))

    def expected(b: Builder, p: Params) -> relax.Expr:
        stages: list[Stage] = [add_stage(), LOOKUP, REQUANTIZE]
        return b.emit(elementwise(b.emit(blocks.pool(p[0])), stages, [p[1], _table()], IMAGE))

    tvm.ir.assert_structural_equal(fuse_epilogues(image_module(before, 2)), image_module(expected, 2))


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_stage_behind_a_wide_result_is_not_fused(dtype: str) -> None:
    """A stage reads uint8; what it would read from a float is another number."""

    def before(b: Builder, p: Params) -> relax.Expr:
        wide = b.emit(conv(p[0], output=Output(dtype=dtype)))
        return relax.Tuple([wide, b.emit(lookup(p[0]))])

    assert operator_names(fuse_epilogues(image_module(before))) == ["conv2d", "elementwise"]


def test_stage_with_a_float_result_stays_alone() -> None:
    """The anchor's own result would be declared uint8."""

    def before(b: Builder, p: Params) -> relax.Expr:
        scaled = operators.requantize(
            b.emit(conv(p[0])), multiplier=0.5, x_zero_point=128, output=Output(dtype="float32")
        )
        return b.emit(scaled)

    module = image_module(before)
    fused = fuse_epilogues(module)
    assert str(fused["main"].ret_ty.dtype) == "float32"
    (x,) = blocks.random_images()
    (actual,) = Compiled(module, PRESETS["llvm"])(x)
    assert_same_bits(actual, numpy_reference.run(module, x), "requantise to float32 behind a convolution")


def _network(b: Builder, p: Params) -> relax.Expr:
    stem = b.emit(lookup(b.emit(conv(p[0]))))
    block = b.emit(conv(b.emit(requantize(b.emit(conv(stem, kernel=3)))), groups=24, kernel=3))
    joined = b.emit(add(stem, block))
    gate = b.emit(lookup(b.emit(conv(b.emit(average(joined))))))
    gated = b.emit(multiply(joined, gate))
    rows = b.emit(relax.op.reshape(b.emit(average(gated)), (1, 24)))
    return relax.Tuple([gated, b.emit(requantize(b.emit(dense(rows, 10))))])


def test_fusion_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A residual block, a gate and a classifier, compiled with fusion and without."""
    module = image_module(_network)
    (x,) = blocks.random_images()
    expected = numpy_reference.run(module, x)
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr("pipeline.passes.fuse_epilogues._can_take", lambda *_: False)
        count = operator_names(fuse_epilogues(module)).count("elementwise")
        assert count == (1 if fused else 6)
        for actual, wanted in zip(Compiled(module, PRESETS["llvm"])(x), expected, strict=True):
            assert_same_bits(actual, wanted, f"fused: {fused}")
