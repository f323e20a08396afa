"""The zoo's FP32 ONNX files as PyTorch modules with the same weights, in the form that torch.fx and Inductor like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

if TYPE_CHECKING:
    import torch

RELU6 = 6.0


class UnsupportedOperatorError(ValueError):
    """A node of the file has no counterpart here; the message names it."""


def torch_network(path: Path) -> torch.fx.GraphModule:
    """The FP32 file ``path`` in evaluation mode: one module for each node, torch functions for Add and Concat.

    Raises UnsupportedOperatorError for what the zoo has no use for.
    """
    import torch

    model = onnx.load(path)
    constants = {t.name: np.array(numpy_helper.to_array(t)) for t in model.graph.initializer}
    modules: dict[str, torch.nn.Module] = {}
    graph = torch.fx.Graph()
    values = {i.name: graph.placeholder(i.name) for i in model.graph.input if i.name not in constants}
    for node in model.graph.node:
        operands = tuple(values[name] for name in node.input if name in values)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Add" and len(operands) == 2:
            values[node.output[0]] = graph.call_function(torch.add, operands)
        elif node.op_type == "Concat":
            values[node.output[0]] = graph.call_function(torch.cat, (operands, attributes["axis"]))
        else:
            name = node.name or node.output[0]
            modules[name] = _module(node, attributes, [constants[i] for i in node.input if i in constants])
            values[node.output[0]] = graph.call_module(name, operands)
    graph.output(values[model.graph.output[0].name])
    return torch.fx.GraphModule(modules, graph, class_name=model.graph.name).eval()


def _module(node: NodeProto, attributes: dict[str, Any], constants: list[np.ndarray]) -> torch.nn.Module:
    makers: dict[str, Callable[..., torch.nn.Module]] = {
        "Conv": _convolution,
        "Gemm": _linear,
        "Clip": _clip,
        "MaxPool": _max_pool,
        "Relu": lambda *_: _layers().ReLU(),
        "GlobalAveragePool": lambda *_: _layers().AdaptiveAvgPool2d(1),
        "Flatten": lambda *_: _layers().Flatten(1),
    }
    if node.op_type not in makers:
        raise UnsupportedOperatorError(f"{node.name}: {node.op_type} is not translated to PyTorch")
    return makers[node.op_type](attributes, *constants)


def _convolution(attributes: dict[str, Any], weight: np.ndarray, bias: np.ndarray) -> torch.nn.Module:
    groups = attributes["group"]
    size = weight.shape[2:]
    module = _layers().Conv2d(
        weight.shape[1] * groups, len(weight), size, attributes["strides"], _border(attributes), groups=groups
    )
    return _with_weights(module, weight, bias)


def _linear(attributes: dict[str, Any], weight: np.ndarray, bias: np.ndarray) -> torch.nn.Module:
    if not attributes.get("transB"):
        weight = weight.T
    return _with_weights(_layers().Linear(weight.shape[1], weight.shape[0]), weight, bias)


def _clip(_: dict[str, Any], low: np.ndarray, high: np.ndarray) -> torch.nn.Module:
    if (float(low), float(high)) != (0, RELU6):
        raise UnsupportedOperatorError(f"Clip to [{low}, {high}] is not translated to PyTorch, only ReLU6")
    return _layers().ReLU6()


def _max_pool(attributes: dict[str, Any]) -> torch.nn.Module:
    return _layers().MaxPool2d(
        attributes["kernel_shape"],
        attributes["strides"],
        _border(attributes),
        ceil_mode=bool(attributes.get("ceil_mode")),
    )


def _border(attributes: dict[str, Any]) -> list[int]:
    pads = attributes["pads"]
    if pads[:2] != pads[2:]:
        raise UnsupportedOperatorError(f"padding {pads} differs between the two ends: PyTorch has one number for both")
    return list(pads[:2])


def _with_weights(module: Any, weight: np.ndarray, bias: np.ndarray) -> torch.nn.Module:
    import torch

    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        module.bias.copy_(torch.from_numpy(bias))
    return module


def _layers() -> Any:
    import torch

    return torch.nn
