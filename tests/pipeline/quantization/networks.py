"""Small float networks for the quantiser's tests, with seeded weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from pipeline.frontend.graph import Graph
from pipeline.quantization.model import load_float_graph
from pipeline.quantization.options import make_options
from pipeline.quantization.placement import Placement, place
from tests.pipeline.frontend.models import build, node, run, save

__all__ = ["Net", "batches", "node", "placed", "run", "save", "sqnr"]


class Net:
    """Nodes one after another over an input ``x``; ``w*`` and ``b*`` are constants."""

    def __init__(self, shape: Sequence[int | str] = ("N", 3, 8, 8), opset: int = 17) -> None:
        self.shape = shape
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Any] = {}
        self.rng = np.random.default_rng(0)

    def op(self, op_type: str, inputs: str, output: str, **attributes: Any) -> Net:
        """A node called after its output, upper case first letter aside."""
        self.nodes.append(node(op_type, inputs, output, name=f"{output}_node", **attributes))
        return self

    def constant(self, name: str, value: Any) -> Net:
        """A constant; numbers become float32."""
        value = np.asarray(value)
        self.constants[name] = value.astype(np.float32) if value.dtype == np.float64 else value
        return self

    def conv(self, x: str, y: str, o: int = 4, i: int = 3, k: int = 3, bias: bool = True, **attributes: Any) -> Net:
        """A convolution that keeps the size; ``i`` input channels a group."""
        self.constant(f"w_{y}", self.rng.normal(0, (2 / (i * k * k)) ** 0.5, (o, i, k, k)))
        inputs = f"{x} w_{y}"
        if bias:
            self.constant(f"b_{y}", self.rng.normal(0, 0.1, o))
            inputs += f" b_{y}"
        return self.op("Conv", inputs, y, pads=[k // 2] * 4, **attributes)

    def gemm(self, x: str, y: str, i: int, o: int, **attributes: Any) -> Net:
        """A fully connected layer with transposed weights."""
        self.constant(f"w_{y}", self.rng.normal(0, i**-0.5, (o, i))).constant(f"b_{y}", self.rng.normal(0, 0.1, o))
        return self.op("Gemm", f"{x} w_{y} b_{y}", y, transB=1, **attributes)

    def model(self, *outputs: str, ranks: Sequence[int] = (4,)) -> ModelProto:
        """The model with these outputs."""
        kinds = {
            name: (TensorProto.FLOAT, ["N", *"abcdef"[: rank - 1]]) for name, rank in zip(outputs, ranks, strict=True)
        }
        model = build(self.nodes, {"x": (TensorProto.FLOAT, self.shape)}, kinds, self.constants, self.opset)
        onnx.checker.check_model(model)
        return model

    def file(self, folder: Path, *outputs: str, ranks: Sequence[int] = (4,)) -> Path:
        """The model as a file."""
        return save(self.model(*outputs, ranks=ranks), folder)


def batches(count: int = 4, shape: Sequence[int] = (2, 3, 8, 8), seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Normal random calibration data."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def placed(path: Path, **options: Any) -> tuple[Graph, Placement]:
    """The prepared graph of a file and the decision where to quantise it."""
    graph, _ = load_float_graph(path)
    return graph, place(graph, make_options(None, **options))


def sqnr(reference: np.ndarray, value: np.ndarray) -> float:
    """Signal to quantisation noise in dB."""
    return float(10 * np.log10(np.square(reference).sum() / max(np.square(reference - value).sum(), 1e-30)))
