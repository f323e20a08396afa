"""The embedded model: what the repository ships is what its training script promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = REPOSITORY / "examples" / "digits"
MODELS = ("digits_fp32.onnx", "digits_qdq.onnx")


def _held_out() -> tuple[np.ndarray, np.ndarray]:
    with np.load(DIGITS / "heldout.npz", allow_pickle=False) as data:
        return data["images"], data["labels"]


def _accuracy(name: str) -> float:
    images, labels = _held_out()
    session = ort.InferenceSession(str(DIGITS / name), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images[:, None].astype(np.float32) / 255})
    return float(100 * np.mean(np.argmax(logits, axis=1) == labels))


@pytest.mark.parametrize("name", MODELS)
def test_model_is_valid_onnx_with_a_dynamic_batch(name: str) -> None:
    """A newer exporter could raise the opset or freeze the batch without anybody noticing."""
    model = onnx.load(DIGITS / name)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.version for entry in model.opset_import if entry.domain == ""} == {17}
    (image,) = model.graph.input
    dimensions = image.type.tensor_type.shape.dim
    assert dimensions[0].dim_param == "N"
    assert [d.dim_value for d in dimensions[1:]] == [1, 16, 16]


def test_float_model_keeps_batch_norm() -> None:
    """Folding it is for the compiler to do: an exporter that folds it leaves that path without its example."""
    operators = [node.op_type for node in onnx.load(DIGITS / "digits_fp32.onnx").graph.node]
    assert operators.count("BatchNormalization") == operators.count("Conv") == 9


def test_quantised_model_has_uint8_activations_and_int8_weights_per_channel() -> None:
    """The defaults of quantize_static changed before: per-tensor weights would cost accuracy in silence."""
    model = onnx.load(DIGITS / "digits_qdq.onnx")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    for conv in (node for node in model.graph.node if node.op_type == "Conv"):
        activation, weight = producers[conv.input[0]], producers[conv.input[1]]
        assert constants[activation.input[2]].data_type == onnx.TensorProto.UINT8
        stored, scale = constants[weight.input[0]], constants[weight.input[1]]
        assert stored.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [stored.dims[0]]


def test_held_out_images_are_bytes_of_every_class() -> None:
    images, labels = _held_out()
    assert images.dtype == labels.dtype == np.uint8
    assert images.shape == (360, 16, 16)
    assert np.bincount(labels, minlength=10).min() >= 30


def test_quantisation_costs_less_than_a_point() -> None:
    float_accuracy, quantised = (_accuracy(name) for name in MODELS)
    assert float_accuracy > 98
    assert abs(float_accuracy - quantised) < 1


def test_files_stay_small_enough_for_the_repository() -> None:
    assert sum((DIGITS / name).stat().st_size for name in (*MODELS, "heldout.npz")) < 400_000
