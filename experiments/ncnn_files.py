"""Writes networks as ncnn reads them: what onnx2ncnn, ncnnoptimize and ncnn2int8 do, which its Python package lacks.

Weights are rounded to int8 by the scales of a calibration table, and the scales follow them in the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from pipeline.quantization import CalibrationTable

_MAGIC = "7767517"
_INT8_TAG, _FLOAT_TAG = 0x000D4B38, 0

_RELU, _CLIP = 1, 3
"""ncnn's numbers of activations that a convolution applies itself."""

_INT8_IN, _INT8_OUT = 1, 100
"""What makes up the setting "int8_scale_term": the sum says whether the output stays int8 too."""

_WEIGHTED = ("Conv", "Gemm")

Settings = dict[int, "int | float | list[float]"]


class NcnnFiles:
    """A network in ncnn's format; with a table, every Conv and Gemm that the table knows runs in int8.

    As ncnnoptimize does, a convolution takes over the Relu or Clip behind it; as ncnn2int8 does, it hands int8 on
    where nothing but int8 convolutions read it.

    Operators: Conv, Gemm, Relu, Clip, Add, MaxPool, Concat, GlobalAveragePool, Flatten; ValueError for any other.
    """

    def __init__(self, model: ModelProto, table: CalibrationTable | None = None) -> None:
        self.table = table
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.lines: list[str] = []
        self.data = bytearray()
        self.blobs = 0
        self.copies: dict[str, list[str]] = {}
        """ncnn's blobs have one reader: more read copies."""
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                if name not in self.constants:
                    self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in model.graph.output}
        (inputs,) = (i for i in model.graph.input if i.name not in self.constants)
        self._layer("Input", inputs.name, [], inputs.name)
        taken_over: set[str] = set()
        for node in model.graph.node:
            if node.output[0] not in taken_over:
                activation = self._node(node)
                taken_over |= {activation.output[0]} if activation else set()

    def save(self, stem: Path) -> tuple[Path, Path]:
        """Write STEM.param and STEM.bin."""
        param, weights = stem.with_suffix(".param"), stem.with_suffix(".bin")
        param.write_text("\n".join([_MAGIC, f"{len(self.lines)} {self.blobs}", *self.lines, ""]))
        weights.write_bytes(self.data)
        return param, weights

    def _layer(self, kind: str, name: str, inputs: list[str], output: str, settings: Settings | None = None) -> None:
        sources = [self.copies[i].pop() if i in self.copies else i for i in inputs]
        pairs = [_setting(key, value) for key, value in (settings or {}).items()]
        self.lines.append(" ".join([kind, name, str(len(sources)), "1", *sources, output, *pairs]))
        self.blobs += 1
        uses = len(self.readers.get(output, []))
        if uses > 1:
            copies = [f"{output}_copy{i}" for i in range(uses)]
            self.lines.append(" ".join(["Split", f"{output}_split", "1", str(uses), output, *copies]))
            self.blobs += uses
            self.copies[output] = copies

    def _node(self, node: NodeProto) -> NodeProto | None:
        """Write the layer; the activation that it took over is the answer."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in _WEIGHTED:
            return self._weighted(node, attributes)
        inputs = [name for name in node.input if name not in self.constants]
        settings: Settings = {}
        kind = node.op_type
        if kind == "MaxPool":
            rounds_down = 0 if attributes.get("ceil_mode") else 1
            kind, settings = "Pooling", {**_window(attributes, kernel=1, stride=2, pad=3), 5: rounds_down}
        elif kind == "GlobalAveragePool":
            kind, settings = "Pooling", {0: 1, 4: 1}
        elif kind == "Concat":
            settings = {0: attributes["axis"] - 1}
        elif kind == "Add" and len(inputs) == 2:
            kind, settings = "BinaryOp", {0: 0}
        elif kind == "Clip":
            low, high = self._limits(node)
            settings = {0: low, 1: high}
        elif kind == "Relu":
            kind = "ReLU"
        elif kind != "Flatten":
            raise ValueError(f"{node.name}: {kind} is not written here")
        self._layer(kind, node.name, inputs, node.output[0], settings)
        return None

    def _weighted(self, node: NodeProto, attributes: dict[str, Any]) -> NodeProto | None:
        weight, bias = (self.constants[name] for name in node.input[1:3])
        if node.op_type == "Conv":
            kind, settings = self._convolution(node, attributes, weight)
        else:
            if not attributes.get("transB"):
                weight = np.ascontiguousarray(weight.T)
            kind, settings = "InnerProduct", {0: len(weight), 1: 1, 2: weight.size}
        activation = self._activation(node)
        output = (activation or node).output[0]
        if activation is not None:
            settings[9] = _RELU if activation.op_type == "Relu" else _CLIP
            if activation.op_type == "Clip":
                settings[-23310] = list(self._limits(activation))
        if self.table is None or node.name not in self.table.weights:
            self._write(np.uint32(_FLOAT_TAG), weight, bias)
        else:
            following = self._int8_readers(output) if node.op_type == "Conv" else []
            settings[8] = _INT8_IN + (_INT8_OUT if following else 0)
            scales = np.asarray(self.table.weights[node.name], np.float32)
            codes = _round(weight * scales.reshape(-1, *[1] * (weight.ndim - 1)))
            self._write(np.uint32(_INT8_TAG), codes, bias, scales, np.float32(self.table.activations[node.name]))
            if following:
                self._write(np.float32(self.table.activations[following[0].name]))
        self._layer(kind, node.name, [node.input[0]], output, settings)
        return activation

    def _convolution(self, node: NodeProto, attributes: dict[str, Any], weight: np.ndarray) -> tuple[str, Settings]:
        groups = attributes.get("group", 1)
        if (groups != 1 and weight.shape[:2] != (groups, 1)) or set(attributes.get("dilations", [1])) != {1}:
            raise ValueError(f"{node.name}: groups of more than a channel and dilations are not written here")
        attributes.setdefault("kernel_shape", weight.shape[2:])
        settings: Settings = {0: len(weight), **_window(attributes, kernel=1, stride=3, pad=4), 5: 1, 6: weight.size}
        return ("Convolution", settings) if groups == 1 else ("ConvolutionDepthWise", {**settings, 7: groups})

    def _activation(self, node: NodeProto) -> NodeProto | None:
        """The Relu or Clip that alone reads the node's output."""
        readers = self.readers.get(node.output[0], [])
        if len(readers) != 1 or node.output[0] in self.outputs or readers[0].op_type not in ("Relu", "Clip"):
            return None
        return readers[0]

    def _int8_readers(self, tensor: str) -> list[NodeProto]:
        """The convolutions that read ``tensor`` as int8; empty where something else reads it too."""
        readers = self.readers.get(tensor, [])
        int8 = [node for node in readers if self.table and node.op_type == "Conv" and node.name in self.table.weights]
        return int8 if len(int8) == len(readers) and tensor not in self.outputs else []

    def _limits(self, node: NodeProto) -> tuple[float, float]:
        low, high = (float(self.constants[name]) for name in node.input[1:3])
        return low, high

    def _write(self, *values: np.ndarray | np.generic) -> None:
        for value in values:
            self.data += value.tobytes()
            self.data += bytes(-len(self.data) % 4)


def _setting(key: int, value: float | list[float]) -> str:
    values = [len(value), *value] if isinstance(value, list) else [value]
    return f"{key}=" + ",".join(map(str, values))


def _window(attributes: dict[str, Any], *, kernel: int, stride: int, pad: int) -> Settings:
    """ncnn's numbers of settings and their values. The height has numbers of its own, and the width's as defaults."""
    sizes = [set(attributes["kernel_shape"]), set(attributes.get("strides", [1])), set(attributes.get("pads", [0]))]
    if any(len(values) != 1 for values in sizes):
        raise ValueError(f"windows that are not square are not written here: {attributes}")
    (size,), (step,), (border,) = sizes
    return {kernel: size, stride: step, pad: border}


def _round(values: np.ndarray) -> np.ndarray:
    """To int8 as ncnn rounds: halves away from zero."""
    return np.clip(np.copysign(np.floor(np.abs(values) + 0.5), values), -127, 127).astype(np.int8)
