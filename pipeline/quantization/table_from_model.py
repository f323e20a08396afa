"""The calibration table of a QDQ model, whoever made it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from onnx import TensorProto

from pipeline.errors import InputError
from pipeline.frontend.graph import Graph, Node
from pipeline.frontend.limits import Limits
from pipeline.frontend.normalize.constants import lift_constants
from pipeline.frontend.reader import read_model
from pipeline.quantization.folding import output_channel_axis
from pipeline.quantization.roles import LAYERS
from pipeline.quantization.tables import LEVELS, CalibrationTable, check_scales_of
from pipeline.quantization.wording import some


def table_of_model(path: str | os.PathLike[str], scales_of: str = "input") -> CalibrationTable:
    """The scales of all Conv, ConvTranspose, Gemm and MatMul with quantised weights in a QDQ file.

    A zero point in the middle of the type keeps its step: ``scale = 1 / step``. Any other is lost, and the scale is 127
    over the end of the range that is farther from zero. Weights with one scale for all get a full row; convolutions
    with groups get one scale a group, as ncnn wants it. ``notes`` say what could not be put into the table.

    Args:
        path: the QDQ file.
        scales_of: "input" or "output" of each layer, behind its Relu or Clip.

    Raises:
        InputError: no layer of the model is in QDQ form, or ``scales_of`` is neither.
        ModelError: the model cannot be read.
    """
    check_scales_of(scales_of)
    graph = Graph(read_model(path, Limits()))
    lift_constants(graph)
    graph.infer()
    reader = _Reader(graph)
    layers = [node for node in graph.nodes if node.is_op(*LAYERS)]
    for node in layers:
        reader.add(node, scales_of)
    if not reader.weights:
        raise InputError(
            f"{Path(path)} has no layer with quantised weights (Conv, ConvTranspose, Gemm or MatMul behind a "
            "DequantizeLinear): quantise it first, and to the QDQ format."
        )
    return CalibrationTable(reader.weights, reader.activations, tuple(reader.notes()))


_STORED: dict[int, type[np.int8 | np.uint8]] = {TensorProto.INT8: np.int8, TensorProto.UINT8: np.uint8}


class _Reader:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.weights: dict[str, tuple[float, ...]] = {}
        self.activations: dict[str, float] = {}
        self.lost: dict[str, list[str]] = {}
        """What is lost: the layers."""

    def add(self, node: Node, scales_of: str) -> None:
        """The rows of one layer."""
        pair = self._parameters(node.inputs[1])
        if pair is None:
            self._lose("not in the table, because their weights are not in 8 bits", node)
            return
        scales = self._weight_row(node, pair)
        if scales is None:
            self._lose("not in the table, because their scales do not go by output channel", node)
            return
        self.weights[node.name] = scales
        found = self._parameters(node.inputs[0]) if scales_of == "input" else self._behind(node)
        if found is None or found.scale.size != 1:
            self._lose(f"without an activation scale, because the {scales_of} is not quantised by one", node)
            return
        if not found.is_symmetric:
            self._lose(f"with a zero point of the {scales_of}: its range was made symmetric, and steps coarser", node)
        self.activations[node.name] = float(found.table_scales()[0])

    def notes(self) -> list[str]:
        """One sentence for each kind of loss."""
        return [f"{len(names)} of the layers {what}: {some(names)}" for what, names in self.lost.items()]

    def _lose(self, what: str, node: Node) -> None:
        self.lost.setdefault(what, []).append(node.name)

    def _weight_row(self, node: Node, pair: _Pair) -> tuple[float, ...] | None:
        """One scale an output channel; of a convolution with groups, one a group."""
        axis, shape = output_channel_axis(self.graph, node), self.graph.shape(node.inputs[1])
        if axis is None or shape is None:
            return None
        if pair.scale.size not in (1, shape[axis]):
            return None
        if pair.scale.size > 1 and pair.axis % len(shape) != axis:
            return None
        if not pair.is_symmetric:
            self._lose("with zero points of the weights: the ranges were made symmetric, and steps coarser", node)
        scales = np.broadcast_to(pair.table_scales(), (shape[axis],))
        groups = node.attr("group", 1) if node.is_op("Conv") else 1
        if groups > 1:
            rows = scales.reshape(groups, -1)
            if (rows != rows[:, :1]).any():
                self._lose("with several scales in a group: it got the one that cuts nothing", node)
            scales = rows.min(axis=1)
        return tuple(map(float, scales))

    def _parameters(self, tensor: str) -> _Pair | None:
        """What a DequantizeLinear that writes ``tensor`` has; None if none does, or one with computed parameters."""
        node = self.graph.producer(tensor)
        return _pair(self.graph, node) if node is not None and node.is_op("DequantizeLinear") else None

    def _behind(self, node: Node) -> _Pair | None:
        """The parameters that a layer's result is quantised with, behind its bias and its activation function."""
        tensor = node.outputs[0]
        while True:
            readers = self.graph.consumers(tensor)
            if len(readers) != 1:
                return None
            (reader,) = readers
            if reader.is_op("QuantizeLinear"):
                return _pair(self.graph, reader)
            is_bias = reader.is_op("Add") and any(
                self.graph.constant(n) is not None or self._parameters(n) is not None for n in reader.inputs
            )
            if not (reader.is_op("Relu", "Clip") or is_bias):
                return None
            tensor = reader.outputs[0]


class _Pair:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear, each (1,) or (C,)."""

    def __init__(self, scale: np.ndarray, zero_point: np.ndarray, axis: int) -> None:
        self.scale = scale.astype(np.float64).reshape(-1)
        self.axis = axis
        limits = np.iinfo(zero_point.dtype)
        zeros = zero_point.astype(np.float64).reshape(-1)
        self.below, self.above = zeros - limits.min, limits.max - zeros
        """Steps on either side of zero."""

    @property
    def is_symmetric(self) -> bool:
        """Whether all zero points are in the middle of the type."""
        return bool((self.below == self.above + 1).all())

    def table_scales(self) -> np.ndarray:
        """127 over the threshold."""
        steps = np.where(self.below == self.above + 1, LEVELS, np.maximum(self.below, self.above))
        return LEVELS / (self.scale * steps)


def _pair(graph: Graph, node: Node) -> _Pair | None:
    scale = graph.constant(node.inputs[1])
    stored = graph.dtype(node.inputs[0] if node.is_op("DequantizeLinear") else node.outputs[0])
    if scale is None or stored not in _STORED:
        return None
    zero_point = graph.constant(node.input(2)) if node.input(2) else np.zeros((), _STORED[stored])
    if zero_point is None:
        return None  # computed
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise InputError(f"node {node.name!r} ({node.op_type}): its scale is not a finite number above 0.")
    return _Pair(scale, zero_point, node.attr("axis", 1))
