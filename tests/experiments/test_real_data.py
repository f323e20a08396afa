"""The readers of real images reproduce the accuracies that others published for these models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from experiments import real_data

# (model, file, images, top-1 in percent by onnxruntime)
KNOWN_ACCURACY = [
    ("resnet20-cifar10", "model_qdq_ort_s8u8_minmax.onnx", 10_000, 91.69),
    ("mlperf-ic-resnet8", "model_qdq.onnx", 10_000, 87.02),
    ("mlperf-vww-mobilenetv1-0.25", "model_qdq.onnx", 128, 85.16),
    ("squeezenet1.1", "model.onnx", 249, 67.5),
    ("mobilenetv1-coral-qat", "model_qdq.onnx", 249, 88.8),
    ("mobilenetv2-keras-ptq", "model_qdq.onnx", 249, 90.4),
]


@pytest.mark.shared
@pytest.mark.parametrize(("model", "file", "images", "top1"), KNOWN_ACCURACY, ids=[row[0] for row in KNOWN_ACCURACY])
def test_preprocessing_gives_the_known_accuracy(
    model: str, file: str, images: int, top1: float, shared_dir: Path
) -> None:
    """A wrong mean, channel order, crop or class offset costs points."""
    inputs, labels = real_data.load(model, folder=shared_dir)
    assert (inputs.dtype.name, labels.dtype.name) == ("float32", "int64")
    assert len(inputs) == len(labels) == images
    session = onnxruntime.InferenceSession(shared_dir / "models" / model / file)
    name = session.get_inputs()[0].name
    outputs = np.concatenate([session.run(None, {name: inputs[i : i + 100]})[0] for i in range(0, images, 100)])
    tolerance = 0.02 if images == 10_000 else 0.5
    assert (outputs.argmax(1) == labels).mean() * 100 == pytest.approx(top1, abs=tolerance)


def test_recipes_read_archives_and_jpegs(tmp_path: Path) -> None:
    """Each kind of image folder, without the real one: shapes, order, limit, class offset."""
    for name in ("models", "data/cifar10", "data/imagenet-samples"):
        (tmp_path / name).mkdir(parents=True)
    images = np.arange(3 * 32 * 32 * 3, dtype=np.uint8).reshape(3, 32, 32, 3)
    np.savez(tmp_path / "data/cifar10/test10k.npz", images=images, labels=np.array([4, 5, 6], np.uint8))
    np.savez(tmp_path / "data/cifar10/train2k.npz", images=images[:1], labels=np.array([9], np.uint8))
    inputs, labels = real_data.load("mlperf-ic-resnet8", limit=2, folder=tmp_path)
    assert labels.tolist() == [4, 5]
    assert np.array_equal(inputs, images[:2].transpose(0, 3, 1, 2))

    wide = np.zeros((300, 600, 3), np.uint8)
    wide[:, 300:] = (200, 0, 0)  # the right half is red
    Image.fromarray(wide).save(tmp_path / "data/imagenet-samples/a b.jpg", quality=100, subsampling=0)
    (tmp_path / "data/imagenet-samples/labels.txt").write_text("a b.jpg 7\n")
    cropped, labels = real_data.load("mobilenetv2-keras-ptq", folder=tmp_path)
    assert (cropped.shape, labels.tolist()) == ((1, 3, 224, 224), [8])
    assert cropped[0, 0, :, :110].max() < -0.9
    assert cropped[0, 0, :, 114:].min() > 0.5
    squashed, labels = real_data.load("squeezenet1.1", folder=tmp_path)
    assert (squashed.shape, labels.tolist()) == ((1, 3, 227, 227), [7])
    assert squashed[0, 2, 0, -1] == pytest.approx(200 - 123, abs=3), "red is the last channel of BGR"


def test_missing_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="OCTET_SHARED"):
        real_data.load("squeezenet1.1", folder=tmp_path)
