"""Find the operators that work on each image of a batch by itself, and make them anew for one image.

1. The trunk starts at the model's inputs and takes every operator all of whose activations come from the trunk.
2. It holds the operators of :data:`PER_IMAGE` only, and none with a constant that differs from image to image.
   Layers of many weights and small activations stay outside, fully connected ones above all: their weights would have
   to be read again for each image.
3. A result of the trunk is whatever something else reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm
from tvm import relax
from tvm.ir import Op

from pipeline.ir import operators
from pipeline.ir.graph import Constant, Graph, is_among, op_name, operands, static_shape
from pipeline.ir.operators import shape_of

PER_IMAGE = frozenset(
    {
        operators.CONV2D,
        operators.MAX_POOL2D,
        operators.AVG_POOL2D,
        operators.ELEMENTWISE,
        operators.QUANTIZE,
        operators.REENCODE,
        operators.PACK,
        operators.UNPACK,
        operators.CONCAT_CHANNELS,
    }
)
"""Operators whose result for an image depends on that image alone: the first axis of their activations."""

MIN_IMAGES = 8
"""Smaller batches run layer by layer, which keeps more threads busy."""

WEIGHTS_AN_ACTIVATION = 16
"""A convolution with more bytes of weights than that, for each byte of an image that it reads or writes, stays outside.
In ResNet-50 these are the 3x3 layers of 7x7 pixels, and what follows them."""

_ANCHORS = (operators.CONV2D, operators.MAX_POOL2D, operators.AVG_POOL2D)


@dataclass(frozen=True)
class Trunk:
    """Operators on a batch of ``images``: the parameters of ``main`` that they read, in order, and their results."""

    images: int
    inputs: list[relax.Var]
    bindings: list[tuple[relax.Var, relax.Expr]]
    results: list[relax.Var]


def find_trunk(graph: Graph) -> Trunk | None:
    """The trunk of ``main``, or None where there is none that is worth it."""
    batches = {(static_shape(p) or (0,))[0] for p in graph.function.params}
    if len(batches) != 1 or min(batches) < MIN_IMAGES:
        return None
    images = min(batches)
    inside: set[relax.Var] = set(graph.function.params)
    bindings = []
    for var, value in graph.bindings:
        if op_name(value) in PER_IMAGE and _is_per_image(value, images, inside) and not _has_many_weights(value):
            inside.add(var)
            bindings.append((var, value))
    if not any(op_name(value) in _ANCHORS for _, value in bindings):
        return None
    own = {var for var, _ in bindings}
    read_outside = {
        v for var, value in graph.bindings if var not in own for v in operands(value) if isinstance(v, relax.Var)
    }
    read_outside.update(v for v in operands(graph.output) if isinstance(v, relax.Var))
    read_inside = {v for _, value in bindings for v in operands(value)}
    return Trunk(
        images,
        [p for p in graph.function.params if p in read_inside],
        bindings,
        [var for var, _ in bindings if var in read_outside],
    )


def _is_per_image(call: relax.Call, images: int, inside: set[relax.Var]) -> bool:
    activations = [a for a in operands(call) if not isinstance(a, Constant)]
    if not activations or shape_of(call)[:1] != (images,):
        return False
    # Shapes are aligned at their ends: the first axis of what has fewer axes is no batch.
    rank = len(shape_of(call))
    if any(a not in inside or len(shape_of(a)) != rank or shape_of(a)[0] != images for a in activations):
        return False
    # Weights belong to all images; a constant in the place of an activation may differ from image to image.
    weights = call.args[1:2] if op_name(call) == operators.CONV2D else []
    stand_ins = [a for a in operands(call) if isinstance(a, Constant) and not is_among(a, weights)]
    return all(len(shape_of(c)) < rank or shape_of(c)[0] == 1 for c in stand_ins)


def _has_many_weights(call: relax.Call) -> bool:
    """Whether reading them again costs more than the batch's way through memory."""
    if op_name(call) != operators.CONV2D:
        return False
    x, weight = call.args[:2]
    image = math.prod(shape_of(x)[1:]) + math.prod(shape_of(call)[1:])
    return math.prod(shape_of(weight)) > WEIGHTS_AN_ACTIVATION * image


def image_module(trunk: Trunk) -> tvm.IRModule:
    """A module whose ``main`` takes and returns the trunk's inputs and results for one image."""
    builder = relax.BlockBuilder()
    params = {v: relax.Var(v.name, relax.TensorType((1, *shape_of(v)[1:]), v.ty.dtype)) for v in trunk.inputs}
    made: dict[relax.Expr, relax.Expr] = dict(params)
    with builder.function("main", list(params.values())):
        with builder.dataflow():
            for var, call in trunk.bindings:
                args = [made.get(a, a) for a in call.args]
                attrs = {**call.attrs, "out_shape": [1, *shape_of(call)[1:]]}
                remade = relax.Call(Op.get(op_name(call)), args, tvm.ir.make_node("ir.DictAttrs", **attrs))
                made[var] = builder.emit(remade, var.name)
            output = builder.emit_output(relax.Tuple([made[v] for v in trunk.results]))
        builder.emit_func_output(output)
    return builder.get()
