"""Which tensor is which, where tools rename, fold and drop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.comparison.matching import match_tensors
from pipeline.frontend import load_model

DIGITS = Path(__file__).resolve().parents[3] / "examples" / "digits"
RNG = np.random.default_rng(0)
WEIGHTS = [RNG.standard_normal((4, 4, 3, 3)).astype("float32") for _ in range(3)]


class Builder:
    """An ONNX graph of one input, node by node; quantised tensors get Q and DQ nodes."""

    def __init__(self, *, quantised: bool) -> None:
        self.quantised = quantised
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def op(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"n_{output}", **attributes))
        return output

    def quantise(self, name: str) -> str:
        """Behind ``name``: its dequantised version."""
        if not self.quantised:
            return name
        scale = self.constant(f"{name}_s", np.array(0.1, "float32"))
        zero = self.constant(f"{name}_z", np.array(3, "uint8"))
        self.op("QuantizeLinear", [name, scale, zero], f"{name}_q")
        return self.op("DequantizeLinear", [f"{name}_q", scale, zero], f"{name}_dq")

    def conv(self, x: str, weight: int, output: str) -> str:
        value = WEIGHTS[weight]
        name = f"w_{output}"
        if self.quantised:
            scale = (np.abs(value).max(axis=(1, 2, 3)) / 127).astype("float32")
            codes = np.rint(value / scale[:, None, None, None]).astype("int8")
            parts = [self.constant(f"{name}_q", codes), self.constant(f"{name}_s", scale)]
            parts.append(self.constant(f"{name}_z", np.zeros(4, "int8")))
            self.op("DequantizeLinear", parts, name, axis=0)
        else:
            self.constant(name, value)
        return self.op("Conv", [x, name], output, pads=[1, 1, 1, 1])

    def model(self, folder: Path, output: str) -> onnx.ModelProto:
        info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("x", output)]
        graph = helper.make_graph(self.nodes, "g", info[:1], info[1:], self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = folder / f"{self.quantised}.onnx"
        onnx.save(made, path)
        return load_model(path)


def network(
    folder: Path, *, quantised: bool, prefix: str, order: tuple[int, int] = (0, 1), relu: bool = True
) -> onnx.ModelProto:
    """A residual block: two convolutions with Relu, whose Relu a quantised model may do without, then an Add."""
    b = Builder(quantised=quantised)
    x = b.quantise("x")
    for index, weight in enumerate(order):
        name = b.conv(x, weight, f"{prefix}{2 * index}")
        if relu or index == 1:
            name = b.op("Relu", [name], f"{prefix}{2 * index + 1}")
        previous, x = x, b.quantise(name)
    total = b.op("Add", [x, previous], f"{prefix}9")
    return b.model(folder, b.quantise(total))


def pairs(reference: onnx.ModelProto, quantised: onnx.ModelProto) -> dict[str, str]:
    return {pair.counterpart: pair.reference for pair in match_tensors(reference, quantised).pairs}


@pytest.mark.parametrize("relu", [True, False], ids=["Relu kept", "Relu dropped"])
@pytest.mark.parametrize("prefix", ["t", "other"], ids=["same names", "other names"])
def test_renamed_and_fused(tmp_path, prefix, relu):
    """The counterpart is what comes after the Relu, be it in the quantised file or not."""
    reference = network(tmp_path, quantised=False, prefix="t")
    quantised = network(tmp_path, quantised=True, prefix=prefix, relu=relu)
    first = f"{prefix}1_dq" if relu else f"{prefix}0_dq"
    assert pairs(reference, quantised) == {"x_dq": "x", first: "t1", f"{prefix}3_dq": "t3", f"{prefix}9_dq": "t9"}


def test_same_names_for_other_layers(tmp_path):
    """A tool that numbers anew gives t1 to another layer: comparing by name would blame a sound model."""
    reference = network(tmp_path, quantised=False, prefix="t", order=(0, 1))
    quantised = network(tmp_path, quantised=True, prefix="t", order=(1, 0))
    found = pairs(reference, quantised)
    assert found["t1_dq"] == "t3"
    assert found["t3_dq"] == "t1"


def test_other_model(tmp_path):
    """Nothing but the input is the same, and the outputs are taken for it."""
    reference = network(tmp_path, quantised=False, prefix="t", order=(0, 0))
    quantised = network(tmp_path, quantised=True, prefix="t", order=(2, 2))
    matching = match_tensors(reference, quantised)
    assert [(pair.reference, pair.counterpart) for pair in matching.pairs] == [("x", "x_dq"), ("t9", "t9_dq")]
    assert (matching.unmatched_quantised, matching.unmatched_reference) == (2, 2)
    assert not matching.related


def test_layers_with_equal_weights(tmp_path):
    """Twins are told apart by their names, else by their order."""
    for prefix in ("t", "other"):
        found = pairs(
            network(tmp_path, quantised=False, prefix="t", order=(0, 0)),
            network(tmp_path, quantised=True, prefix=prefix, order=(0, 0)),
        )
        assert found[f"{prefix}1_dq"] == "t1"
        assert found[f"{prefix}3_dq"] == "t3"


def test_folded_batch_norm():
    """The digits network: BatchNormalization folded, Relu dropped, tensors in the order of the network."""
    matching = match_tensors(load_model(DIGITS / "digits_fp32.onnx"), load_model(DIGITS / "digits_qdq.onnx"))
    names = [pair.reference for pair in matching.pairs]
    assert (len(names), matching.unmatched_quantised, matching.unmatched_reference) == (16, 0, 0)
    assert (names[0], names[1], names[-1]) == ("image", "/stem/stem.1/Relu_output_0", "logits")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("folder", "file", "count"),
    [
        ("resnet20-cifar10", "model_qdq_ort_s8u8_minmax.onnx", 36),
        ("mlperf-ic-resnet8", "model_qdq.onnx", 15),
        ("squeezenet1.1", "model_qdq_ort_s8u8_minmax.onnx", 40),
        ("mobilenetv2-keras-ptq", "model_qdq.onnx", 66),
        ("mobilenetv1-coral-qat", "model_qdq.onnx", 31),
        ("mlperf-vww-mobilenetv1-0.25", "model_qdq.onnx", 31),
        ("mlperf-kws-dscnn", "model_qdq.onnx", 13),
    ],
)
def test_files_of_other_tools(shared_dir, folder, file, count):
    """Every quantised activation finds its counterpart, though five of these files share no names, and so does the
    output, which four of them leave in float."""
    models = shared_dir / "models" / folder
    matching = match_tensors(load_model(models / "model.onnx"), load_model(models / file))
    assert (len(matching.pairs), matching.unmatched_quantised) == (count, 0)
