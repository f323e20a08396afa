"""Builds convolutional networks node by node as FP32 ONNX, with seeded weights and without a training framework.

Every convolution carries its weights in the form a deployed network has: BatchNorm is already folded in, so each
output channel has its own weight scale and a bias. Weights are He-initialised, which keeps the activations of a deep
network in a range that calibration can work with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # the one that belongs to opset 17; every engine we compare with reads it

# Spread of gamma/sqrt(var) of folded BatchNorms: per-channel weight scales differ as they do in trained networks.
CHANNEL_GAIN = (0.6, 1.4)
BIAS_STD = 0.1


class GraphBuilder:
    """Appends layers to one ONNX graph. Each method takes and returns the name of an NCHW (or N x features) tensor."""

    def __init__(self, name: str, channels: int = 3, size: int = 224, seed: int = 0) -> None:
        self._name = name
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._channels: dict[str, int] = {"input": channels}
        self._input = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", channels, size, size])
        self.input = "input"

    def conv(
        self,
        x: str,
        filters: int,
        kernel: int,
        stride: int = 1,
        pad: int = 0,
        groups: int = 1,
        activation: str | None = "relu",
        gain: float = 1.0,
    ) -> str:
        """Convolution with bias, then ``activation``: ``"relu"``, ``"relu6"`` or None. ``gain`` scales the weights."""
        shape = (filters, self._channels[x] // groups, kernel, kernel)
        y = self._emit(
            "Conv",
            [x, *self._weight_and_bias(shape, rectified=activation is not None, gain=gain)],
            filters,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            group=groups,
        )
        if activation == "relu":
            return self.relu(y)
        if activation == "relu6":
            low, high = self._constant(np.float32(0.0)), self._constant(np.float32(6.0))
            return self._emit("Clip", [y, low, high], filters)
        return y

    def linear(self, x: str, inputs: int, outputs: int, activation: str | None = None) -> str:
        """Fully connected layer on an (N, ``inputs``) tensor, weights stored (outputs, inputs)."""
        weight, bias = self._weight_and_bias((outputs, inputs), rectified=activation is not None)
        y = self._emit("Gemm", [x, weight, bias], outputs, transB=1)
        return self.relu(y) if activation == "relu" else y

    def relu(self, x: str) -> str:
        return self._emit("Relu", [x], self._channels[x])

    def add(self, a: str, b: str) -> str:
        return self._emit("Add", [a, b], self._channels[a])

    def concat(self, *xs: str) -> str:
        return self._emit("Concat", list(xs), sum(self._channels[x] for x in xs), axis=1)

    def max_pool(self, x: str, kernel: int, stride: int, pad: int = 0, ceil: bool = False) -> str:
        return self._emit(
            "MaxPool",
            [x],
            self._channels[x],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            ceil_mode=int(ceil),
        )

    def global_average_pool(self, x: str) -> str:
        return self._emit("GlobalAveragePool", [x], self._channels[x])

    def flatten(self, x: str) -> str:
        return self._emit("Flatten", [x], self._channels[x], axis=1)

    def finish(self, output: str) -> onnx.ModelProto:
        """The checked model. The batch dimension is called ``N`` at both ends."""
        last = self._nodes[-1]
        if output != last.output[0]:
            raise ValueError(f"{self._name}: the output must be the last layer {last.output[0]!r}, not {output!r}")
        last.output[0] = "output"
        features = self._channels[output]
        graph = helper.make_graph(
            self._nodes,
            self._name,
            [self._input],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", features])],
            self._initializers,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="octet-zoo", ir_version=IR_VERSION
        )
        onnx.checker.check_model(model)
        return model

    def _weight_and_bias(self, shape: Sequence[int], rectified: bool, gain: float = 1.0) -> tuple[str, str]:
        """Weights whose output has the second moment of the input: a rectifier halves it, hence the 2."""
        std = math.sqrt((2.0 if rectified else 1.0) / math.prod(shape[1:]))
        weight = self._rng.standard_normal(shape, dtype=np.float32) * np.float32(std * gain)
        per_channel = self._rng.uniform(*CHANNEL_GAIN, size=(shape[0],) + (1,) * (len(shape) - 1))
        bias = self._rng.standard_normal(shape[0], dtype=np.float32) * np.float32(BIAS_STD)
        return self._constant(weight * per_channel.astype(np.float32)), self._constant(bias)

    def _constant(self, value: np.ndarray | np.float32) -> str:
        name = f"c{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _emit(self, op_type: str, inputs: Sequence[str], channels: int, **attributes: Any) -> str:
        name = f"{op_type.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        self._channels[name] = channels
        return name
