"""Train the embedded model and write the three files beside this script.

    pip install -c requirements/constraints.txt -e '.[train]'
    python examples/digits/train.py

- ``digits_fp32.onnx``: the trained network, BatchNorm kept, opset 17, dynamic batch ``N``;
- ``digits_qdq.onnx``: the same, BatchNorm folded, quantised by onnxruntime's ``quantize_static`` (activations uint8,
  weights int8 with one scale an output channel, calibrated on training images);
- ``heldout.npz``: the images that neither training nor calibration saw, ``images`` uint8 (360, 16, 16) and ``labels``
  uint8 (360,).

The data are scikit-learn's digits, 1797 images of 8x8 in the order in which people wrote them. The last 360 are held
out: they come mostly from other hands than the rest, so this split is harder than a random one. Everything is seeded;
another CPU or torch release may still give other last digits.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.digits.network import DigitsNet

SEED = 20
SIZE = 16
HELD_OUT = 360
EPOCHS = 80
BATCH = 64
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.005
LABEL_SMOOTHING = 0.1
MAX_ROTATION, MAX_SCALE, MAX_SHIFT = 0.2, 0.15, 0.15  # radians, relative, fraction of half the image
CALIBRATION_IMAGES = 256
OPSET = 17


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 (1797, 16, 16) enlarged from 8x8, and their labels, uint8 (1797,)."""
    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in small]
    return np.stack(images), digits.target.astype(np.uint8)


def to_input(images: np.ndarray) -> np.ndarray:
    """Bytes (N, 16, 16) to the network's input, float32 (N, 1, 16, 16) from 0 to 1."""
    return images[:, None].astype(np.float32) / np.float32(255)


def distort(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn, scale and shift each image of the batch a little, at random."""

    def uniform(bound: float) -> torch.Tensor:
        return (torch.rand(len(x), generator=generator) * 2 - 1) * bound

    angle, scale = uniform(MAX_ROTATION), 1 + uniform(MAX_SCALE)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cos, -sin, uniform(MAX_SHIFT)], 1), torch.stack([sin, cos, uniform(MAX_SHIFT)], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def train(images: np.ndarray, labels: np.ndarray) -> DigitsNet:
    """The network after a fixed number of epochs: nothing is chosen by looking at held-out images."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # so that sums do not depend on the number of cores
    generator = torch.Generator().manual_seed(SEED)
    x = torch.from_numpy(to_input(images))
    y = torch.from_numpy(labels.astype(np.int64))
    network = DigitsNet()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        total = 0.0
        batches = torch.randperm(len(x), generator=generator).split(BATCH)[: len(x) // BATCH]
        for chosen in batches:
            logits = network(distort(x[chosen], generator))
            loss = functional.cross_entropy(logits, y[chosen], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"\repoch {epoch + 1}/{EPOCHS}  loss {total / len(batches):.4f}", end="", flush=True)
    print()
    return network.eval()


def export(network: DigitsNet, path: Path) -> None:
    """Write the network as ONNX with a dynamic batch."""
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, SIZE, SIZE),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        opset_version=OPSET,
        training=torch.onnx.TrainingMode.PRESERVE,  # keeps BatchNorm: folding it is for the compiler to do
        do_constant_folding=False,
        dynamo=False,  # the other exporter writes no opset below 18
    )
    onnx.checker.check_model(str(path), full_check=True)


class _Images(CalibrationDataReader):
    """Calibration images one by one, as onnxruntime wants them."""

    def __init__(self, images: np.ndarray) -> None:
        self._inputs: Iterator[np.ndarray] = iter(np.split(to_input(images), len(images)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        x = next(self._inputs, None)
        return None if x is None else {"image": x}


def quantize(source: Path, destination: Path, images: np.ndarray) -> None:
    """Fold BatchNorm, calibrate on ``images`` and write the QDQ model."""
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder, "folded.onnx")
        quant_pre_process(source, folded, skip_symbolic_shape=True)
        quantize_static(
            folded,
            destination,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    onnx.checker.check_model(str(destination), full_check=True)


def accuracy(model: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy of an ONNX file under onnxruntime, in percent."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": to_input(images)})
    return float(100 * np.mean(np.argmax(logits, axis=1) == labels))


def main() -> None:
    """Train, export, quantise, and print what came out."""
    images, labels = load_images()
    training, held_out = slice(None, -HELD_OUT), slice(-HELD_OUT, None)
    fp32, qdq, data = HERE / "digits_fp32.onnx", HERE / "digits_qdq.onnx", HERE / "heldout.npz"
    export(train(images[training], labels[training]), fp32)
    rng = np.random.default_rng(SEED)
    quantize(fp32, qdq, images[rng.choice(len(images) - HELD_OUT, CALIBRATION_IMAGES, replace=False)])
    np.savez_compressed(data, images=images[held_out], labels=labels[held_out])
    for model in (fp32, qdq):
        result = accuracy(model, images[held_out], labels[held_out])
        print(f"{model.name}: {result:.2f} % of {HELD_OUT} held-out images, {model.stat().st_size:,} bytes")
    print(f"{data.name}: {data.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
