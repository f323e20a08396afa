"""Activations change their layout at the ends of the integer graph and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.operators import Output
from pipeline.passes.assign_layout import assign_layout
from pipeline.passes.fuse_epilogues import fuse_epilogues
from pipeline.targets import PRESETS
from tests import numpy_reference
from tests.octet_runner import Array, Compiled, assert_same_bits, module_of
from tests.pipeline.passes.blocks import (
    IMAGE,
    Builder,
    Params,
    add,
    average,
    conv,
    dense,
    image_module,
    lookup,
    multiply,
    operator_names,
    pack,
    pool,
    random_images,
    requantize,
    stored,
    unpack,
)

STORED = (1, 5, 5, 32)


def _laid_out(module: tvm.IRModule) -> list[str]:
    return operator_names(assign_layout(fuse_epilogues(module)))


def _assert_exact(module: tvm.IRModule, *inputs: Array) -> None:
    expected = numpy_reference.run(module, *inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for actual, wanted in zip(Compiled(module, PRESETS["llvm"])(*inputs), expected, strict=True):
        assert_same_bits(actual, wanted, "compiled")


def test_one_change_at_each_end() -> None:
    """Convolutions and pools hand on what they store; channels are padded to whole vectors."""

    def before(b: Builder, p: Params) -> relax.Expr:
        return b.emit(pool(b.emit(conv(b.emit(conv(p[0])), kernel=3))))

    def expected(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(pack(p[0], STORED))
        x = b.emit(stored(conv(p[0]), x, STORED))
        x = b.emit(stored(conv(p[0], kernel=3), x, STORED))
        x = b.emit(stored(pool(p[0]), x, STORED))
        return b.emit(unpack(x, IMAGE))

    tvm.ir.assert_structural_equal(assign_layout(image_module(before)), image_module(expected))


def test_each_tensor_changes_once() -> None:
    """Two readers of one tensor share the copy, at the input and at the output."""

    def body(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(conv(p[0]))
        y = b.emit(pool(p[0]))
        plain = b.emit(relax.op.strided_slice(x, axes=[2], begin=[0], end=[3], strides=[1]))
        return relax.Tuple([x, plain, y])

    names = _laid_out(image_module(body))
    assert names == ["pack", "conv2d", "max_pool2d", "unpack", "strided_slice", "unpack"]


def test_quantise_and_dequantise_happen_on_the_way() -> None:
    """The float input and output of a model are each read or written once."""

    def before(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(operators.quantize(p[0], scale=0.5, zero_point=128))
        return b.emit(operators.dequantize(b.emit(conv(x)), scale=0.25, zero_point=9))

    def expected(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(pack(p[0], STORED, scale=0.5, zero_point=128))
        y = b.emit(stored(conv(p[0]), x, STORED))
        return b.emit(unpack(y, IMAGE, "float32", scale=0.25, zero_point=9))

    specs = [(IMAGE, "float32")]
    tvm.ir.assert_structural_equal(assign_layout(module_of(specs, before)), module_of(specs, expected))


@pytest.mark.parametrize(("channels", "packed"), [(1, 4), (3, 4), (4, 4), (5, 16)])
def test_few_input_channels_are_packed_to_one_dot_product(channels: int, packed: int) -> None:
    """A photograph stored with 16 channels would cost its first convolution four times the work."""
    module = image_module(lambda b, p: b.emit(conv(p[0], kernel=3)), shape=(1, channels, 5, 5))
    first = assign_layout(module)["main"].body.blocks[0].bindings[0]
    assert [int(d) for d in first.var.ty.shape] == [1, 5, 5, packed]


def test_image_that_a_pool_reads_too_is_packed_for_each() -> None:
    """A pool computes on whole vectors, the first convolution on four channels."""
    shape = (2, 3, 5, 5)
    module = image_module(lambda b, p: relax.Tuple([b.emit(conv(p[0])), b.emit(pool(p[0]))]), shape=shape)
    assert _laid_out(module) == ["pack", "conv2d", "pack", "max_pool2d", "unpack", "unpack"]
    _assert_exact(module, *random_images(shape=shape))


def test_concatenation_of_channels_stays_stored() -> None:
    """It would cost three changes of layout otherwise; a plain input is packed."""

    def body(b: Builder, p: Params) -> relax.Expr:
        branches = [b.emit(conv(p[0], 7)), b.emit(conv(p[0], 31)), p[1]]
        return b.emit(conv(b.emit(relax.op.concat(branches, axis=1))))

    module = image_module(body, 2)
    names = _laid_out(module)
    assert names.count("concat_channels") == 1
    assert names.count("pack") == 2
    assert names.count("unpack") == 1
    _assert_exact(module, *random_images(2))


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_concatenation_of_other_axes_is_plain(axis: int) -> None:
    """Only channels have their own kernel."""

    def body(b: Builder, p: Params) -> relax.Expr:
        return b.emit(relax.op.concat([b.emit(conv(p[0])), b.emit(pool(p[0]))], axis=axis))

    module = image_module(body)
    assert _laid_out(module)[-3:] == ["unpack", "unpack", "concat"]
    _assert_exact(module, *random_images())


def test_flattened_pixel_keeps_its_layout() -> None:
    """(N, C, 1, 1) and (N, C) are stored alike but for the place of N, here and back."""

    def body(b: Builder, p: Params) -> relax.Expr:
        rows = b.emit(relax.op.reshape(b.emit(average(p[0])), (3, 24)))
        image = b.emit(relax.op.reshape(b.emit(dense(rows, 17)), (3, 17, 1, 1)))
        return b.emit(conv(image))

    shape = (3, 24, 5, 5)
    module = image_module(body, shape=shape)
    assert _laid_out(module) == ["pack", "avg_pool2d", "reshape", "dense", "reshape", "conv2d", "unpack"]
    _assert_exact(module, *random_images(shape=shape))


def test_flattened_image_is_plain() -> None:
    """The fully connected layer behind it counts channels first."""

    def body(b: Builder, p: Params) -> relax.Expr:
        return b.emit(dense(b.emit(relax.op.reshape(b.emit(pool(p[0])), (1, 600))), 10))

    module = image_module(body)
    assert _laid_out(module) == ["pack", "max_pool2d", "unpack", "reshape", "pack", "dense", "unpack"]
    _assert_exact(module, *random_images())


def test_elementwise_operators_follow_their_operands() -> None:
    """Stored where one operand is, with a gate of one pixel; plain where none is."""

    def body(b: Builder, p: Params) -> relax.Expr:
        x = b.emit(pool(p[0]))
        gated = b.emit(multiply(x, b.emit(average(p[0]))))
        return relax.Tuple([b.emit(conv(b.emit(add(gated, p[1])))), b.emit(requantize(p[0]))])

    module = image_module(body, 2)
    names = _laid_out(module)
    assert (names.count("pack"), names.count("unpack")) == (2, 1)
    _assert_exact(module, *random_images(2))


def test_operand_of_lower_rank_is_plain() -> None:
    """A row that numpy would repeat along the width must not meet the channels, which are last when stored."""
    random = np.random.default_rng(1)
    row = random.integers(0, 256, 5).astype(np.uint8)
    module = image_module(lambda b, p: b.emit(add(b.emit(pool(p[0])), relax.const(row))))
    assert _laid_out(module) == ["pack", "max_pool2d", "unpack", "elementwise"]
    _assert_exact(module, *random_images())


def test_channels_repeated_from_one_are_plain() -> None:
    """An operand with one channel is stored with sixteen, fifteen of which are no repetition."""

    def body(b: Builder, p: Params) -> relax.Expr:
        return b.emit(add(b.emit(pool(p[0])), b.emit(conv(p[0], 1))))

    module = image_module(body)
    assert _laid_out(module)[-3:] == ["unpack", "unpack", "elementwise"]
    _assert_exact(module, *random_images())


def test_transposed_tensor_is_plain() -> None:
    """Data movement that the passes do not know reads and writes the model's layout."""

    def body(b: Builder, p: Params) -> relax.Expr:
        turned = b.emit(relax.op.permute_dims(b.emit(conv(p[0])), (0, 1, 3, 2)))
        left, right = (b.emit(part) for part in _halves(b, turned))
        return b.emit(conv(b.emit(lookup(b.emit(relax.op.concat([right, left], axis=1))))))

    module = image_module(body)
    names = _laid_out(module)
    assert (names.count("pack"), names.count("unpack")) == (2, 2)
    _assert_exact(module, *random_images())


def _halves(b: Builder, x: relax.Expr) -> list[relax.Expr]:
    both = b.emit(relax.op.split(x, 2, axis=1))
    return [relax.TupleGetItem(both, 0), relax.TupleGetItem(both, 1)]


def test_float_output_of_a_convolution_is_unpacked() -> None:
    """A result that is float32 or int32 is stored too, and read back as such."""

    def body(b: Builder, p: Params) -> relax.Expr:
        return relax.Tuple([b.emit(conv(p[0], output=Output(dtype=d))) for d in ("float32", "int32")])

    module = image_module(body)
    _assert_exact(module, *random_images())


def test_parameter_and_constant_as_outputs() -> None:
    """They are stored nowhere."""
    constant = np.arange(6, dtype=np.uint8)
    module = image_module(lambda b, p: relax.Tuple([p[0], b.emit(conv(p[0])), relax.const(constant)]))
    _assert_exact(module, *random_images())
