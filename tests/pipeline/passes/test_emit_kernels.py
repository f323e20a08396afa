"""From integer operators to functions: shared where equal, named after the problem, with packed constants."""

from __future__ import annotations

import tvm
from tvm import relax

from pipeline.targets import DeployTarget
from tests import numpy_reference
from tests.octet_runner import Compiled, assert_same_bits, each_target, lower_kernels
from tests.pipeline.passes.blocks import Builder, Params, conv, image_module, lookup, pool, random_images


def _kernels(module: tvm.IRModule, prefix: str) -> list[str]:
    return [v.name_hint for v in module.get_global_vars() if v.name_hint.startswith(prefix)]


def _same_and_other(b: Builder, p: Params) -> relax.Expr:
    first = b.emit(conv(p[0], kernel=3))
    second = b.emit(conv(first, kernel=3))
    other = b.emit(conv(second, kernel=3, x_zero_point=9))
    return b.emit(lookup(b.emit(pool(b.emit(pool(other))))))


@each_target
def test_equal_problems_share_a_function(target: DeployTarget) -> None:
    """Repeated blocks would each cost their compile time; one that differs in its zero point is another problem."""
    module = image_module(_same_and_other)
    lowered = lower_kernels(module, target)
    assert len(_kernels(lowered, "conv2d_")) == 2
    assert len(_kernels(lowered, "max_pool_")) == 1
    (x,) = random_images()
    (actual,) = Compiled(module, target)(x)
    assert_same_bits(actual, numpy_reference.run(module, x), "shared functions")


@each_target
def test_nothing_is_left_to_schedule(target: DeployTarget) -> None:
    """No operator of ours survives, and every function is marked as scheduled, or TVM would schedule it again."""
    lowered = lower_kernels(image_module(_same_and_other), target)
    assert "octet." not in lowered["main"].script(show_meta=False)
    functions = [lowered[v] for v in lowered.get_global_vars() if v.name_hint != "main"]
    assert functions
    assert all(f.attrs["tirx.is_scheduled"] for f in functions)


@each_target
def test_names_say_the_problem(target: DeployTarget) -> None:
    """A profile names kernels by what they compute."""
    module = image_module(lambda b, p: b.emit(conv(p[0], kernel=3)))
    assert _kernels(lower_kernels(module, target), "conv2d_n1g1ic24ih5iw5oc24oh5ow5kh3kw3sh1sw1ph1pw1dh0dw0")


@each_target
def test_compiled_twice_is_the_same(target: DeployTarget) -> None:
    """An order that depends on addresses or hashes would make libraries that cannot be reproduced."""
    first, second = (lower_kernels(image_module(_same_and_other), target) for _ in range(2))
    tvm.ir.assert_structural_equal(first, second)
