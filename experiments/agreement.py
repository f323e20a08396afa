"""Compares compiled libraries with onnxruntime on real models and real images: the accuracy table of the README.

    python experiments/agreement.py --target llvm-avx2
    python experiments/agreement.py resnet20-cifar10 --limit 1000 --json agreement.json

For every QDQ file it compiles a library and prints top-1 of FP32 and of the QDQ file by onnxruntime, top-1 of the
library, and on how many images the library and onnxruntime choose another class. The last column says whether that
keeps to what Octet promises; the exit code is 1 where it does not. On CPUs without VNNI onnxruntime's own 8-bit
products may saturate, and differences then are not Octet's.

The models and images are third-party data that do not come with Octet; see real_data.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments import real_data
from experiments.arguments import chosen, positive
from experiments.machine import describe
from pipeline.errors import OctetError

LIBRARIES = ROOT / "build" / "agreement"

Network = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Case:
    """One QDQ file, and how far its library may be from onnxruntime."""

    model: str
    file: str
    max_other_class: int | None = None
    """On how many images the class may differ; None: on 0.5 % of them, and top-1 by at most 0.1 point."""

    @property
    def name(self) -> str:
        return f"{self.model}/{self.file}"

    def holds(self, result: Result) -> bool:
        if self.max_other_class is not None:
            return result.other_class <= self.max_other_class
        close = abs(result.top1_octet - result.top1_onnxruntime) <= 0.1 + 1e-9
        return close and result.other_class <= 0.005 * result.images


@dataclass(frozen=True)
class Result:
    """Top-1 figures are in percent."""

    images: int
    top1_fp32: float
    top1_onnxruntime: float
    top1_octet: float
    other_class: int
    """Images on which the library and onnxruntime choose different classes."""
    largest_difference: float
    """Of any output value, as a part of the largest absolute one that onnxruntime gives."""
    compile_seconds: float


# Few images: one close call must not decide, so a count and not a share.
CASES = (
    Case("resnet20-cifar10", "model_qdq_ort_s8u8_minmax.onnx"),
    Case("resnet20-cifar10", "model_qdq_ort_s8s8_entropy.onnx"),
    Case("mlperf-ic-resnet8", "model_qdq.onnx"),
    Case("mobilenetv1-coral-qat", "model_qdq.onnx", max_other_class=2),
    Case("mobilenetv2-keras-ptq", "model_qdq.onnx", max_other_class=2),
    Case("squeezenet1.1", "model_qdq_ort_s8u8_minmax.onnx", max_other_class=2),
    Case("mlperf-vww-mobilenetv1-0.25", "model_qdq.onnx", max_other_class=2),
)
MODELS = tuple(dict.fromkeys(case.model for case in CASES))


def compare(
    case: Case,
    folder: Path,
    target: str = "native",
    batch: int = 1,
    threads: int = 1,
    limit: int | None = None,
    libraries: Path = LIBRARIES,
) -> Result:
    """Compiles the file of ``case`` for ``target`` and runs it, and onnxruntime, on its images (``limit``: the first).

    The library stays in the folder ``libraries``.

    Raises FileNotFoundError where the models are missing, OctetError where the file cannot be compiled or run.
    """
    inputs, labels = real_data.load(case.model, limit, folder)
    models = folder / "models" / case.model
    start = time.perf_counter()
    octet = _octet(
        models / case.file, libraries / f"{case.model}-{Path(case.file).stem}-{target}.so", target, batch, threads
    )
    compile_seconds = time.perf_counter() - start
    networks = {
        "onnxruntime FP32": _onnxruntime(models / "model.onnx", threads),
        "onnxruntime": _onnxruntime(models / case.file, threads),
        "octet": octet,
    }
    fp32, peer, ours = (_run(network, inputs, batch, name) for name, network in networks.items())
    return Result(
        images=len(labels),
        top1_fp32=_top1(fp32, labels),
        top1_onnxruntime=_top1(peer, labels),
        top1_octet=_top1(ours, labels),
        other_class=int((ours.argmax(1) != peer.argmax(1)).sum()),
        largest_difference=float(np.abs(ours - peer).max() / max(np.abs(peer).max(), np.finfo(np.float32).tiny)),
        compile_seconds=compile_seconds,
    )


def to_markdown(results: dict[Case, Result]) -> str:
    lines = [
        "| model | images | top-1 FP32 | onnxruntime INT8 | Octet INT8 | same class | other class | as promised |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for case, r in results.items():
        same = 100 * (1 - r.other_class / r.images)
        lines.append(
            f"| {case.name} | {r.images:,} | {r.top1_fp32:.2f} | {r.top1_onnxruntime:.2f} | {r.top1_octet:.2f} "
            f"| {same:.2f} % | {r.other_class} | {'yes' if case.holds(r) else 'NO'} |"
        )
    return "\n".join(lines)


def to_json(results: dict[Case, Result], settings: dict[str, Any]) -> dict[str, Any]:
    machine = describe(["octet", "apache-tvm", "onnxruntime"]).to_json()
    cases = [
        {"model": case.name, **asdict(result), "as_promised": case.holds(result)} for case, result in results.items()
    ]
    return {"machine": machine, "settings": settings, "results": cases}


def _octet(path: Path, output: Path, target: str, batch: int, threads: int) -> Network:
    import pipeline

    output.parent.mkdir(parents=True, exist_ok=True)
    library = pipeline.compile(path, target=target, output=output, batch=batch)
    model = pipeline.load(library, threads=threads)

    def run(x: np.ndarray) -> np.ndarray:
        # A library has a fixed batch: the last, short one is filled up with its last image.
        filled = np.concatenate([x, np.repeat(x[-1:], batch - len(x), axis=0)])
        return np.asarray(model(filled))[: len(x)]

    return run


def _onnxruntime(path: Path, threads: int) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def _run(network: Network, inputs: np.ndarray, batch: int, name: str) -> np.ndarray:
    """The outputs for all inputs, ``batch`` at a time."""
    starts = tqdm(range(0, len(inputs), batch), desc=name, leave=False, delay=2)
    return np.concatenate([network(inputs[i : i + batch]) for i in starts])


def _top1(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float((outputs.argmax(1) == labels).mean() * 100)


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    chosen_models = chosen(parser, args.models, MODELS)
    results: dict[Case, Result] = {}
    try:
        real_data.check_folder(args.shared)
        for case in CASES:
            if case.model in chosen_models:
                print(f"{case.name} ...", file=sys.stderr, flush=True)
                results[case] = compare(case, args.shared, args.target, args.batch, args.threads, args.limit)
    except (FileNotFoundError, OctetError) as error:
        print(f"agreement: {error}", file=sys.stderr)
        return 2
    print(to_markdown(results))
    if args.json:
        settings = {key: getattr(args, key) for key in ("target", "batch", "threads", "limit")}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(to_json(results, settings), indent=1) + "\n", encoding="utf-8")
    return 0 if all(case.holds(result) for case, result in results.items()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: all of {', '.join(MODELS)}")
    parser.add_argument(
        "--shared", type=Path, default=real_data.DEFAULT_FOLDER, metavar="DIR", help="models and images"
    )
    parser.add_argument("--target", default="native", help="what to compile for (default: this machine's best)")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="images a call (default: 1)")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="default: 1")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images of each set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
