"""Real QDQ models become integer from end to end and agree with onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.frontend import import_model, load_model
from tests import numpy_reference
from tests.pipeline.passes.integer.qdq import lower_module, onnxruntime_outputs

MODELS = {
    "resnet20-cifar10/model_qdq_ort_s8u8_minmax": 1.0,
    "resnet20-cifar10/model_qdq_ort_s8s8_entropy": 1.0,
    "mlperf-ic-resnet8/model_qdq": 60.0,
    "mlperf-kws-dscnn/model_qdq": 30.0,
    "mlperf-vww-mobilenetv1-0.25/model_qdq": 0.5,
    "mobilenetv1-coral-qat/model_qdq": 0.5,
    "mobilenetv2-keras-ptq/model_qdq": 0.5,
    "squeezenet1.1/model_qdq_ort_s8u8_minmax": 60.0,
}
"""File, and the size of values that its preprocessing gives."""

INTEGER_OPERATORS = ("octet.", "relax.reshape", "relax.strided_slice", "relax.nn.pad", "relax.concat")

pytestmark = pytest.mark.shared


@pytest.mark.parametrize("name", MODELS)
def test_everything_is_integer_and_agrees_with_onnxruntime(name: str, shared_dir: Path) -> None:
    """Guards the whole lowering: no float operator is left, and smooth images give onnxruntime's scores."""
    path = shared_dir / "models" / f"{name}.onnx"
    lowered = lower_module(import_model(load_model(path)).module)
    assert not lowered.float_operators
    assert all(operator.startswith(INTEGER_OPERATORS) for operator in lowered.operators)
    assert lowered.operators["octet.quantize"] == 1

    model = onnx.load(path)
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    for seed in range(2):
        image = _smooth_image(shape, seed) * np.float32(MODELS[name])
        (expected,) = onnxruntime_outputs(model, [image])
        result = numpy_reference.run(lowered.module, image)
        spread = float(np.ptp(expected))
        assert np.abs(result - expected).max() <= 0.06 * spread
        assert result.argmax() == expected.argmax() or np.ptp(np.sort(expected.ravel())[-2:]) <= 0.06 * spread


def _smooth_image(shape: list[int], seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Low frequencies and a little noise, near a standard deviation of 1, as in photographs."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.linspace(0, 2 * np.pi, size)[:, None] for size in shape[-2:])
    image = np.zeros(shape)
    for frequency in range(1, 5):
        phases = rng.uniform(0, 2 * np.pi, (2, *shape[:-2], 1, 1))
        image += np.sin(frequency * rows + phases[0]) * np.cos(frequency * columns.T + phases[1]) / frequency
    return (image + 0.1 * rng.standard_normal(shape)).astype(np.float32)
