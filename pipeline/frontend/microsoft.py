"""What ``onnx.checker`` does for standard operators, for the com.microsoft operators that normalisation rewrites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import AttributeProto, ModelProto

from pipeline.errors import ModelError

MICROSOFT = "com.microsoft"

_INT, _FLOAT, _INTS, _STRING = AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.INTS, AttributeProto.STRING


@dataclass(frozen=True)
class Schema:
    """Inputs that must be there by index, the highest number of inputs, and the types of attributes."""

    required: tuple[int, ...]
    most: int
    attributes: Mapping[str, int] = field(default_factory=dict)


_UNARY = (0, 1, 3)
_BINARY = (0, 1, 3, 4, 6)
_POOL = {"channels_last": _INT}

SCHEMAS: dict[str, Schema] = {
    "DequantizeLinear": Schema((0, 1), 3, {"axis": _INT, "block_size": _INT}),
    "QGemm": Schema((0, 1, 2, 3, 4, 5), 9, {"alpha": _FLOAT, "transA": _INT, "transB": _INT}),
    "QLinearAdd": Schema(_BINARY, 8),
    "QLinearAveragePool": Schema(
        _UNARY,
        5,
        {
            **_POOL,
            "auto_pad": _STRING,
            "ceil_mode": _INT,
            "count_include_pad": _INT,
            "kernel_shape": _INTS,
            "pads": _INTS,
            "strides": _INTS,
        },
    ),
    "QLinearConcat": Schema((0, 1, 2, 3, 4), 3 * 2**15, {"axis": _INT}),
    "QLinearGlobalAveragePool": Schema(_UNARY, 5, _POOL),
    "QLinearLeakyRelu": Schema(_UNARY, 5, {"alpha": _FLOAT}),
    "QLinearMul": Schema(_BINARY, 8),
    "QLinearSigmoid": Schema(_UNARY, 5),
    "QLinearSoftmax": Schema(_UNARY, 5, {"axis": _INT, "opset": _INT}),
    "QuantizeLinear": Schema((0, 1), 3, {"axis": _INT, "block_size": _INT}),
}


def check_microsoft_operators(model: ModelProto) -> None:
    """Raise :class:`ModelError` where a com.microsoft operator of :data:`SCHEMAS` has wrong inputs or attributes."""
    for node in model.graph.node:
        schema = SCHEMAS.get(node.op_type) if node.domain == MICROSOFT else None
        if schema is None:
            continue
        where = f"node {node.name!r} ({node.op_type})"
        inputs = list(node.input)
        if any(index >= len(inputs) or not inputs[index] for index in schema.required):
            raise ModelError(f"{where} lacks an input: it needs those of index {schema.required}.")
        is_concat = node.op_type == "QLinearConcat"
        if len(inputs) > schema.most or (is_concat and (len(inputs) % 3 != 2 or not all(inputs))):
            raise ModelError(f"{where} has {len(inputs)} inputs, which is not a number it can have.")
        if len(node.output) != 1 or not node.output[0]:
            raise ModelError(f"{where} has {len(node.output)} outputs instead of one.")
        for attribute in node.attribute:
            if schema.attributes.get(attribute.name) != attribute.type:
                raise ModelError(f"{where} has attribute {attribute.name!r}, which is unknown or of the wrong type.")
