"""Bring a model to an operator set that the rest of the front end knows."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.version_converter
from onnx import ModelProto

from pipeline.errors import ModelError, UnsupportedOperatorError
from pipeline.frontend.graph import Array, Graph, Node, new_node
from pipeline.frontend.normalize.constants import fold_constants, lift_constants

OLDEST = 7
"""Before it, BatchNormalization, Dropout and broadcasting had meanings that the converter does not always get right."""
WORKING = 13
"""Axes of QuantizeLinear and axes-as-inputs exist from here on: older models are converted up to it."""
_RESIZE_WITH_SETTINGS = 11
# A scale is float32: 1 / 0.1 is 9.9999998.
_ROUNDING = 1e-6


def upgrade_opset(model: ModelProto) -> ModelProto:
    """``model`` with its standard operators at opset 13 or later.

    What the converter of ONNX gets wrong is put right: the sampling of Resize and Upsample, the axis of Hardmax.
    Raises :class:`ModelError` out of range, :class:`UnsupportedOperatorError` for a Resize that no setting of today's
    operator describes.
    """
    versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    version = versions.get("", 0)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= version <= newest:
        raise ModelError(
            f"the model uses opset {version}; Octet reads {OLDEST} to {newest}. Export it again with opset 17."
        )
    if version >= WORKING:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, WORKING)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"opset {version} cannot be converted to {WORKING}: {reason}. Export the model again with opset 17."
        ) from error
    if not any(node.op_type in ("Resize", "Hardmax") for node in converted.graph.node):
        return converted
    graph = Graph(converted)
    graph.sweep(_flatten_hardmax)
    if version < _RESIZE_WITH_SETTINGS:
        _fix_sampling(graph)
    return graph.to_model()


def _flatten_hardmax(graph: Graph, node: Node) -> list[Node] | None:
    """Before opset 13 Hardmax chose one element of all axes from ``axis`` (1 if not given) on; the converter keeps it.

    Becomes Flatten, Hardmax of the last axis, Reshape, as the converter does it for Softmax.
    """
    if not node.is_op("Hardmax"):
        return None
    shape, flat, chosen = (graph.fresh_tensor_name(f"{node.name}_{part}") for part in ("shape", "flat", "chosen"))
    names = [graph.fresh_node_name(f"{node.name}_{part}") for part in ("shape", "flatten", "reshape")]
    return [
        new_node("Shape", node.inputs, [shape], names[0]),
        new_node("Flatten", node.inputs, [flat], names[1], {"axis": node.attr("axis", 1)}),
        new_node("Hardmax", [flat], [chosen], node.name, {"axis": -1}),
        new_node("Reshape", [chosen, shape], node.outputs, names[2]),
    ]


def _fix_sampling(graph: Graph) -> None:
    """Give every Resize the settings that opsets 7 to 10 mean; the converter leaves today's defaults, which differ."""
    graph.infer()
    lift_constants(graph)
    fold_constants(graph)
    for node in graph.nodes:
        if node.is_op("Resize"):
            node.set_attr("coordinate_transformation_mode", "asymmetric")
            if node.attr("mode", "nearest") == "nearest":
                node.set_attr("nearest_mode", _nearest_mode(node, graph.constant(node.input(2))))


def _nearest_mode(node: Node, scales: Array | None) -> str:
    """How opset 10 rounds, by ONNX's tests and onnxruntime: down on an axis that grows, up on one that shrinks."""
    where = f"node {node.name!r} (Resize, nearest, of an opset before {_RESIZE_WITH_SETTINGS})"
    remedy = "Export the model with opset 11 or later."
    if scales is None:
        raise UnsupportedOperatorError(f"{where} computes its scales, and its rounding depends on them. {remedy}")
    steps = 1 / scales[scales < 1].astype(np.float64)
    if (np.abs(steps - steps.round()) <= _ROUNDING * steps).all():
        return "floor"  # whole steps meet no fraction to round
    if (scales > 1).any():
        raise UnsupportedOperatorError(
            f"{where} has scales {scales.tolist()}: it rounds up on some axes and down on others. {remedy}"
        )
    return "ceil"
