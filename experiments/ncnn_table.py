"""Runs ncnn on a calibration table of Octet's, beside Octet on the same table, on real images.

    pip install ncnn
    python experiments/ncnn_table.py --images 100

ncnn's Python package is the runtime alone: the programs that apply a table to a network (ncnn2int8) are not in it, and
the runtime reads no tables. So the network is written here as ncnn2int8 would (see ncnn_files.py): weights rounded to
int8 by the table's scales and the scales themselves behind them. The script prints how often each of these
finds the class of the image, and the class that the float model finds:

- float: SqueezeNet 1.1 in onnxruntime; ncnn float: the same through the files written here, to show that they are right
- ncnn int8: with the table; ncnn int8, activation scales x 8: a wrong table must show, or ncnn does not look at it
- Octet int8, ncnn's way: a library compiled from the same float model and table, that rounds where ncnn does
- Octet int8: the same with Octet's defaults, such as u8, which cuts what is never negative into twice as many steps

The model and the images are third-party data that do not come with Octet; see real_data.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pipeline
from experiments import real_data
from experiments.arguments import positive
from experiments.ncnn_files import NcnnFiles
from pipeline.errors import OctetError
from pipeline.quantization import CalibrationTable, table_of_model

MODEL = "squeezenet1.1"
FOLDER = ROOT / "build" / "ncnn_table"
CALIBRATION_IMAGES = 32
WRONG_FACTOR = 8

NCNNS_WAY = {
    "activations": "s8",
    "symmetric": True,
    "exclude": "GlobalAveragePool|Flatten",  # behind the last Conv ncnn stays in float
    "outputs": "float",
    "bias_correction": False,
    "rounding": "nearest",
}

Network = Callable[[np.ndarray], np.ndarray]
"""One input (3, H, W) to logits."""


def ncnn_network(ncnn: Any, model: ModelProto, stem: Path, table: CalibrationTable | None = None) -> Network:
    """Write the files and load them."""
    param, weights = NcnnFiles(model, table).save(stem)
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.num_threads = 1
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise RuntimeError(f"ncnn {ncnn.__version__} does not load {param}")
    first, last = model.graph.input[0].name, model.graph.output[0].name

    def run(image: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input(first, ncnn.Mat(image).clone())
        status, result = extractor.extract(last)
        if status:
            raise RuntimeError(f"ncnn cannot run {param}: status {status}")
        return np.array(result).reshape(-1)

    return run


def float_network(path: Path) -> Network:
    """The ONNX file in onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image[None]})[0].reshape(-1)


def octet_network(path: Path, calibration: list[dict[str, np.ndarray]], table: Path, name: str, **how: Any) -> Network:
    """Quantised by the table, and compiled for this machine."""
    quantized = pipeline.quantize(path, calibration, output=FOLDER / f"{name}.onnx", table=table, **how)
    library = pipeline.load(pipeline.compile(quantized, output=FOLDER / f"{name}.so", batch=1))
    return lambda image: np.asarray(library(image[None])).reshape(-1)


def make_table(path: Path, calibration: list[dict[str, np.ndarray]], observer: str) -> Path:
    """A table of Octet's for the float model, symmetric as tables are."""
    result = FOLDER / "symmetric.onnx"
    pipeline.quantize(path, calibration, output=result, observer=observer, activations="s8", symmetric=True)
    return table_of_model(result).write(FOLDER / f"{MODEL}.table")


def networks(ncnn: Any, path: Path, calibration: list[dict[str, np.ndarray]], file: Path) -> dict[str, Network]:
    """Everything that is compared, the float model first. ``file``: the table."""
    model, table = onnx.load(path), CalibrationTable.read(file)
    wrong = replace(table, activations={name: s * WRONG_FACTOR for name, s in table.activations.items()})
    return {
        "float (onnxruntime)": float_network(path),
        "ncnn float": ncnn_network(ncnn, model, FOLDER / "float"),
        "ncnn int8": ncnn_network(ncnn, model, FOLDER / "int8", table),
        f"ncnn int8, activation scales x {WRONG_FACTOR}": ncnn_network(ncnn, model, FOLDER / "wrong", wrong),
        "Octet int8, ncnn's way": octet_network(path, calibration, file, "ncnns_way", **NCNNS_WAY),
        "Octet int8": octet_network(path, calibration, file, "octet"),
    }


def report(results: dict[str, np.ndarray], labels: np.ndarray) -> str:
    """A Markdown table; ``results``: logits (N, C) by name, the float model first."""
    reference = next(iter(results.values()))
    lines = ["| | top-1 % | class as float % | SQNR dB |", "|---|---|---|---|"]
    for name, logits in results.items():
        noise = np.square(logits - reference).sum(dtype=np.float64)
        signal = np.square(reference).sum(dtype=np.float64)
        sqnr = f"{10 * np.log10(signal / noise):.1f}" if noise else "-"
        classes = logits.argmax(axis=1)
        as_float = (classes == reference.argmax(axis=1)).mean()
        lines.append(f"| {name} | {100 * (classes == labels).mean():.1f} | {100 * as_float:.1f} | {sqnr} |")
    ours = [name for name in results if name.startswith("Octet")]
    same = [(results["ncnn int8"].argmax(axis=1) == results[name].argmax(axis=1)).sum() for name in ours]
    pairs = zip(ours, same, strict=True)
    agreed = [f"ncnn int8 and {name}: same class on {count} of {len(labels)} images" for name, count in pairs]
    return "\n".join([*lines, "", *agreed])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive, default=100, help="images to run, none of them calibrated on")
    parser.add_argument("--observer", default="kl-ncnn", help="how the table's thresholds are chosen")
    parser.add_argument("--table", type=Path, help="use this table instead of one made here")
    parser.add_argument("--shared", type=Path, default=real_data.DEFAULT_FOLDER, help="the folder of third-party data")
    options = parser.parse_args(arguments)
    try:
        import ncnn
    except ImportError:
        print("skipped: ncnn is not installed (pip install ncnn)")
        return 0
    try:
        images, labels = real_data.load(MODEL, CALIBRATION_IMAGES + options.images, options.shared)
        path = options.shared / "models" / MODEL / "model.onnx"
        name = onnx.load(path, load_external_data=False).graph.input[0].name
        calibration = [{name: image[None]} for image in images[:CALIBRATION_IMAGES]]
        FOLDER.mkdir(parents=True, exist_ok=True)
        table = options.table or make_table(path, calibration, options.observer)
        compared = networks(ncnn, path, calibration, table)
    except FileNotFoundError as error:
        print(f"skipped: {error}")
        return 0
    except OctetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rest = images[CALIBRATION_IMAGES:]
    results = {name: np.stack([network(image) for image in rest]) for name, network in compared.items()}
    origin = options.table or f"by {options.observer} of {CALIBRATION_IMAGES} images"
    print(f"{MODEL}, ncnn {ncnn.__version__}, table {origin}\n")
    print(report(results, labels[CALIBRATION_IMAGES:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
