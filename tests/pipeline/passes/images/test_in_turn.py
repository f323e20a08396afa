"""A batch that runs image by image has the bits of one that runs layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, op_name
from pipeline.passes.assign_layout import assign_layout
from pipeline.passes.fuse_epilogues import fuse_epilogues
from pipeline.passes.images import MIN_IMAGES
from pipeline.passes.images.trunk import find_trunk
from pipeline.targets import PRESETS, DeployTarget
from tests import numpy_reference
from tests.octet_runner import Compiled, assert_same_bits, each_target, module_of
from tests.pipeline.passes.blocks import (
    Builder,
    Params,
    add,
    average,
    conv,
    dense,
    image_module,
    lookup,
    multiply,
    pool,
    random_images,
)

IMAGES = MIN_IMAGES + 1


def _residual(b: Builder, p: Params) -> relax.Expr:
    x = b.emit(conv(p[0], kernel=3))
    y = b.emit(conv(x, kernel=3))
    z = b.emit(add(b.emit(conv(y)), x))
    return b.emit(pool(b.emit(conv(z, channels=40))))


def _depthwise_then_dense(b: Builder, p: Params) -> relax.Expr:
    x = b.emit(conv(p[0], kernel=3, groups=24))
    x = b.emit(relax.op.reshape(b.emit(average(x)), (IMAGES, 24)))
    return b.emit(dense(x, 10))


def _branches(b: Builder, p: Params) -> relax.Expr:
    parts = [b.emit(conv(p[0], channels=c)) for c in (16, 8)]
    return relax.Tuple([b.emit(relax.op.concat(parts, axis=1)), b.emit(lookup(parts[1]))])


def _two_inputs(b: Builder, p: Params) -> relax.Expr:
    return b.emit(multiply(b.emit(conv(p[0])), p[1]))


def _differs_from_image_to_image(b: Builder, p: Params) -> relax.Expr:
    other = np.arange(IMAGES * 24 * 25).reshape(IMAGES, 24, 5, 5).astype(np.uint8)
    x = b.emit(conv(b.emit(pool(p[0]))))
    return b.emit(conv(b.emit(add(x, relax.const(other))), kernel=3))


def _constant_first(b: Builder, p: Params) -> relax.Expr:
    other = np.arange(IMAGES * 24 * 25).reshape(IMAGES, 24, 5, 5).astype(np.uint8)
    return b.emit(conv(b.emit(add(relax.const(other), b.emit(pool(p[0]))))))


def _many_weights(b: Builder, p: Params) -> relax.Expr:
    x = b.emit(conv(p[0], kernel=3))
    y = b.emit(conv(x, channels=200, kernel=5))
    return b.emit(add(b.emit(conv(y)), x))


BODIES = {
    "residual": (_residual, 1),
    "depthwise then dense": (_depthwise_then_dense, 1),
    "branches": (_branches, 1),
    "two inputs": (_two_inputs, 2),
    "constant that differs": (_differs_from_image_to_image, 1),
    "constant that differs, first": (_constant_first, 1),
    "many weights": (_many_weights, 1),
}


def _shape(images: int) -> tuple[int, ...]:
    """600 bytes an image, no multiple of a cache line: images have to be copied to be aligned."""
    return images, 24, 5, 5


@pytest.mark.parametrize("case", BODIES)
@each_target
def test_same_bits(case: str, target: DeployTarget) -> None:
    """Images of a wrong offset, and results that overlap, would change bits."""
    body, inputs = BODIES[case]
    module = image_module(body, inputs, _shape(IMAGES))
    images = random_images(inputs, _shape(IMAGES))
    expected = numpy_reference.run(module, *images)
    compiled = Compiled(module, target)
    for threads in (1, 2):
        for actual, wanted in zip(
            compiled(*images, threads=threads),
            expected if isinstance(expected, tuple) else (expected,),
            strict=True,
        ):
            assert_same_bits(actual, wanted, f"{case}, {threads} threads")


def test_axis_as_long_as_the_batch() -> None:
    """A map of height and width for all images: its first axis is the height, though there are as many images."""
    module = module_of(
        [((IMAGES, 24, IMAGES, 5), "uint8"), ((IMAGES, 5), "uint8")],
        lambda b, p: b.emit(add(b.emit(pool(p[0])), p[1])),
    )
    rng = np.random.default_rng(1)
    images, height_by_width = (
        rng.integers(0, 256, shape).astype(np.uint8) for shape in ((IMAGES, 24, IMAGES, 5), (IMAGES, 5))
    )
    (actual,) = Compiled(module, PRESETS["llvm"])(images, height_by_width, threads=1)
    assert_same_bits(actual, numpy_reference.run(module, images, height_by_width), "map")


@each_target
def test_images_of_an_odd_size(target: DeployTarget) -> None:
    """A kernel that read them through a view took each for aligned, and the process ended."""
    module = module_of(
        [((IMAGES, 3, 7, 7), "int8")],
        lambda b, p: b.emit(conv(b.emit(operators.reencode(p[0], "uint8")), channels=16, kernel=3)),
    )
    images = np.random.default_rng(2).integers(-128, 128, (IMAGES, 3, 7, 7)).astype(np.int8)
    (actual,) = Compiled(module, target)(images, threads=1)
    assert_same_bits(actual, numpy_reference.run(module, images), "odd")


def _trunk_operators(module: tvm.IRModule) -> list[str]:
    trunk = find_trunk(Graph(assign_layout(fuse_epilogues(module))))
    return [op_name(value).removeprefix("octet.") for _, value in trunk.bindings] if trunk else []


def test_fully_connected_layers_stay_outside() -> None:
    """Their weights would be read once an image, and at batch 32 they are most of AlexNet's time."""
    module = image_module(_depthwise_then_dense, shape=_shape(IMAGES))
    assert _trunk_operators(module) == ["pack", "conv2d", "avg_pool2d"]


def test_convolutions_of_many_weights_stay_outside() -> None:
    """At batch 32 the last stage of ResNet-50 would read 14 MB of weights for each image of 0.1 MB."""
    module = image_module(_many_weights, shape=_shape(IMAGES))
    assert _trunk_operators(module) == ["pack", "conv2d"]


def test_constant_that_differs_ends_the_trunk() -> None:
    """Each image would get the first one's."""
    module = image_module(_differs_from_image_to_image, shape=_shape(IMAGES))
    assert _trunk_operators(module) == ["pack", "max_pool2d"]


def test_number_without_axes_stays_outside() -> None:
    """It has no first axis to look at, and the compiler ended in an IndexError."""
    module = image_module(
        lambda b, p: relax.Tuple([b.emit(pool(p[0])), b.emit(lookup(b.emit(relax.op.max(p[0]))))]),
        shape=_shape(IMAGES),
    )
    assert "lookup" not in _trunk_operators(module)


def test_single_image_has_no_trunk() -> None:
    """Layer by layer, all threads work on it."""
    assert not _trunk_operators(image_module(_residual, shape=_shape(1)))
