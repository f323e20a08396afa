"""Compile a model for this machine, run it, and compare it with onnxruntime.

Without a model: the embedded one, on the held-out images beside it. With one: your ONNX file, on the samples of
``--data`` (an .npz with one array for each input by name, first dimension the sample, and optionally ``labels``) or on
random ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pipeline
from examples.comparison import (
    Agreement,
    Network,
    Samples,
    accuracy,
    compare,
    octet_network,
    onnxruntime_network,
    output_steps,
    read_samples,
    run_all,
    time_in_turns,
)
from pipeline.compiler import OperatorReport
from pipeline.errors import InputError, OctetError

DIGITS = ROOT / "examples" / "digits"
BUILD = ROOT / "build" / "demo"
RANDOM_SAMPLES = 16
TIMED_SECONDS = 6.0
MAX_REASONS = 10


@dataclass(frozen=True)
class Engine:
    """One line of the table: a network, the file it comes from, and what runs it."""

    name: str
    file: Path
    network: Network


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 2 if the model, the data or the target is no good, else 0."""
    options = _parse(arguments)
    try:
        if options.model is None:
            model, reference = DIGITS / "digits_qdq.onnx", DIGITS / "digits_fp32.onnx"
        else:
            model, reference = options.model, None
        demo(model, reference, options)
    except OctetError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


def demo(path: Path, reference: Path | None, options: argparse.Namespace) -> None:
    """Compile ``path``, run it, print the report; ``reference`` is the same network in FP32, if there is one."""
    reports = pipeline.inspect(path, batch=options.batch, shapes=_shapes(options.shape))
    library, seconds = _compile(path, options)
    model = pipeline.load(library, threads=options.threads)
    samples = _samples(model, options)
    batch = model.inputs[0].shape[0] if model.inputs and model.inputs[0].shape else 1
    batches = samples.batches(batch)
    if not batches:
        raise InputError(f"{len(samples)} samples are too few: the model's batch is {batch}")

    kind = " INT8" if any(report.kind == "integer" for report in reports) else ""
    ours = Engine("Octet" + kind, library, octet_network(model))
    peer = Engine("onnxruntime" + kind, path, _peer(path, options.threads))
    engines = [peer, ours]
    if reference is not None:
        engines.insert(0, Engine("onnxruntime FP32", reference, _peer(reference, options.threads)))
    results = {engine.name: run_all(engine.network, batches) for engine in engines}
    latencies = time_in_turns({engine.name: engine.network for engine in engines}, batches[0], options.seconds)

    print(f"{path.name} for {model.manifest.target}, {model.threads} thread(s), compiled in {seconds:.1f} s\n")
    latency = "one sample" if batch == 1 else f"batch of {batch}"
    print(f"  {'':18}{'accuracy':>10}{latency:>16}{'speed':>9}{'file':>12}")
    for engine in engines:
        scores = next(iter(results[engine.name].values()))
        right = _accuracy(scores, samples.labels)
        speed = latencies[peer.name] / latencies[engine.name]
        size = engine.file.stat().st_size / 1e3
        print(f"  {engine.name:18}{right:>10}{latencies[engine.name]:>13.3f} ms{speed:>8.2f}x{size:>9,.0f} kB")
    print("  latency: median of calls from Python, the engines taking turns; speed: against onnxruntime, same file\n")
    steps = output_steps(path)
    for name in results[peer.name]:
        _print_agreement(name, compare(results[ours.name][name], results[peer.name][name], steps.get(name)))
    if options.model is not None and options.data is None:
        print("  these samples are random numbers: give real ones with DATA=samples.npz (arrays by input name, labels)")
    print()
    _print_operators(reports)
    _print_next(library, options)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="your ONNX file; without it, the embedded digits network")
    parser.add_argument("--data", type=Path, help=".npz with your samples; without it, random numbers")
    parser.add_argument("--target", default="native", help="what to compile for (default: this machine)")
    parser.add_argument("--threads", type=int, default=1, help="threads for both engines (default: 1)")
    parser.add_argument("--batch", type=int, help="batch, where the model leaves it open (default: 1)")
    parser.add_argument(
        "--shape", action="append", default=[], metavar="NAME=1,3,224,224", help="shape of an input left open"
    )
    parser.add_argument("--seconds", type=float, default=TIMED_SECONDS, help="time to spend on measuring latency")
    parser.add_argument("--output", type=Path, help="where the library goes (default: build/demo/)")
    return parser.parse_args(arguments)


def _compile(path: Path, options: argparse.Namespace) -> tuple[Path, float]:
    output = options.output or BUILD / f"{path.stem}.so"
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with tqdm(total=100, bar_format="{desc:20}{bar:40} {percentage:3.0f}%", leave=False, disable=None) as bar:

        def progress(phase: str, share: float) -> None:
            bar.set_description_str(phase, refresh=False)
            bar.update(round(100 * share) - bar.n)

        library = pipeline.compile(
            path,
            target=options.target,
            output=output,
            batch=options.batch,
            shapes=_shapes(options.shape),
            progress=progress,
        )
    return library, time.perf_counter() - start


def _shapes(texts: list[str]) -> dict[str, list[int]] | None:
    shapes = {}
    for text in texts:
        name, _, dimensions = text.rpartition("=")
        if not name or not all(part.isdecimal() for part in dimensions.split(",")):
            raise InputError(f"--shape {text}: write NAME=1,3,224,224")
        shapes[name] = [int(part) for part in dimensions.split(",")]
    return shapes or None


def _samples(model: Any, options: argparse.Namespace) -> Samples:
    """The user's samples, the held-out images, or random ones that fit."""
    if options.data is not None:
        return read_samples(options.data, [info.name for info in model.inputs])
    if options.model is None:
        with np.load(DIGITS / "heldout.npz", allow_pickle=False) as data:
            return Samples({"image": data["images"][:, None].astype(np.float32) / np.float32(255)}, data["labels"])
    draws = [model.random_inputs(seed) for seed in range(RANDOM_SAMPLES)]
    return Samples({info.name: np.concatenate([draw[info.name] for draw in draws]) for info in model.inputs})


def _peer(path: Path, threads: int) -> Network:
    try:
        return onnxruntime_network(path, threads)
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise InputError(f"Octet compiled {path}, but onnxruntime, to compare with, refuses it: {error}") from error


def _accuracy(scores: np.ndarray, labels: np.ndarray | None) -> str:
    return "" if labels is None or scores.ndim != 2 else f"{accuracy(scores, labels):.2f} %"


def _print_agreement(name: str, found: Agreement) -> None:
    parts = []
    if found.same_class is not None:
        share = 100 * found.same_class / found.samples
        parts.append(f"the same class for {found.same_class} of {found.samples} samples ({share:.2f} %)")
    if found.steps is not None:
        parts.append(f"at most {found.steps} quantisation step(s) apart")
    else:
        parts.append(f"largest difference {found.difference:.3g}")
    print(f"  {name}, against onnxruntime: {', '.join(parts)}")


def _print_operators(reports: list[OperatorReport]) -> None:
    in_float = [report for report in reports if report.kind == "float"]
    counts = Counter(report.op_type for report in reports if report.kind == "integer")
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    print(f"  in integer arithmetic: {len(reports) - len(in_float)} of {len(reports)} operators ({listed or 'none'})")
    for report in in_float[:MAX_REASONS]:
        print(f"  in float: {report.op_type} {report.name}: {report.reason}")
    if len(in_float) > MAX_REASONS:
        print(f"  and {len(in_float) - MAX_REASONS} more in float: see `octet inspect`")
    if not counts:
        print("  this model is not quantised; give a QDQ file, which onnxruntime's quantize_static writes, for example")
    print()


def _print_next(library: Path, options: argparse.Namespace) -> None:
    shown = library.relative_to(Path.cwd()) if library.is_relative_to(Path.cwd()) else library
    octet = ".venv/bin/octet"
    print("Next:")
    if options.model is None:
        print("  make demo MODEL=your_qdq.onnx [DATA=samples.npz]   the same for a model of yours")
    mine = "" if options.model is None else f"MODEL={options.model} "
    print(f"  make demo {mine}TARGET=llvm-avx2      for older CPUs: slower, and the same numbers bit for bit")
    print(f"  {octet} inspect {shown}")
    print(f"  {octet} bench {shown} --threads 2")
    print(f'  .venv/bin/python -c "import pipeline; print(pipeline.load({str(shown)!r}).inputs)"')


if __name__ == "__main__":
    sys.exit(main())
