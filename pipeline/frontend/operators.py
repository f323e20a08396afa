"""Which operators can be compiled, before and after normalisation."""

from __future__ import annotations

from collections.abc import Callable

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from pipeline.errors import UnsupportedOperatorError
from pipeline.frontend.microsoft import MICROSOFT, SCHEMAS

# What the Relax importer takes, less what has no static shape (NonZero, NonMaxSuppression, Unique, ...), is no tensor
# (Sequence*, Optional*) or is control flow (If).
_STANDARD_NAMES = """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift
    BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike
    Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf
    IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpPool MatMul Max MaxPool MaxRoiPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize RoiAlign Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin
    Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile
    TopK Transpose Trilu Unsqueeze Where Xor
"""
IMPORTED: frozenset[tuple[str, str]] = frozenset(("", name) for name in _STANDARD_NAMES.split()) | frozenset(
    (MICROSOFT, name) for name in ("BiasGelu", "FastGelu", "Gelu")
)

REWRITTEN: frozenset[tuple[str, str]] = frozenset(
    ("", name)
    for name in ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "Upsample")
) | frozenset((MICROSOFT, name) for name in SCHEMAS)
"""What normalisation turns into operators of :data:`IMPORTED`; Upsample left ONNX in opset 10 and is converted."""


def check_operators(model: ModelProto, supported: frozenset[tuple[str, str]]) -> None:
    """Raise one :class:`UnsupportedOperatorError` that lists all nodes that are not ``supported`` as they are."""
    found: list[str] = []
    for node in model.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        label = f"{node.name or ', '.join(node.output)!r} ({node.op_type}, domain {domain or 'ai.onnx'})"
        if (domain, node.op_type) not in supported or any(a.HasField("g") or a.graphs for a in node.attribute):
            found.append(label)
            continue
        check = _SETTINGS.get(node.op_type)
        reason = check(node) if check is not None else None
        if reason:
            found.append(f"{label}: {reason}")
    _refuse(found)


def check_element_types(model: ModelProto) -> None:
    """Raise one :class:`UnsupportedOperatorError` that lists all nodes with inputs that their kernel cannot take.

    Of a normalised model: what is computed from constants alone is gone, and the type of every tensor is known.
    """
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update((tensor.name, tensor.data_type) for tensor in model.graph.initializer)
    found: list[str] = []
    for node in model.graph.node:
        dtype = types.get(node.input[0], 0) if node.input else 0
        if dtype in _REFUSED_TYPES.get(node.op_type, ()):
            found.append(f"{node.name!r} ({node.op_type}): inputs of type {TensorProto.DataType.Name(dtype).lower()}")
    _refuse(found)


def _refuse(found: list[str]) -> None:
    if found:
        count = "1 node" if len(found) == 1 else f"{len(found)} nodes"
        raise UnsupportedOperatorError(
            f"{count} of the model cannot be compiled: {'; '.join(found)}. "
            "Export the model without them, or cut the graph before them."
        )


def _attribute(node: NodeProto, name: str, default: object) -> object:
    """Attribute as Python value, strings decoded."""
    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return value.decode("utf-8", "replace") if attribute.type == AttributeProto.STRING else value
    return default


def _quantize(node: NodeProto) -> str | None:
    return "blocked quantisation (block_size)" if _attribute(node, "block_size", 0) else None


def _batch_norm(node: NodeProto) -> str | None:
    training = _attribute(node, "training_mode", 0) or sum(1 for name in node.output if name) > 1
    return "training mode; export the model for inference" if training else None


def _is_inf(node: NodeProto) -> str | None:
    both = _attribute(node, "detect_negative", 1) and _attribute(node, "detect_positive", 1)
    return None if both else "one sign alone (detect_negative=0 or detect_positive=0)"


def _max_pool(node: NodeProto) -> str | None:
    return "the Indices output" if len(node.output) > 1 and node.output[1] else None


def _resize(node: NodeProto) -> str | None:
    # The importer reads none of these and would give wrong numbers in silence.
    if _attribute(node, "antialias", 0):
        return "antialias=1"
    if list(_attribute(node, "axes", [])):  # type: ignore[call-overload]
        return "the axes attribute"
    policy = _attribute(node, "keep_aspect_ratio_policy", "stretch")
    return None if policy == "stretch" else f"keep_aspect_ratio_policy={policy}"


_SETTINGS: dict[str, Callable[[NodeProto], str | None]] = {
    "BatchNormalization": _batch_norm,
    "DequantizeLinear": _quantize,
    "IsInf": _is_inf,
    "MaxPool": _max_pool,
    "QuantizeLinear": _quantize,
    "Resize": _resize,
}
"""Settings of supported operators that the importer would ignore or cannot express."""

_UNSIGNED = frozenset((TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64))
_INTEGERS = _UNSIGNED | {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64}

_REFUSED_TYPES: dict[str, frozenset[int]] = {
    **dict.fromkeys(("Acos", "Acosh", "Asin", "Asinh", "Atan", "Cosh", "Sinh"), frozenset((TensorProto.FLOAT16,))),
    "Equal": frozenset((TensorProto.BOOL,)),
    "LayerNormalization": frozenset((TensorProto.DOUBLE,)),
    "Pow": _INTEGERS,
    "ReduceMean": _INTEGERS,
    "Sign": _UNSIGNED,
    "TopK": frozenset((TensorProto.INT16, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64)),
}
"""Element types that ONNX allows and TVM has no kernel for, or one with a result of another type."""
