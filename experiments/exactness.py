"""What saturation buys and costs on AVX2: speed and accuracy of Octet beside OpenVINO held to AVX2, in one table.

    python experiments/exactness.py
    python experiments/exactness.py resnet20-cifar10/model_qdq_ort_s8u8_minmax mobilenet_v2 --images 500
    python experiments/exactness.py --only accuracy     # on a busy machine; later, on a quiet one: --only speed

Without VNNI, the fast 8-bit product of AVX2 (vpmaddubsw) saturates at 16 bits; oneDNN in OpenVINO takes it, Octet does
not. Both run the same QDQ files on one thread at batch 1, in turns. Accuracy is measured on real images where a model
has some; the class is compared with what onnxruntime finds with the same file on this CPU, and with OpenVINO where
nothing holds it to AVX2. The last column says whether Octet's libraries for all targets that this CPU can run give the
same bits on all of these images.

The zoo's networks have random weights and see synthetic images: their classes mean nothing, but that they stay the
same does. The real models and images are third-party data that do not come with Octet; see real_data.py. Where they
are missing, their rows are left out, with a remark. Written after each row: FILE.json, and at the end FILE.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments import real_data, zoo
from experiments.agreement import CASES
from experiments.arguments import chosen, positive
from experiments.engines import ENGINES
from experiments.isa_limit import ISA_TARGETS
from experiments.machine import Machine, describe
from experiments.measure import EngineError, EngineProcess, alternate
from experiments.synthetic_images import smooth_images
from pipeline.targets import resolve, supported_by_host

LIBRARIES = ROOT / "build" / "exactness"
RESULTS = Path(__file__).with_name("results")

ISA = "avx2"
ZOO = ("resnet50", "resnet18", "mobilenet_v1", "mobilenet_v2")
ZOO_IMAGES = 256
SPEED, ACCURACY = "speed", "accuracy"

REAL = {f"{case.model}/{Path(case.file).stem}": case for case in CASES}
SUBJECTS = (*ZOO, *REAL)


@dataclass(frozen=True)
class Accuracy:
    """Top-1 in percent, None where the images have no labels; shares of images in percent."""

    images: int
    top1_onnxruntime: float | None
    top1_octet: float | None
    top1_openvino: float | None
    """Held to AVX2."""
    changed_octet: float
    """Images whose class is not onnxruntime's."""
    changed_openvino: float
    """Held to AVX2."""
    changed_openvino_unlimited: float
    targets: list[str]
    """Those of Octet's that were run."""
    same_bits: bool
    """Whether they all gave the same outputs on all images."""


@dataclass(frozen=True)
class Speed:
    """Medians in milliseconds, one thread, batch 1."""

    octet_ms: float
    openvino_ms: float
    ratio: float
    """OpenVINO over Octet, the median over the rounds."""


@dataclass(frozen=True)
class Row:
    accuracy: Accuracy | None = None
    speed: Speed | None = None


class Subject:
    """One QDQ file and its images."""

    def __init__(self, name: str, shared: Path, limit: int | None) -> None:
        """Raises FileNotFoundError where a real model or its images are missing."""
        self.name = name
        self.labels: np.ndarray | None = None
        if name in REAL:
            case = REAL[name]
            self.images, self.labels = real_data.load(case.model, limit, shared)
            self.model = shared / "models" / case.model / case.file
            if not self.model.exists():
                raise FileNotFoundError(f"{self.model} does not exist")
        else:
            self.model = zoo.model_path(name, "qdq")
            self.images = smooth_images(min(limit or ZOO_IMAGES, ZOO_IMAGES), seed=1)
        self._folder = LIBRARIES / name

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.images.shape[1:])

    def library(self, target: str, *, again: bool = True) -> str:
        """Octet's for the target, compiled ``again`` or only where there is none yet."""
        path = self._folder / f"{self.model.stem}-b1-{target}.so"
        if not again and path.exists():
            return str(path)
        with closing(EngineProcess("octet")) as process:
            return str(process.prepare(self.model, self._folder, 1, target, [1])["artefact"])


def targets() -> list[str]:
    """Octet's that this CPU can run, the one under test last."""
    return [name for name in ISA_TARGETS.values() if supported_by_host(resolve(name))]


def measure_accuracy(subject: Subject) -> Accuracy:
    """Raises EngineError where an engine fails."""
    libraries = {target: subject.library(target) for target in targets()}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "images.npy"
        np.save(inputs, subject.images)

        def outputs(engine: str, artefact: str, isa: str | None = None) -> np.ndarray:
            with closing(EngineProcess(engine, isa)) as process:
                process.load(artefact, 1, subject.shape)
                return np.load(process.infer(inputs, Path(folder) / "outputs.npy"), allow_pickle=False)

        model = str(subject.model)
        reference = outputs("onnxruntime-int8", model)
        held, unlimited = outputs("openvino-int8", model, ISA), outputs("openvino-int8", model)
        octet = [outputs("octet", library) for library in libraries.values()]

    def changed(logits: np.ndarray) -> float:
        return float(100 * (logits.argmax(1) != reference.argmax(1)).mean())

    def top1(logits: np.ndarray) -> float | None:
        return None if subject.labels is None else float(100 * (logits.argmax(1) == subject.labels).mean())

    return Accuracy(
        images=len(subject.images),
        top1_onnxruntime=top1(reference),
        top1_octet=top1(octet[-1]),
        top1_openvino=top1(held),
        changed_octet=changed(octet[-1]),
        changed_openvino=changed(held),
        changed_openvino_unlimited=changed(unlimited),
        targets=list(libraries),
        same_bits=all(logits.tobytes() == octet[0].tobytes() for logits in octet[1:]),
    )


def measure_speed(subject: Subject, rounds: int, seconds: float) -> Speed:
    """Of the library that lies in the build folder, compiled where there is none. Raises as ``measure_accuracy``."""
    artefacts = {
        "octet": subject.library(ISA_TARGETS[ISA], again=False),
        "openvino-int8": str(subject.model),
    }
    with ExitStack() as stack:
        processes = {name: stack.enter_context(closing(EngineProcess(name, ISA))) for name in artefacts}
        for name, process in processes.items():
            process.load(artefacts[name], 1, subject.shape)
        timings, failures = alternate(processes, rounds, seconds, "wall")
    if failures:
        raise next(iter(failures.values()))
    octet, openvino = timings.values()
    return Speed(round(octet.median, 4), round(openvino.median, 4), round(openvino.times_slower_than(octet), 4))


def to_markdown(rows: dict[str, Row], machine: Machine, remarks: list[str]) -> str:
    header = ["model", "Octet ms", "OpenVINO ms", "ratio", "images", "top-1 onnxruntime", "top-1 Octet"]
    header += ["top-1 OpenVINO", "other class Octet", "other class OpenVINO", "OpenVINO not held", "same bits"]
    lines = [header, ["---", *["---:"] * (len(header) - 2), "---"]]
    for name, row in rows.items():
        speed, accuracy = row.speed, row.accuracy
        line = [name, *(_number(getattr(speed, key, None)) for key in ("octet_ms", "openvino_ms", "ratio"))]
        if accuracy is None:
            line += ["–"] * (len(header) - len(line))
        else:
            tops = (accuracy.top1_onnxruntime, accuracy.top1_octet, accuracy.top1_openvino)
            changes = (accuracy.changed_octet, accuracy.changed_openvino, accuracy.changed_openvino_unlimited)
            line += [f"{accuracy.images:,}", *map(_number, tops), *(f"{_number(share)} %" for share in changes)]
            line.append("yes" if accuracy.same_bits else "NO")
        lines.append(line)
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    notes = [
        f"{machine.cpu} (family-model-stepping {machine.family_model_stepping}), load {machine.load_average[0]:.2f}",
        f"{machine.date}; {versions}",
        "ms: one thread, batch 1, Octet for llvm-avx2 and OpenVINO held to AVX2, medians of alternating rounds",
        "ratio: OpenVINO's time over Octet's, the median over the rounds; above 1, Octet is faster",
        "other class: share of the images whose class is not the one that onnxruntime finds with the same file",
        "OpenVINO not held: with everything that this CPU has",
        f"same bits: the outputs of Octet's libraries for {', '.join(targets())} on all images",
        *remarks,
    ]
    return table + "\n\n" + "\n".join(f"- {note}" for note in notes)


def write_json(
    path: Path, rows: dict[str, Row], machine: Machine, settings: dict[str, Any], remarks: list[str]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    results = [{"model": name, **asdict(row)} for name, row in rows.items()]
    data = {"machine": machine.to_json(), "settings": settings, "results": results, "remarks": remarks}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> dict[str, Row]:
    """The rows of an earlier call; none where there is no such file."""
    if not path.exists():
        return {}
    rows = {}
    for entry in json.loads(path.read_text(encoding="utf-8"))["results"]:
        accuracy, speed = entry["accuracy"], entry["speed"]
        rows[entry["model"]] = Row(accuracy and Accuracy(**accuracy), speed and Speed(**speed))
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    names = chosen(parser, args.models, SUBJECTS)
    for engine, isa in (("octet", ISA), ("openvino-int8", ISA), ("onnxruntime-int8", None)):
        if reason := ENGINES[engine].unavailable(isa):
            print(f"exactness: {engine}: {reason}", file=sys.stderr)
            return 2
    if ISA_TARGETS[ISA] not in targets():
        print("exactness: this CPU has no AVX2", file=sys.stderr)
        return 2
    machine = describe(["octet", "apache-tvm", "openvino", "onnxruntime"])
    path = args.json or RESULTS / f"exactness-{machine.slug}.json"
    settings = {"images": args.images, "rounds": args.rounds, "seconds_per_slice": args.seconds}
    # What is not measured now stays.
    rows = {name: row for name, row in read_json(path).items() if args.only or name not in names}
    remarks: list[str] = []
    for name, row in _measure(args, names, rows, remarks):
        rows[name] = row
        rows = {key: rows[key] for key in SUBJECTS if key in rows}
        write_json(path, rows, machine, settings, remarks)
    text = to_markdown(rows, machine, remarks)
    path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\nwritten: {path} and {path.with_suffix('.md').name}")
    return 0 if rows else 1


def _measure(
    args: argparse.Namespace, names: list[str], rows: dict[str, Row], remarks: list[str]
) -> Iterator[tuple[str, Row]]:
    """Each row as soon as it is there; what fails is a remark."""
    for name in (bar := tqdm(names, unit="model")):
        bar.set_description(name)
        row = rows.get(name, Row())
        try:
            subject = Subject(name, args.shared, args.images)
            if args.only != SPEED:
                row = replace(row, accuracy=measure_accuracy(subject))
            if args.only != ACCURACY:
                row = replace(row, speed=measure_speed(subject, args.rounds, args.seconds))
        except (FileNotFoundError, EngineError) as error:
            remarks.append(f"{name}: {error}")
            tqdm.write(remarks[-1])
        if row != Row():
            yield name, row


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: all of {', '.join(SUBJECTS)}")
    parser.add_argument(
        "--shared", type=Path, default=real_data.DEFAULT_FOLDER, metavar="DIR", help="models and images"
    )
    parser.add_argument("--images", type=positive, metavar="N", help="only the first N images of each set")
    parser.add_argument("--only", choices=(SPEED, ACCURACY), help="the other half stays as the JSON file has it")
    parser.add_argument("--rounds", type=positive, default=11, metavar="N", help="turns an engine (default: 11)")
    parser.add_argument("--seconds", type=float, default=0.25, metavar="S", help="of a slice (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: experiments/results/exactness-<cpu>.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
