"""The quantiser on trained networks and real images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import pipeline
from experiments import real_data
from tests.pipeline.quantization.networks import sqnr

pytestmark = pytest.mark.shared


def _outputs(path: Path, inputs: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: inputs[i : i + 50]})[0] for i in range(0, len(inputs), 50)])


def _input_name(path: Path) -> str:
    return onnx.load(path, load_external_data=False).graph.input[0].name


@pytest.mark.parametrize(
    ("name", "calibrated", "tested", "least"),
    [
        ("resnet20-cifar10", 200, 400, 29.5),
        ("mlperf-ic-resnet8", 200, 400, 33.0),
        ("mlperf-vww-mobilenetv1-0.25", 64, 64, 30.0),
        # Its weights lie on a grid; rounding them anew gives 21 dB.
        ("mobilenetv1-coral-qat", 12, 8, 26.0),
    ],
)
def test_close_to_the_float_model(shared_dir, tmp_path, name, calibrated, tested, least):
    """Other images than those calibrated on. A point of top-1 needs thousands of images; the noise shows sooner."""
    images, _ = real_data.load(name, calibrated + tested, shared_dir)
    path = shared_dir / "models" / name / "model.onnx"
    data = [{_input_name(path): image[None]} for image in images[:calibrated]]
    result = pipeline.quantize(path, data, output=tmp_path / "q.onnx")
    reference, value = _outputs(path, images[calibrated:]), _outputs(result, images[calibrated:])
    assert sqnr(reference, value) > least
    assert (reference.argmax(1) == value.argmax(1)).mean() > 0.97


@pytest.mark.parametrize("name", ["squeezenet1.1", "mlperf-kws-dscnn", "mobilenetv2-keras-ptq"])
def test_everything_is_lowered_to_integers(shared_dir, tmp_path, name):
    path = shared_dir / "models" / name / "model.onnx"
    value = onnx.load(path).graph.input[0]
    shape = [1, *(d.dim_value for d in value.type.tensor_type.shape.dim[1:])]
    data = [{value.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}]
    result = pipeline.quantize(path, data, output=tmp_path / "q.onnx")
    assert [r for r in pipeline.inspect(result) if r.kind != "integer"] == []


_MEASURE = """
import sys
from pathlib import Path
import numpy as np
import pipeline

def data():
    rng = np.random.default_rng(0)
    for _ in range(int(sys.argv[3])):
        yield {"data": rng.normal(0, 60, (1, 3, 227, 227)).astype(np.float32)}

pipeline.quantize(sys.argv[1], data, output=sys.argv[2])
# Not ru_maxrss, in which a process begins with what its parent had.
(peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(peak)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(shared_dir, tmp_path):
    path = shared_dir / "models" / "squeezenet1.1" / "model.onnx"
    peaks = []
    for count in (10, 60):
        command = [sys.executable, "-c", _MEASURE, str(path), str(tmp_path / "q.onnx"), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert max(peaks) < 1024
    assert peaks[1] < peaks[0] + 40, peaks
