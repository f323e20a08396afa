"""ConvInteger and MatMulInteger → DequantizeLinear with scale 1, Conv or MatMul, Cast to int32.

As float32 arithmetic that is exact while the sums stay below 2**24; the integer lowering recognises
``Cast<int32>(Conv(DequantizeLinear, DequantizeLinear))`` with scales of 1 and makes it exact int32 whatever the sums.
Padding of ConvInteger pads with the zero point, that is with real 0, as Conv does.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from pipeline.errors import ModelError
from pipeline.frontend.graph import Graph, Node
from pipeline.frontend.normalize._rewrite import Rewrite, as_vector

_FLOAT_OP = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
# Axis that a vector of zero points belongs to, for the left and the right operand.
_AXES = {"ConvInteger": (1, 0), "MatMulInteger": (-2, -1)}


def expand_integer_ops(graph: Graph) -> None:
    """Rewrite ConvInteger and MatMulInteger."""
    graph.sweep(_expand)


def _expand(graph: Graph, node: Node) -> list[Node] | None:
    if not node.is_op(*_FLOAT_OP):
        return None
    rewrite = Rewrite(graph, node)
    sides = []
    for index, axis in enumerate(_AXES[node.op_type]):
        zero = node.input(index + 2)
        count = 1
        if zero:
            zero = as_vector(graph, node, zero, axis)
            shape = graph.shape(zero)
            if shape is None:
                raise ModelError(f"node {node.name!r} ({node.op_type}): the shape of zero point {zero!r} is not known.")
            count = int(np.prod(shape)) if shape else 0
        ones = np.ones((count,) if zero and count else (), np.float32)
        scale = graph.add_constant(f"{node.name}_one", ones)
        sides.append(rewrite.dequantize(node.inputs[index], scale, zero, axis))
    total = rewrite.main(_FLOAT_OP[node.op_type], sides)
    rewrite.op("Cast", [total], {"to": TensorProto.INT32}, "cast", output=node.outputs[0], dtype=TensorProto.INT32)
    return rewrite.nodes
