"""The quantised model as a standard QDQ file.

1. Every quantised activation gets one QuantizeLinear and one DequantizeLinear; active nodes read the latter, and so
   does everything else behind an active node. Float nodes read what float nodes and inputs give.
2. Weights and constant vectors are stored as integers behind a DequantizeLinear, biases as int32 with scale s_x * s_w.
3. Nodes keep their names; the new ones are called after the tensor. Inputs and outputs of the graph are as they were.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from pipeline import __version__
from pipeline.data.metadata import model_files
from pipeline.errors import ModelError
from pipeline.frontend.graph import Graph, Node, new_node
from pipeline.outputs import check_output, write_output
from pipeline.quantization.encoding import Encoding, LayerEncoding
from pipeline.quantization.options import Options
from pipeline.quantization.parameters import QuantizationParameters
from pipeline.quantization.placement import Layer, Placement
from pipeline.quantization.provenance import METADATA_KEY


def to_qdq(graph: Graph, placement: Placement, encoding: Encoding) -> ModelProto:
    """The QDQ model. ``graph`` is not changed."""
    copy = Graph(graph.to_model())
    writer = _Writer(copy, placement, encoding)
    copy.sweep(writer.rule)
    copy.infer()
    return copy.to_model()


class _Writer:
    def __init__(self, graph: Graph, placement: Placement, encoding: Encoding) -> None:
        self.graph = graph
        self.encoding = encoding
        self.quantized = placement.group_of
        self.vectors = set(placement.vectors)
        self.active = {node.name for node in placement.active}
        self.layers = {layer.name: layer for layer in placement.layers}
        self.biases = {(layer.bias_node or layer.node).name: layer for layer in placement.layers if layer.bias}
        self.dequantized: dict[str, str] = {}
        """What active nodes read instead of a tensor."""
        self.everywhere: set[str] = set()
        """Tensors that nobody reads as they are."""

    def rule(self, graph: Graph, node: Node) -> list[Node] | None:
        """The node between what it needs dequantised and what it writes quantised."""
        active = node.name in self.active
        before: list[Node] = []
        inputs = [self._read(name, active, before) for name in node.inputs]
        layer = self.layers.get(node.name)
        if layer is not None:
            inputs[1] = self._constant(layer.weight, self.encoding.layers[node.name], layer, before)
        biased = self.biases.get(node.name)
        if biased is not None:
            inputs = self._with_bias(inputs, biased, before)
        if inputs != node.inputs:
            graph.set_inputs(node, inputs)
        after: list[Node] = []
        for index, name in enumerate(node.outputs):
            if name in self.quantized:
                node.outputs[index] = self._write(name, after)
                if active:
                    self.everywhere.add(name)
        return [*before, node, *after]

    def _read(self, name: str, active: bool, before: list[Node]) -> str:
        if name in self.vectors and active:
            return self._vector(name, before)
        if name not in self.quantized or not (active or name in self.everywhere):
            return name
        if name not in self.dequantized:  # an input of the graph, read for the first time
            self._pair(name, name, before)
        return self.dequantized[name]

    def _write(self, name: str, after: list[Node]) -> str:
        """QuantizeLinear and DequantizeLinear behind a node; returns what the node is to write."""
        if not self.graph.is_output(name):
            self._pair(name, name, after)
            return name
        source = self.graph.fresh_tensor_name(f"{name}_float")
        self._pair(name, source, after)
        after[-1].outputs[0] = name
        self.dequantized[name] = name
        return source

    def _pair(self, name: str, source: str, nodes: list[Node]) -> None:
        parameters = self._parameters(name, self.encoding.activations[name])
        codes = self.graph.fresh_tensor_name(f"{name}_QuantizeLinear_Output")
        values = self.graph.fresh_tensor_name(f"{name}_DequantizeLinear_Output")
        names = [self.graph.fresh_node_name(f"{name}_{kind}") for kind in ("QuantizeLinear", "DequantizeLinear")]
        nodes.append(new_node("QuantizeLinear", [source, *parameters], [codes], names[0]))
        nodes.append(new_node("DequantizeLinear", [codes, *parameters], [values], names[1]))
        self.dequantized[name] = values

    def _parameters(self, name: str, parameters: QuantizationParameters) -> list[str]:
        return [
            self.graph.add_constant(f"{name}_scale", parameters.scale),
            self.graph.add_constant(f"{name}_zero_point", parameters.zero_point),
        ]

    def _constant(self, name: str, encoding: LayerEncoding, layer: Layer, before: list[Node]) -> str:
        codes = self.graph.add_constant(f"{name}_quantized", encoding.weight)
        inputs = [codes, *self._parameters(name, encoding.parameters)]
        axis = {} if encoding.parameters.axis is None else {"axis": layer.axis}
        return self._dequantize(name, inputs, axis, before)

    def _vector(self, name: str, before: list[Node]) -> str:
        if name not in self.dequantized:
            parameters, value = self.encoding.activations[name], self.graph.constant(name)
            assert value is not None
            codes = self.graph.add_constant(f"{name}_quantized", parameters.quantize(value))
            self.dequantized[name] = self._dequantize(name, [codes, *self._parameters(name, parameters)], {}, before)
        return self.dequantized[name]

    def _with_bias(self, inputs: list[str], layer: Layer, before: list[Node]) -> list[str]:
        encoding = self.encoding.layers[layer.name]
        assert encoding.bias is not None
        assert encoding.bias_scale is not None
        codes = self.graph.add_constant(f"{layer.bias}_quantized", encoding.bias)
        scale = self.graph.add_constant(f"{layer.bias}_scale", encoding.bias_scale)
        zero_point = self.graph.add_constant(f"{layer.bias}_zero_point", np.zeros(encoding.bias_scale.shape, np.int32))
        axis = {"axis": 0} if encoding.bias_scale.ndim else {}
        value = self._dequantize(layer.bias, [codes, scale, zero_point], axis, before)
        if layer.bias_node is None:
            return [*inputs[:2], value]
        return [value if name == layer.bias else name for name in inputs]

    def _dequantize(self, name: str, inputs: list[str], attributes: Mapping[str, int], before: list[Node]) -> str:
        values = self.graph.fresh_tensor_name(f"{name}_DequantizeLinear_Output")
        node_name = self.graph.fresh_node_name(f"{name}_DequantizeLinear")
        before.append(new_node("DequantizeLinear", inputs, [values], node_name, attributes))
        return values


def finish(model: ModelProto, source: ModelProto, options: Options, metadata: Mapping[str, str]) -> None:
    """Say in the file where it comes from, keep what ``source`` says of itself, and check it. Raises ModelError."""
    model.producer_name, model.producer_version = "octet", __version__
    model.domain, model.model_version, model.doc_string = source.domain, source.model_version, source.doc_string
    model.graph.doc_string = source.graph.doc_string
    props = {entry.key: entry.value for entry in source.metadata_props}
    props |= {METADATA_KEY: json.dumps(options.to_json(), sort_keys=True), **metadata}
    for key in sorted(props):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, props[key]
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"the quantised model is not valid ONNX: {' '.join(str(error).split())}") from error


def save(model: ModelProto, output: Path) -> None:
    """Write the file whole or not at all; the same model gives the same bytes. Raises InputError."""
    write_output(output, lambda file: file.write(model.SerializeToString(deterministic=True)))


def check_model_output(output: str | os.PathLike[str], model: str | os.PathLike[str], *inputs: object) -> Path:
    """The path of the file to write; ``inputs`` are what is read beside ``model``, of which the paths count.

    Raises:
        InputError: before any work is done, where it cannot be written or is one of the files read.
    """
    others = [value for value in inputs if isinstance(value, (str, os.PathLike))]
    return check_output(output, keep=[*model_files(model), *others])
