"""From a float ONNX file to the graph that is calibrated and quantised."""

from __future__ import annotations

import os
from pathlib import Path

from onnx import AttributeProto, ModelProto, TensorProto

from pipeline.errors import ModelError
from pipeline.frontend.graph import Graph
from pipeline.frontend.limits import Limits
from pipeline.frontend.normalize.batch_norm import fold_batch_norm
from pipeline.frontend.normalize.constants import fold_constants, lift_constants
from pipeline.frontend.normalize.identity import remove_identities
from pipeline.frontend.opset import upgrade_opset
from pipeline.frontend.reader import read_model
from pipeline.frontend.shapes import open_unknown_sizes
from pipeline.quantization.folding import (
    absorb_gemm_factors,
    batch_norm_to_convolution,
    fold_channel_arithmetic,
    matmul_to_gemm,
    simplify_sums,
)
from pipeline.quantization.roles import LAYERS

_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm")
_OTHER_FLOATS: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}


def load_float_graph(path: str | os.PathLike[str], limits: Limits | None = None) -> tuple[Graph, ModelProto]:
    """The prepared graph of a file, and the file as it was read.

    Open dimensions stay open. Constants are folded; BatchNormalization and arithmetic per channel go into the layer in
    front of them. Raises :class:`ModelError` where the file is damaged or not valid, has control flow, is quantised
    already, or computes in another float type.
    """
    limits = limits or Limits()
    read = read_model(path, limits)
    _refuse(read, Path(path))
    graph = Graph(runnable(read))
    graph.fold_budget = limits.max_folded_elements
    graph.infer()
    # 1. What is known becomes a constant, so that the rewrites below see it.
    lift_constants(graph)
    remove_identities(graph)
    fold_constants(graph)
    # 2. Arithmetic on channels joins the weights of a layer.
    matmul_to_gemm(graph)
    absorb_gemm_factors(graph)
    batch_norm_to_convolution(graph)
    fold_batch_norm(graph)
    fold_channel_arithmetic(graph)
    simplify_sums(graph)
    graph.prune()
    graph.infer()
    _refuse_other_floats(graph, Path(path))
    return graph, read


def runnable(read: ModelProto) -> ModelProto:
    """A copy of a float model that onnxruntime runs: at the working opset, with open sizes that are written as such."""
    model = ModelProto()
    model.CopyFrom(upgrade_opset(read))
    open_unknown_sizes(model)
    return model


def _refuse(model: ModelProto, path: Path) -> None:
    for node in model.graph.node:
        name = f"node {node.name or node.output[0]!r} ({node.op_type})"
        if node.op_type in _QUANTISED or node.op_type.startswith("QLinear"):
            raise ModelError(f"{path} is quantised already: {name}. Give the float model that it was made from.")
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise ModelError(f"{path}: {name} holds a graph of its own (control flow), which cannot be quantised.")


def _refuse_other_floats(graph: Graph, path: Path) -> None:
    """By the layers: a float16 model may well take and give float32."""
    kinds = {graph.dtype(node.input(1)) for node in graph.nodes if node.is_op(*LAYERS)}
    if TensorProto.FLOAT not in kinds and (found := kinds & _OTHER_FLOATS.keys()):
        raise ModelError(f"{path} is a {_OTHER_FLOATS[min(found)]} model: export it in float32.")
