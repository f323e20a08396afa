"""Networks that other tools have quantised: load, same answer, import."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from pipeline.errors import UnsupportedOperatorError
from pipeline.frontend import import_model, load_model
from pipeline.frontend.operators import IMPORTED
from tests.pipeline.frontend.models import constants, run

pytestmark = pytest.mark.shared

# File → typical values of the input, so that random data reaches every layer.
QDQ_MODELS = {
    "mlperf-ic-resnet8/model_qdq.onnx": (128, 64),
    "mlperf-kws-dscnn/model_qdq.onnx": (0, 20),
    "mlperf-vww-mobilenetv1-0.25/model_qdq.onnx": (0.5, 0.3),
    "mobilenetv1-coral-qat/model_qdq.onnx": (0, 0.5),
    "mobilenetv2-keras-ptq/model_qdq.onnx": (0, 0.5),
    "resnet20-cifar10/model_qdq_ort_s8s8_entropy.onnx": (0, 1),
    "resnet20-cifar10/model_qdq_ort_s8u8_minmax.onnx": (0, 1),
    "squeezenet1.1/model_qdq_ort_s8u8_minmax.onnx": (0, 60),
}


@pytest.mark.parametrize("name", QDQ_MODELS)
def test_quantised_model(shared_dir, name):
    path = shared_dir / "models" / name
    original, loaded = onnx.load(path), load_model(path, batch=2)
    mean, spread = QDQ_MODELS[name]
    shape = [d.dim_value for d in loaded.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(mean, spread, shape).astype(np.float32)
    (expected,), (actual,) = (run(model, {loaded.graph.input[0].name: x}) for model in (original, loaded))
    # Every rewrite that these models need is exact.
    np.testing.assert_array_equal(actual, expected)
    known = constants(loaded)
    weights = [known[n.input[0]] for n in loaded.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in known]
    convolutions = [n for n in loaded.graph.node if n.op_type in ("Conv", "Gemm")]
    assert sum(value.dtype != np.int32 for value in weights) >= len(convolutions)
    imported = import_model(loaded)
    named = set(imported.node_names.values())
    assert {n.name for n in loaded.graph.node} <= named
    assert imported.outputs[0].shape[0] == 2


@pytest.mark.parametrize("name", ["resnet20-cifar10", "mobilenetv2-keras-ptq", "squeezenet1.1"])
def test_float_model(shared_dir, name):
    """The same networks before quantisation: BatchNorm folds away, everything that is left can be imported."""
    path = shared_dir / "models" / name / "model.onnx"
    loaded = load_model(path)
    assert {(n.domain, n.op_type) for n in loaded.graph.node} <= IMPORTED - {("", "BatchNormalization")}
    shape = [d.dim_value for d in loaded.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (expected,), (actual,) = (run(model, {loaded.graph.input[0].name: x}) for model in (onnx.load(path), loaded))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_lstm_is_refused_by_name(shared_dir):
    with pytest.raises(UnsupportedOperatorError, match=r"LSTM_5.*LSTM"):
        load_model(shared_dir / "models" / "lstm-mnist-coral-ptq" / "model.onnx")
