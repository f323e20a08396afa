"""Bias correction: the mean that rounding and clipping add to a layer's result is taken off its bias.

For each layer and output channel, the mean over the calibration data of

    layer(x_q, W_q) - layer(x, W)

is computed, x being the float model's activation and x_q the same quantised and dequantised; the bias is lowered by
it. All layers are corrected from one pass: each for what it adds itself, so that later ones see no shift of the mean.

Source: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section
4.2, in its empirical form (appendix D), with x_q in place of x.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from pipeline.frontend.graph import Graph
from pipeline.quantization.calibration import Tell, Tensors
from pipeline.quantization.encoding import Encoding
from pipeline.quantization.feeds import Feeds
from pipeline.quantization.parameters import QuantizationParameters
from pipeline.quantization.placement import Layer, Placement


def add_missing_biases(graph: Graph) -> None:
    """Give convolutions and fully connected layers without a bias one of zeros, which can then be corrected."""
    for node in graph.nodes:
        weight = graph.constant(node.inputs[1]) if node.is_op("Conv", "ConvTranspose", "Gemm") else None
        if weight is None or node.input(2):
            continue
        if node.is_op("Gemm"):
            channels = weight.shape[0 if node.attr("transB", 0) else 1]
        elif node.is_op("Conv"):
            channels = weight.shape[0]
        else:
            channels = weight.shape[1] * int(node.attr("group", 1))
        zeros = graph.add_constant(f"{node.name}_bias", np.zeros(channels, np.float32))
        graph.set_inputs(node, [*node.inputs[:2], zeros])


def is_corrected(layer: Layer) -> bool:
    """Whether :func:`correct_biases` corrects this layer: whether it has a constant bias of its own."""
    return bool(layer.bias) and layer.bias_node is None


def correct_biases(graph: Graph, placement: Placement, encoding: Encoding, feeds: Feeds, tell: Tell) -> None:
    """Replace the biases of ``encoding``."""
    layers = [layer for layer in placement.layers if is_corrected(layer)]
    model, shifts = _probe(graph, layers, encoding)
    sums: dict[str, np.ndarray] = {}
    samples = dict.fromkeys(shifts.values(), 0)
    for count, (_, values) in enumerate(Tensors(graph, model, shifts.values(), feeds)):
        for name, value in values.items():
            sums[name] = sums.get(name, np.zeros(value.shape[1])) + value.sum(axis=0, dtype=np.float64)
            samples[name] += len(value)
        tell(1 - 1 / (1 + count / 50))
    for layer in layers:
        bias = graph.constant(layer.bias)
        assert bias is not None
        mean = sums[shifts[layer.name]] / samples[shifts[layer.name]]
        x_scale = encoding.activations[layer.x].scale
        encoding.layers[layer.name] = encoding.layers[layer.name].with_bias(
            (bias.reshape(-1) - mean).astype(np.float32), x_scale
        )


def _probe(graph: Graph, layers: list[Layer], encoding: Encoding) -> tuple[ModelProto, dict[str, str]]:
    """The float model beside each layer on quantised numbers, and by layer the name of the mean difference (N, O)."""
    model = graph.to_model()
    rounded: dict[str, str] = {}
    shifts = {}
    for index, layer in enumerate(layers):
        prefix = f"octet_probe_{index}"
        node = layer.node.to_proto()
        if layer.x not in rounded:
            rounded[layer.x] = _rounded(model, layer.x, encoding.activations[layer.x], f"{prefix}_x")
        numbers = encoding.layers[layer.name]
        weight = numbers.parameters.dequantize(numbers.weight)
        model.graph.initializer.append(numpy_helper.from_array(weight, f"{prefix}_w"))
        node.name = f"{prefix}_layer"
        node.input[0], node.input[1] = rounded[layer.x], f"{prefix}_w"
        result, node.output[0] = node.output[0], f"{prefix}_y"
        difference = helper.make_node("Sub", [f"{prefix}_y", result], [f"{prefix}_difference"])
        model.graph.node.extend([node, difference])
        shifts[layer.name] = f"{prefix}_mean"
        source, target = f"{prefix}_difference", f"{prefix}_mean"
        if layer.node.is_op("Gemm"):
            model.graph.node.append(helper.make_node("Identity", [source], [target]))
        else:
            pooled = f"{prefix}_pooled"
            model.graph.node.append(helper.make_node("GlobalAveragePool", [source], [pooled]))
            model.graph.node.append(helper.make_node("Flatten", [pooled], [target], axis=1))
    return model, shifts


def _rounded(model: ModelProto, name: str, parameters: QuantizationParameters, prefix: str) -> str:
    """Quantise and dequantise a tensor at the end of the model; returns the name of the result."""
    for suffix, value in (("scale", parameters.scale), ("zero_point", parameters.zero_point)):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{prefix}_{suffix}"))
    inputs = [f"{prefix}_scale", f"{prefix}_zero_point"]
    model.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", [name, *inputs], [f"{prefix}_codes"]),
            helper.make_node("DequantizeLinear", [f"{prefix}_codes", *inputs], [f"{prefix}_values"]),
        ]
    )
    return f"{prefix}_values"
