"""Small ONNX models for the front end's tests, and their answer by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from pipeline.frontend import load_model

MICROSOFT = "com.microsoft"
Shapes = Mapping[str, tuple[int, Sequence[int | str]]]
"""Tensor name → (element type, shape)."""


def node(op_type: str, inputs: str, outputs: str, domain: str = "", name: str = "", **attributes: Any) -> NodeProto:
    """A node from space-separated tensor names; "-" is an input left out."""
    names = ["" if part == "-" else part for part in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), name=name or None, domain=domain, **attributes)


def build(
    nodes: Sequence[NodeProto],
    inputs: Shapes,
    outputs: Shapes,
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
) -> ModelProto:
    """A model; ``constants`` are numpy values by name."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, 1) for domain in sorted({n.domain for n in nodes} - {""})]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def qdq_model() -> ModelProto:
    """x → Q → DQ → y, the smallest useful model; batch is open."""
    nodes = [node("QuantizeLinear", "x s z", "q", name="quant"), node("DequantizeLinear", "q s z", "y", name="dequant")]
    kind: tuple[int, Sequence[int | str]] = (TensorProto.FLOAT, ["N", 4])
    return build(nodes, {"x": kind}, {"y": kind}, {"s": np.float32(0.5), "z": np.uint8(3)})


def save(model: ModelProto, folder: Path) -> Path:
    """Write a model without looking at it."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def load(model: ModelProto, folder: Path, **options: Any) -> ModelProto:
    """``load_model`` on a model in memory."""
    return load_model(save(model, folder), **options)


def run(model: ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Answer of onnxruntime without graph optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, dict(feeds))


def op_types(model: ModelProto) -> list[str]:
    """Operators in order, com.microsoft ones with their domain."""
    return [f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in model.graph.node]


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    """Initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def assert_same_answer(
    before: ModelProto, after: ModelProto, feeds: Mapping[str, np.ndarray], steps: float = 0
) -> None:
    """Both models agree, integers within ``steps``, floats within ``steps`` as absolute difference."""
    onnx.checker.check_model(after, full_check=True)
    for left, right in zip(run(before, feeds), run(after, feeds), strict=True):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        difference = np.abs(left.astype(np.float64) - right.astype(np.float64)).max(initial=0)
        assert difference <= steps, f"differs by {difference}"


def integers(shape: Sequence[int], dtype: Any, seed: int = 0) -> np.ndarray:
    """Random integers over the whole range of a type."""
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def floats(shape: Sequence[int], seed: int = 0, spread: float = 1.0) -> np.ndarray:
    """Random normal float32."""
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)
