"""Measures how accurate quantised models are: models × observers × symmetry × granularity × bits of the weights.

    python experiments/accuracy.py                                   every study of every model: some two hours
    python experiments/accuracy.py resnet20-cifar10 --study peers --limit 2000
    python experiments/accuracy.py squeezenet1.1 --study bits --bits 8 4 --json results.json --update

The QDQ files of Octet's quantiser, and of onnxruntime's on the same calibration images, run in onnxruntime. That of
Octet's default is compiled and run as a library, too, and held to that. It also runs in onnxruntime without its graph
optimisations, operator by operator as ONNX defines them, and the library is held to that as well: what differs between
the two is how far onnxruntime agrees with itself.

No image is both calibrated on and tested on: CIFAR-10 has a training set for the former, the other sets are cut in two
halves that change places. Those sets are small, so that the rows that are compared with onnxruntime are measured with
five such splits, and their figures are means over them (repeated cross-validation: Kim, "Estimating classification
error rate: Repeated cross-validation, repeated hold-out and bootstrap", Computational Statistics & Data Analysis 53,
2009). Visual wake words, the smallest set, has been measured with --splits 20.

The exit code is 1 where something does not hold that the last table lists.

The models and images are third-party data that do not come with Octet; see real_data.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments import peer_quantizer, real_data
from experiments.accuracy_report import Results, Score, draw, read_json, to_markdown, verdicts, write_json
from experiments.accuracy_rows import DEFAULT, OCTET, REFERENCE, STUDIES, Row, rows_of
from experiments.arguments import chosen, positive
from pipeline.errors import OctetError

CALIBRATION_IMAGES = 500
SPLITS = 5
BATCH = 25

Network = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Fold:
    """Images to calibrate on, and the positions of others in the set, to test with."""

    source: np.ndarray
    """float32 NCHW."""
    calibration: np.ndarray
    """Positions in ``source``."""
    test: np.ndarray


class Study:
    """One model, its images and the outputs of the FP32 file, which all rows are compared with."""

    def __init__(
        self,
        model: str,
        folder: Path,
        limit: int | None = None,
        calibration: int = CALIBRATION_IMAGES,
        splits: int = SPLITS,
    ) -> None:
        """At most ``limit`` images, and ``calibration`` a fold. Raises FileNotFoundError without the data."""
        self.model = model
        self.path = real_data.check_folder(folder) / "models" / model / "model.onnx"
        self._inputs, self._labels = real_data.load(model, limit, folder)
        training = real_data.load_training(model, calibration, folder)
        self._splits = (
            halvings(self._inputs, calibration, splits)
            if training is None
            else [[Fold(training, np.arange(len(training)), np.arange(len(self._inputs)))]]
        )
        self._right: dict[Row, np.ndarray] = {}
        self._float = _outputs(onnxruntime_network(self.path), self._inputs, "FP32")

    def reference(self) -> Score:
        """The FP32 model's."""
        return self._score(self._float[None])

    def measure(self, row: Row, library_target: str | None = None, splits: int = 1) -> Score:
        """Quantise as ``row`` says, once a fold of the first ``splits`` splits, and run on the fold's test images.

        With a target, the file is compiled for it and run as a library as well. Raises OctetError.
        """
        chosen_splits = self._splits[:splits]
        outputs, library, literal = (np.empty((len(chosen_splits), *self._float.shape), np.float32) for _ in range(3))
        seconds = 0.0
        with tempfile.TemporaryDirectory(prefix="octet-accuracy-") as scratch:
            file = Path(scratch) / "quantized.onnx"
            for index, fold in ((index, fold) for index, split in enumerate(chosen_splits) for fold in split):
                start = time.perf_counter()
                quantize(self.path, fold.source[fold.calibration], file, row)
                seconds += time.perf_counter() - start
                inputs, place = self._inputs[fold.test], (index, fold.test)
                outputs[place] = _outputs(onnxruntime_network(file), inputs, row.name)
                if library_target:
                    library[place] = _outputs(library_network(file, library_target), inputs, "library", batch=1)
                    one_by_one = onnxruntime_network(file, optimise=False)
                    literal[place] = _outputs(one_by_one, inputs, "operator by operator")
        self._right[row] = outputs.argmax(-1) == self._labels
        score = replace(self._score(outputs), quantize_seconds=round(seconds, 1))
        return self._with_library(score, outputs, library, literal) if library_target else score

    def beside_default(self, row: Row, score: Score) -> Score:
        """The score with the images that either this row or the default alone gets right; both must be measured."""
        ours = self._right[row]
        default = self._right[DEFAULT][: len(ours)]
        alone, default_alone = (tuple(map(int, x.sum(1))) for x in (ours & ~default, default & ~ours))
        return replace(score, right_alone=alone, default_right_alone=default_alone)

    def _score(self, outputs: np.ndarray) -> Score:
        """Of outputs (splits, images, classes)."""
        classes = outputs.argmax(-1)
        folds = self._splits[0]
        return Score(
            images=len(self._labels),
            right=_by_split(classes == self._labels),
            same_class=_by_split(classes == self._float.argmax(-1)),
            sqnr_db=sqnr(np.broadcast_to(self._float, outputs.shape), outputs),
            folds=len(folds),
            calibration_images=max(len(fold.calibration) for fold in folds),
        )

    def _with_library(self, score: Score, outputs: np.ndarray, library: np.ndarray, literal: np.ndarray) -> Score:
        classes, compiled, one_by_one = (x.argmax(-1) for x in (outputs, library, literal))
        return replace(
            score,
            library_right=_by_split(compiled == self._labels),
            library_other_class=_by_split(compiled != classes),
            literal_right=_by_split(one_by_one == self._labels),
            literal_other_class=_by_split(one_by_one != classes),
        )


def halvings(images: np.ndarray, calibration: int, splits: int) -> list[list[Fold]]:
    """``splits`` times two folds, whose halves of the images change places.

    The halves of the first take turns through the set, whose classes come in order; those of the others are random.
    """
    found = []
    for split in range(splits):
        count = len(images)
        order = np.random.default_rng(split).permutation(count) if split else np.arange(count)
        halves = order[::2], order[1::2]
        found.append([Fold(images, a[:calibration], b) for a, b in (halves, halves[::-1])])
    return found


def _by_split(images: np.ndarray) -> tuple[int, ...]:
    """How many images of each split (splits, images) are True."""
    return tuple(map(int, images.sum(1)))


def quantize(model: Path, images: np.ndarray, output: Path, row: Row) -> None:
    """Write the QDQ file that ``row`` describes, calibrated on ``images``."""
    if row.quantizer != OCTET:
        peer_quantizer.quantize(model, images, output, method=row.method, per_channel=row.granularity == "per-channel")
        return
    import pipeline

    name = _input_name(model)
    pipeline.quantize(
        model,
        lambda: ({name: batch} for batch in _batches(images, BATCH)),
        output=output,
        observer=row.method,
        symmetric=row.symmetric,
        weights=row.granularity,
        weight_bits=row.bits,
        weight_range=row.weight_range,
    )


def onnxruntime_network(path: Path, optimise: bool = True) -> Network:
    """The file in onnxruntime on one thread; without optimising, each operator as the ONNX specification defines it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def library_network(path: Path, target: str) -> Network:
    """The file compiled for ``target``, on one thread, one image a call."""
    import pipeline

    library = pipeline.compile(path, target=target, output=path.with_suffix(".so"), batch=1)
    model = pipeline.load(library, threads=1)
    return lambda x: np.array(model(x))


def sqnr(reference: np.ndarray, outputs: np.ndarray) -> float:
    """Signal to quantisation noise in dB; at most 200, where nothing differs."""
    signal, noise = (float(np.square(x, dtype=np.float64).sum()) for x in (reference, outputs - reference))
    return round(200.0 if noise <= signal * 1e-20 else 10 * float(np.log10(signal / noise)), 2)


def _outputs(network: Network, inputs: np.ndarray, name: str, batch: int = BATCH) -> np.ndarray:
    steps = tqdm(_batches(inputs, batch), total=-(-len(inputs) // batch), desc=name, leave=False, delay=2)
    return np.concatenate([network(x) for x in steps])


def _batches(inputs: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (inputs[start : start + size] for start in range(0, len(inputs), size))


def _input_name(model: Path) -> str:
    import onnx

    return onnx.load(model).graph.input[0].name


def run(args: argparse.Namespace, models: list[str], rows: list[Row]) -> Results:
    """Measure every row of every model; the files of results are written anew after each model."""
    results = read_json(args.json) if args.json and args.update else {}
    for model in models:
        study = Study(model, args.shared, args.limit, args.calibration, args.splits)
        scores = {REFERENCE: study.reference()}
        for row in tqdm(rows, desc=model, unit="row"):
            target = args.target if row == DEFAULT and not args.no_library else None
            scores[row] = study.measure(row, target, args.splits if row in STUDIES["peers"] else 1)
            tqdm.write(f"{model}, {row.name}: {scores[row].top1:.2f} %", file=sys.stderr)
        if DEFAULT in scores:
            scores |= {row: study.beside_default(row, scores[row]) for row in rows if row != DEFAULT}
        kept = {row: score for row, score in results.get(model, {}).items() if row not in scores}
        results[model] = _in_order({**kept, **scores})
        write(args, results)
    return results


def write(args: argparse.Namespace, results: Results) -> None:
    """The files that the command line asks for."""
    if args.json and not args.redraw:
        settings = {key: getattr(args, key) for key in ("limit", "calibration", "splits", "target")}
        write_json(results, settings, args.json)
    if args.figure:
        draw(results, args.figure)
    if args.markdown:
        args.markdown.parent.mkdir(parents=True, exist_ok=True)
        args.markdown.write_text(to_markdown(results) + "\n", encoding="utf-8")


def _in_order(scores: dict[Row, Score]) -> dict[Row, Score]:
    order = [REFERENCE, *rows_of(list(STUDIES))]
    return {row: scores[row] for row in order if row in scores}


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    models = chosen(parser, args.models, tuple(real_data.RECIPES))
    rows = rows_of(args.study)
    if args.bits:
        rows = [row for row in rows if row.bits in args.bits]
    if args.rows:
        rows = [row for row in rows if row.name in chosen(parser, args.rows, [row.name for row in rows])]
    if (args.update or args.redraw) and not args.json:
        parser.error("--update and --redraw need --json FILE, whose results they take")
    try:
        if args.redraw:
            results = read_json(args.json)
            write(args, results)
        else:
            results = run(args, models, rows)
    except (FileNotFoundError, OctetError) as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2
    print(to_markdown(results))
    return 0 if all(verdict["holds"] for verdict in verdicts(results)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join(real_data.RECIPES)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: all of {known}")
    parser.add_argument(
        "--shared", type=Path, default=real_data.DEFAULT_FOLDER, metavar="DIR", help="models and images"
    )
    parser.add_argument("--study", nargs="+", choices=STUDIES, default=list(STUDIES), help="default: all")
    parser.add_argument("--bits", nargs="+", type=positive, metavar="N", help="only rows with weights of N bits")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only rows of these names, as progress shows them")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N test images of each set")
    parser.add_argument(
        "--calibration", type=positive, default=CALIBRATION_IMAGES, metavar="N",
        help="calibrate on N images a fold at most (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--splits", type=positive, default=SPLITS, metavar="N",
        help="of the sets without images for training, in the rows of the study peers (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--target", default="native", help="what the default is compiled for (default: %(default)s)")
    parser.add_argument("--no-library", action="store_true", help="do not compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw them here (PNG)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here, which are printed anyway")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: take the results of --json FILE")
    parser.add_argument("--update", action="store_true", help="keep what --json FILE says of other rows")
    return parser


if __name__ == "__main__":
    sys.exit(main())
