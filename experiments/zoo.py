"""Writes the seven ImageNet networks of the speed comparison as FP32 and as QDQ ONNX files.

    python experiments/zoo.py                            all of them, into build/zoo
    python experiments/zoo.py resnet50 alexnet --output DIR --kind fp32

The architectures are true, the weights are seeded random numbers: good for speed and for comparing engines with each
other, meaningless as classifiers. The QDQ files come from onnxruntime's ``quantize_static``: uint8 activations with
zero points, symmetric int8 weights per output channel, min-max ranges of a few synthetic images.
A file that exists is not written again: delete the folder after a change here.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments.architectures import ARCHITECTURES
from experiments.arguments import chosen
from experiments.macs import count_macs
from experiments.synthetic_images import smooth_images

NETWORKS = tuple(ARCHITECTURES)
KINDS = ("fp32", "qdq")
DEFAULT_FOLDER = ROOT / "build" / "zoo"

SEED = 2024
CALIBRATION_IMAGES = 6


def model_path(name: str, kind: str = "fp32", folder: Path = DEFAULT_FOLDER) -> Path:
    """The file of network ``name`` (see NETWORKS), ``kind`` "fp32" or "qdq"; built first where it is missing.

    A build writes beside and renames, so that another process never sees half a file.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown network {name!r}: choose from {', '.join(NETWORKS)}")
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r} of network {name}: choose from {', '.join(KINDS)}")
    path = folder / f"{name}-{kind}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as scratch:
            partial = Path(scratch) / path.name
            if kind == "fp32":
                onnx.save(build(name), partial)
            else:
                _quantize(model_path(name, "fp32", folder), partial)
            partial.replace(path)
    return path


def build(name: str) -> onnx.ModelProto:
    """The FP32 model in memory."""
    return ARCHITECTURES[name](SEED)


def _quantize(source: Path, destination: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = destination.with_suffix(".prepared.onnx")
    # ONNX's own shape inference suffices for these feed-forward networks; the symbolic one would need sympy.
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        destination,
        _calibration_reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibrate_method=CalibrationMethod.MinMax,
    )


def _calibration_reader() -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            images = smooth_images(CALIBRATION_IMAGES, seed=SEED)
            self._batches: Iterator[np.ndarray] = iter(np.split(images, len(images)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"input": batch}

    return Reader()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"default: all of {', '.join(NETWORKS)}")
    parser.add_argument("--output", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--kind", choices=KINDS, default="qdq", help="qdq writes the FP32 file too (default)")
    args = parser.parse_args(argv)
    names = chosen(parser, args.networks, NETWORKS)
    logging.getLogger().setLevel(logging.ERROR)  # quantize_static logs a warning for each step it takes
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name} ... ", end="", flush=True)
        start = time.perf_counter()
        path = model_path(name, args.kind, args.output)
        macs, size = count_macs(onnx.load(path)), path.stat().st_size
        print(f"{macs / 1e6:,.0f} MMAC, {size / 1e6:.1f} MB, {time.perf_counter() - start:.1f} s: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
