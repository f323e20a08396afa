"""What the QLinear rewrites share: a list of new nodes that takes the place of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from pipeline.errors import ModelError
from pipeline.frontend.graph import Graph, Node, new_node


class Rewrite:
    """Collects in :attr:`nodes` what replaces ``node``. Names of helper nodes derive from the node's name."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph = graph
        self.node = node
        self.nodes: list[Node] = []
        self._dequantized = 0

    def op(
        self,
        op_type: str,
        inputs: Iterable[str],
        attributes: Mapping[str, Any] | None = None,
        suffix: str = "",
        output: str | None = None,
        dtype: int = 0,
    ) -> str:
        """Append a node and return the name of its output. Without ``suffix`` it inherits the replaced node's name."""
        name = self.graph.fresh_node_name(f"{self.node.name}_{suffix}") if suffix else self.node.name
        output = output or self.graph.fresh_tensor_name(f"{name}_output" if suffix else f"{name}_float")
        self.nodes.append(new_node(op_type, inputs, [output], name, attributes))
        if dtype:
            self.graph.declare(output, dtype)
        return output

    def main(self, op_type: str, inputs: Iterable[str], drop: Iterable[str] = (), output: str | None = None) -> str:
        """Append the operator itself: the replaced node's name and attributes, less those named in ``drop``."""
        result = self.op(op_type, inputs, output=output)
        dropped = set(drop)
        self.nodes[-1].attributes = {k: v for k, v in self.node.attributes.items() if k not in dropped}
        return result

    def dequantize(self, data: str, scale: str, zero_point: str, axis: int = 1, suffix: str | None = None) -> str:
        """``DequantizeLinear``; ``zero_point`` "" stands for zero."""
        if suffix is None:
            suffix = f"dq{self._dequantized}"
            self._dequantized += 1
        inputs = [data, scale, self._as_long_as(zero_point, scale)] if zero_point else [data, scale]
        return self.op("DequantizeLinear", inputs, {"axis": axis}, suffix, dtype=self.graph.dtype(scale))

    def quantize(self, value: str, scale: str, zero_point: str, dtype: int = 0) -> None:
        """``QuantizeLinear`` to the replaced node's own output. ``dtype`` decides where there is no zero point."""
        if not zero_point:
            kinds: dict[int, Any] = {TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8}
            if dtype not in kinds:
                raise ModelError(
                    f"node {self.node.name!r} ({self.node.op_type}): it has no output zero point and its input type is "
                    "unknown or not int8/uint8. Add a zero point to it."
                )
            zero_point = self.graph.add_constant(f"{self.node.name}_zero_point", np.zeros((), kinds[dtype]))
        kind = self.graph.dtype(zero_point)
        self.op("QuantizeLinear", [value, scale, zero_point], {"axis": 1}, "q", output=self.node.outputs[0], dtype=kind)

    def _as_long_as(self, zero_point: str, scale: str) -> str:
        """QLinear operators take one zero point for a vector of scales, DequantizeLinear does not."""
        value, scales = self.graph.constant(zero_point), self.graph.constant(scale)
        if value is None or scales is None or value.size == scales.size:
            return zero_point
        return self.graph.add_constant(zero_point, np.full(scales.shape, value.reshape(-1)[0], value.dtype))

    def product(self, *scales: str, factor: float = 1.0) -> str:
        """Product of scales in their own float type: a constant where all are, else a Mul node."""
        values = [self.graph.constant(name) for name in scales]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            result = np.asarray(known[0])
            for value in known[1:]:
                result = np.multiply(result, value)
            result = np.multiply(result, np.asarray(factor, result.dtype))
            return self.graph.add_constant(
                f"{self.node.name}_bias_scale", result.reshape(-1) if result.size > 1 else result.reshape(())
            )
        if factor != 1.0:
            raise ModelError(f"node {self.node.name!r} ({self.node.op_type}): alpha needs constant scales.")
        return self.op("Mul", scales, suffix="bias_scale", dtype=self.graph.dtype(scales[0]))


def as_vector(graph: Graph, node: Node, name: str, axis: int) -> str:
    """A scale or zero point as scalar or vector.

    QLinearMatMul and MatMulInteger also know the N-D forms [..., rows, 1] (``axis`` -2) and [..., 1, columns]
    (``axis`` -1), which DequantizeLinear does not: taken as long as they are the same for every batch. Raises
    :class:`ModelError` where they differ.
    """
    shape = graph.shape(name)
    if shape is None or len(shape) <= 1:
        return name
    value = graph.constant(name)
    if value is None:
        raise ModelError(
            f"node {node.name!r} ({node.op_type}): {name!r} has {len(shape)} dimensions and is no constant."
        )
    vectors = np.moveaxis(value, axis, -1).reshape(-1, shape[axis])
    if (vectors != vectors[0]).any():
        raise ModelError(
            f"node {node.name!r} ({node.op_type}): {name!r} of shape {list(shape)} differs along more than one axis; "
            "only per-tensor, per-row and per-column quantisation is supported."
        )
    return graph.add_constant(name, vectors[0] if vectors[0].size > 1 else vectors[0].reshape(()))
