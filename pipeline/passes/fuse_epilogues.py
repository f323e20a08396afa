"""Fuse element-wise operators into the operator that makes their input.

1. A chain of add, multiply, requantise and look-up becomes the epilogue of the convolution or fully connected layer
   before it, where that result has no other reader and no operand is broadcast: its attribute ``stages``.
2. Any other chain becomes one ``octet.elementwise``.

An operator with a float32 or int32 result neither starts nor ends a chain. The arithmetic of each stage is that of the
operator alone, so fusion does not change a bit of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, Rewriter, op_name
from pipeline.ir.operators import shape_of
from schedules.compute.arithmetic import Output
from schedules.compute.stages import Add, Lookup, Multiply, Requantize, Stage, stages_from_json, stages_to_json

ANCHORS = (operators.CONV2D, operators.DENSE, operators.ELEMENTWISE)


@dataclass(frozen=True)
class _Link:
    """One stage, the value that flows into it and the operands it reads besides."""

    value: relax.Expr
    stage: Stage
    operands: list[relax.Expr]


def fuse_epilogues(module: tvm.IRModule) -> tvm.IRModule:
    """The module with the element-wise operators fused."""
    graph = Graph(module)
    rewriter = Rewriter(graph)

    def visit(var: relax.Var, call: relax.Expr) -> relax.Expr:
        links = _links(call)
        for link, old_link in zip(links, _links(graph.definition[var]), strict=True):
            producer = rewriter.definition(link.value)
            if graph.uses[old_link.value] == 1 and _can_take(producer, link, shape_of(call)):
                return _extended(producer, link, shape_of(call))
        return _alone(links[0], shape_of(call)) if links else call

    return rewriter.run(visit)


def output_of(call: relax.Call) -> Output:
    """The requantisation of an operator's result."""
    a = call.attrs
    return Output(str(a["out_dtype"]), int(a["y_zero_point"]), int(a["qmin"]), int(a["qmax"]))


def stages_of(call: relax.Call) -> tuple[Stage, ...]:
    """The stages fused into an operator so far."""
    return stages_from_json(str(call.attrs["stages"])) if "stages" in call.attrs else ()


def _links(call: relax.Expr) -> list[_Link]:
    """The ways in which ``call`` continues a chain; a commutative operator has two."""
    name = op_name(call)
    if name == operators.LOOKUP:
        return [_Link(call.args[0], Lookup(), [call.args[1]])]
    if name not in (operators.REQUANTIZE, operators.ADD, operators.MULTIPLY):
        return []
    a, output = call.attrs, output_of(call)
    if name == operators.REQUANTIZE:
        return [_Link(call.args[0], Requantize(float(a["multiplier"]), int(a["x_zero_point"]), output), [])]
    multiplier = float(a["multiplier"])
    (x, y), zeros = call.args, (int(a["a_zero_point"]), int(a["b_zero_point"]))
    if name == operators.MULTIPLY:
        return [
            _Link(x, Multiply(multiplier, *zeros, output), [y]),
            _Link(y, Multiply(multiplier, *zeros[::-1], output), [x]),
        ]
    coefficients = int(a["a_coefficient"]), int(a["b_coefficient"])
    return [
        _Link(x, Add(*coefficients, multiplier, *zeros, output), [y]),
        _Link(y, Add(*coefficients[::-1], multiplier, *zeros[::-1], output), [x]),
    ]


def _can_take(producer: relax.Expr | None, link: _Link, shape: tuple[int, ...]) -> bool:
    if producer is None or op_name(producer) not in ANCHORS or shape_of(producer) != shape:
        return False
    if str(producer.attrs["out_dtype"]) != "uint8" or link.stage.output.dtype != "uint8":
        return False
    return link.stage.operand != "activation" or shape_of(link.operands[0]) == shape


def _extended(producer: relax.Call, link: _Link, shape: tuple[int, ...]) -> relax.Call:
    attrs = dict(producer.attrs.items())
    attrs["stages"] = stages_to_json((*stages_of(producer), link.stage))
    return operators.make(op_name(producer), [*producer.args, *link.operands], shape, output_of(producer), attrs)


def _alone(link: _Link, shape: tuple[int, ...]) -> relax.Call:
    attrs = {"stages": stages_to_json([link.stage])}
    output = operators.Output(dtype=link.stage.output.dtype)
    return operators.make(operators.ELEMENTWISE, [link.value, *link.operands], shape, output, attrs)
