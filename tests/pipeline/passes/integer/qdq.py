"""Small QDQ models for the tests of the integer lowering, and their comparison with onnxruntime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tvm
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from pipeline.passes.integer import OperatorReport, Report, lower_to_integer
from tests import numpy_reference

Array = NDArray[Any]
ONNX_TYPES = {
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


@dataclass
class Model:
    """An ONNX graph under construction; every method returns the name of a tensor."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def input(self, shape: Sequence[int], dtype: str = "float32") -> str:
        name = f"in{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[dtype], list(shape)))
        return name

    def constant(self, value: Any, dtype: str | None = None) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def quantize(self, x: str, scale: float, zero_point: int = 0, dtype: str = "uint8") -> str:
        return self.op("QuantizeLinear", x, self.constant(scale, "float32"), self.constant(zero_point, dtype))

    def dequantize(self, x: str, scale: Any, zero_point: Any = 0, dtype: str = "uint8", axis: int = 1) -> str:
        attributes = {"axis": axis} if np.ndim(scale) else {}
        zero = np.broadcast_to(np.asarray(zero_point, dtype), np.shape(scale))
        return self.op("DequantizeLinear", x, self.constant(scale, "float32"), self.constant(zero), **attributes)

    def qdq(self, x: str, scale: float, zero_point: int = 0, dtype: str = "uint8") -> str:
        return self.dequantize(self.quantize(x, scale, zero_point, dtype), scale, zero_point, dtype)

    def weight(self, codes: Array, scale: Any, zero_point: Any = 0, axis: int = 0) -> str:
        return self.dequantize(self.constant(codes), scale, zero_point, str(codes.dtype), axis)

    def output(self, name: str, dtype: str = "uint8") -> str:
        self.outputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[dtype], None))
        return name

    def build(self, opset: int = 17) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "model", self.inputs, self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
        return model


@dataclass(frozen=True)
class Lowered:
    """A lowered model: the operators that are left, with their number, and the report."""

    module: tvm.IRModule
    operators: dict[str, int]
    reports: list[OperatorReport]

    @property
    def float_operators(self) -> list[OperatorReport]:
        return [r for r in self.reports if r.kind == "float"]

    def calls(self, name: str) -> list[relax.Call]:
        return [c for c in _calls(self.module) if c.op.name == name]


def _calls(module: tvm.IRModule) -> list[relax.Call]:
    bindings = [b for block in module["main"].body.blocks for b in block.bindings]
    return [b.value for b in bindings if isinstance(b.value, relax.Call)]


def lower_module(module: tvm.IRModule) -> Lowered:
    """Lower a Relax module, and check that its printed form and its types are sound."""
    report = Report()
    lowered = lower_to_integer(module, report)
    relax.analysis.well_formed(lowered)
    return Lowered(lowered, dict(Counter(c.op.name for c in _calls(lowered))), report.entries)


def lower(model: Model, opset: int = 17) -> Lowered:
    """Import and lower a model."""
    return lower_module(from_onnx(model.build(opset)))


def onnxruntime_outputs(model: onnx.ModelProto, inputs: Sequence[Array], *, as_written: bool = False) -> list[Array]:
    """onnxruntime's outputs; ``as_written`` keeps it from replacing the float operators by integer ones of its own."""
    options = onnxruntime.SessionOptions()
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: x for i, x in zip(model.graph.input, inputs, strict=True)})


def steps_apart(model: Model, lowered: Lowered, *inputs: Array, opset: int = 17, as_written: bool = False) -> int:
    """Largest difference between the integer outputs of the lowered model and onnxruntime's."""
    expected = onnxruntime_outputs(model.build(opset), inputs, as_written=as_written)
    result = numpy_reference.run(lowered.module, *inputs)
    results = list(result) if isinstance(result, tuple) else [result]
    largest = 0
    for mine, theirs in zip(results, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        largest = max(largest, int(np.abs(mine.astype(np.int64) - theirs.astype(np.int64)).max(initial=0)))
    return largest


def values(shape: Sequence[int], seed: int = 0, scale: float = 1.0) -> Array:
    """Normally distributed float32."""
    return np.asarray(np.random.default_rng(seed).standard_normal(tuple(shape)) * scale, np.float32)


def codes(shape: Sequence[int], dtype: str, seed: int = 0) -> Array:
    """Uniform integers over the whole range of ``dtype``, its ends included."""
    limits = np.iinfo(dtype)
    drawn = np.random.default_rng(seed).integers(limits.min, int(limits.max) + 1, tuple(shape))
    flat = drawn.reshape(-1)
    flat[:2] = (limits.min, limits.max)[: flat[:2].size]
    return drawn.astype(dtype)
